/**
 * `pnpm check`: everything that can be said about the code without running it. Each gate also runs alone: `pnpm check lint imports`.
 */
import { styleText } from 'node:util'

import { importFaults } from './gates/imports.ts'
import { packedPackagesReport, releaseGroupFaults } from './gates/packed-packages.ts'
import { runCommand } from './gates/run-command.ts'

interface GateResult {
  readonly ok: boolean
  /** Shown under the gate; what is wrong, or a warning. */
  readonly output: string
}

const GATES: Readonly<Record<string, { about: string; run: () => Promise<GateResult> }>> = {
  types: {
    about: 'tsc, with tests, examples and scripts',
    run: () => runCommand('tsc', ['-p', 'tsconfig.json']),
  },
  build: {
    about: 'tsc -b, as published',
    run: () => runCommand('tsc', ['-b', 'tsconfig.build.json']),
  },
  lint: {
    about: 'oxlint with types; enterWith is banned',
    run: () => runCommand('oxlint', ['--deny-warnings', '--format=unix']),
  },
  format: {
    about: 'biome, with the order of imports',
    run: () => runCommand('biome', ['check', '--reporter=summary', '--error-on-warnings']),
  },
  unused: {
    about: 'knip: unused files, exports and dependencies; cycles',
    run: () => runCommand('knip', ['--no-progress', '--no-config-hints']),
  },
  imports: {
    about: 'direction of imports between packages',
    run: async () => asResult(importFaults()),
  },
  packages: {
    about: 'packed archives: manifest, files, publint, attw, import and require',
    run: async () => {
      const { faults, warnings } = await packedPackagesReport()
      return asResult(
        [...faults, ...releaseGroupFaults()],
        warnings.map((warning) => `warning: ${warning}`),
      )
    },
  },
}

function asResult(faults: readonly string[], remarks: readonly string[] = []): GateResult {
  return { ok: faults.length === 0, output: [...faults, ...remarks].join('\n') }
}

const asked = process.argv.slice(2)
const unknown = asked.filter((name) => !Object.hasOwn(GATES, name))
if (unknown.length > 0) {
  console.error(`No such gate: ${unknown.join(', ')}. There are: ${Object.keys(GATES).join(', ')}.`)
  process.exit(2)
}

const failed: string[] = []
for (const [name, { about, run }] of Object.entries(GATES)) {
  if (asked.length > 0 && !asked.includes(name)) continue
  const start = performance.now()
  const { ok, output } = await run()
  const seconds = ((performance.now() - start) / 1_000).toFixed(1)
  const mark = ok ? styleText('green', 'ok    ') : styleText('red', 'FAILED')
  console.log(`${mark} ${name.padEnd(9)} ${seconds.padStart(5)} s  ${styleText('dim', about)}`)
  const shown = ok ? warningsOf(output) : output
  if (shown.trim() !== '') console.log(shown.trimEnd().replace(/^/gm, '       '))
  if (!ok) failed.push(name)
}

/** A gate that passed has nothing to tell but its warnings. */
function warningsOf(output: string): string {
  return output
    .split('\n')
    .filter((line) => line.startsWith('warning: '))
    .join('\n')
}

if (failed.length > 0) {
  console.error(
    `\n${failed.length} failed: ${failed.join(', ')}. Again: pnpm check ${failed.join(' ')}`,
  )
  process.exitCode = 1
}
