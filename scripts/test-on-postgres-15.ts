/**
 * `pnpm test:postgres15`: runs the isolation suites of the database on PostgreSQL 15, the oldest that is supported; `pnpm test` runs them on 18. More arguments go to vitest: `pnpm test:postgres15 packages/postgres/src` adds the
 * tests of that package. The programs are those of Debian's package
 * postgresql-15, or in the directory that `PARTYWALL_POSTGRES_15_BIN` names. Where there are none, it says so and succeeds.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'

import { ROOT } from './gates/run-command.ts'

const SUITES = [
  'test/isolation/clone',
  'test/isolation/database',
  'test/isolation/doctor',
  'test/isolation/pooler',
  'test/isolation/roles',
  'test/isolation/row',
  'test/isolation/strategies',
]

const bin = process.env['PARTYWALL_POSTGRES_15_BIN'] ?? '/usr/lib/postgresql/15/bin'
if (!existsSync(join(bin, 'postgres'))) {
  console.log(
    `NOT RUN on PostgreSQL 15: there are no programs in ${bin}. Debian: apt-get install postgresql-15; elsewhere, set PARTYWALL_POSTGRES_15_BIN.`,
  )
  process.exit(0)
}
const child = spawn(
  process.execPath,
  [join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', ...SUITES, ...process.argv.slice(2)],
  {
    cwd: ROOT,
    stdio: 'inherit',
    env: {
      ...process.env,
      PARTYWALL_TEST_POSTGRES_BIN: bin,
      PARTYWALL_TEST_POSTGRES_URL: '',
    },
  },
)
const [code] = (await once(child, 'close')) as [number | null]
process.exitCode = code ?? 1
