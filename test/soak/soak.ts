import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { createTestDatabase, seededRandom, startTestServers } from '@partywall/test-support'
import { runSoak } from './chinook-soak.ts'

/**
 * The soak at any length: `node --conditions=source test/soak/soak.ts --units 10000000 --tenants 50`. Uses the Postgres of PARTYWALL_TEST_POSTGRES_URL, or starts one. Exits with 1 on a single
 * foreign row. Zero in N units bounds the rate of leaks at 3/N with 95 % confidence.
 */
const env = process.env
const { values } = parseArgs({
  options: {
    units: { type: 'string', default: env['PARTYWALL_SOAK_UNITS'] ?? '100000' },
    minutes: { type: 'string', default: env['PARTYWALL_SOAK_MINUTES'] ?? '600' },
    tenants: { type: 'string', default: '20' },
    connections: { type: 'string', default: '4' },
    'in-flight': { type: 'string', default: '32' },
  },
})
const whole = (name: keyof typeof values): number => {
  const number = Number(values[name])
  if (Number.isInteger(number) && number > 0) return number
  process.stderr.write(`--${name} must be a positive whole number, got "${values[name]}".\n`)
  return process.exit(2)
}
const units = whole('units')
const folder =
  env['PARTYWALL_CHINOOK'] ?? new URL('../../../shared/data/chinook', import.meta.url).pathname
const file = `${folder}/chinook.sql`
if (!existsSync(file)) {
  process.stderr.write(
    `${file} is not there. Set PARTYWALL_CHINOOK to the folder of chinook.sql.\n`,
  )
  process.exit(2)
}

await using servers = await startTestServers()
env['PARTYWALL_TEST_POSTGRES_URL'] = servers.postgresUrl
await using db = await createTestDatabase()
const started = performance.now()
const seconds = (): string => `${Math.round((performance.now() - started) / 1000)} s`
const result = await runSoak({
  db,
  chinook: await readFile(file, 'utf8'),
  random: seededRandom(),
  units,
  maxMs: whole('minutes') * 60_000,
  tenants: whole('tenants'),
  connections: whole('connections'),
  inFlight: whole('in-flight'),
  onProgress: (done, mismatches) => {
    process.stdout.write(`${seconds()}: ${done} of ${units} units, ${mismatches} mismatches\n`)
  },
})
process.stdout.write(
  `${result.units} units in ${seconds()}, ${result.mismatches.length} mismatches, ${result.destroyed} connections destroyed; leaks per unit below ${(3 / result.units).toExponential(1)} (95 %)\n`,
)
for (const mismatch of result.mismatches) process.stdout.write(`${mismatch}\n`)
if (result.mismatches.length > 0) process.exitCode = 1
