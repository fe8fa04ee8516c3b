import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createTestDatabase, seededRandom } from '@partywall/test-support'
import { expect, it } from 'vitest'
import { runSoak } from '../soak/chinook-soak.ts'

/** The Chinook sample database is not part of this repository; it lies beside it, or where the variable says. */
const folder =
  process.env['PARTYWALL_CHINOOK'] ??
  new URL('../../../shared/data/chinook', import.meta.url).pathname
const file = `${folder}/chinook.sql`
const UNITS = 250_000

it.skipIf(!existsSync(file))(
  `D1 K7 soak: ${UNITS} statements and cache operations of 20 tenants over 4 connections, no foreign row${existsSync(file) ? '' : ' (skipped: chinook.sql not found, set PARTYWALL_CHINOOK)'}`,
  async () => {
    await using db = await createTestDatabase()
    const result = await runSoak({
      db,
      chinook: await readFile(file, 'utf8'),
      random: seededRandom(),
      units: UNITS,
      maxMs: 240_000,
      tenants: 20,
      connections: 4,
      inFlight: 32,
    })
    process.stdout.write(
      `soak: ${result.units} units, load ${Math.round(result.loadMs)} ms, run ${Math.round(result.runMs)} ms, ${Math.round(result.units / (result.runMs / 1000))} units/s\n`,
    )
    expect(result.mismatches).toEqual([])
    expect(result.units).toBeGreaterThanOrEqual(UNITS)
    expect(result.destroyed).toBe(0)
  },
  300_000,
)
