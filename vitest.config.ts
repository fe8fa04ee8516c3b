import { availableParallelism } from 'node:os'

import { defineConfig } from 'vitest/config'

import { plantPlugin } from './test/planted/plant-plugin.ts'
import { CountReporter } from './test/support/src/count-reporter.ts'

export default defineConfig({
  plugins: [plantPlugin()],
  // Workspace packages are imported from their sources: no build before a test, and errors point at real lines.
  resolve: { conditions: ['source'] },
  ssr: { resolve: { conditions: ['source'], externalConditions: ['source'] } },
  test: {
    include: ['packages/*/src/**/*.test.ts', 'examples/*/src/**/*.test.ts', 'test/**/*.test.ts'],
    globalSetup: ['test/global-setup.ts'],
    // One process per file: no module state, no context and no warning of one file reaches another.
    pool: 'forks',
    // What Node itself loads in a worker, or in a process that a test forks, comes from the sources as well.
    execArgv: ['--conditions=source'],
    // One worker per core, and two where there is one only: most tests wait for a server.
    maxWorkers: Math.max(2, availableParallelism()),
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // An unhandled rejection fails the run, and a test marked `only` must not reach the main branch.
    dangerouslyIgnoreUnhandledErrors: false,
    allowOnly: !process.env['CI'],
    reporters: ['default', new CountReporter()],
  },
})
