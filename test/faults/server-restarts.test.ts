import { setTimeout as sleep } from 'node:timers/promises'
import type { TenantPool } from '@partywall/postgres'
import {
  createRestartablePostgres,
  outcomeOf,
  type RestartablePostgres,
  type StopMode,
} from '@partywall/test-support'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import {
  countsOf,
  createVariantWorld,
  VARIANTS,
  type VariantWorld,
} from '../isolation/variant-world.ts'
import { expectNominal, RECOVERY_MS, within } from './fault-fixture.ts'
import { expectExactLedger, expectExplained, startTraffic, type Traffic } from './traffic.ts'

let server: RestartablePostgres
let world: VariantWorld

beforeAll(async () => {
  server = await createRestartablePostgres()
})
afterAll(() => server[Symbol.asyncDispose]())

/** What a connection is told that is made while the server comes up or goes down. */
const NOT_YET = /^57P03$|^ECONNREFUSED$|^ERR_TENANCY_DATABASE_UNAVAILABLE$/

describe.each([VARIANTS.schema, VARIANTS.role])('F4 $name: the server goes away', (variant) => {
  beforeAll(async () => {
    world = await createVariantWorld(variant, server.url)
  })
  afterAll(() => world[Symbol.asyncDispose]())
  beforeEach(() => world.clearLogs())

  const open = (max: number): TenantPool => {
    const pool = world.openPool({ max })
    onTestFinished(() => void pool.end())
    return pool
  }
  const report = (traffic: Traffic): void => {
    expect(traffic.crossed).toEqual([])
    expectExplained(traffic, NOT_YET)
    // A unit is told at once, not when something times out.
    expect(traffic.slowestMs).toBeLessThan(RECOVERY_MS)
  }
  const count = (traffic: Traffic, told: string): number =>
    [...traffic.written.values()].filter((value) => value === told).length

  it.each(
    variant.poolSizes.flatMap((max) =>
      (['fast', 'immediate', 'kill'] as StopMode[]).map((mode) => ({ max, mode })),
    ),
  )(
    'F4 pool of $max, $mode, under mixed load: errors in time, back within 5 s, every acknowledged write is there',
    async ({ max, mode }) => {
      const pool = open(max)
      const stop = new AbortController()
      const traffic = startTraffic(world, pool, { callers: 12, until: stop.signal })
      await sleep(250)
      await server.stop(mode)
      await sleep(100)
      // Nobody hangs while there is no server.
      expect(
        await within(2_000, outcomeOf(world.as(world.tenants[0], () => pool.query('select 1')))),
      ).toBe('gone')
      await server.start()
      const begun = performance.now()
      await expectNominalUnderLoad(pool)
      expect(performance.now() - begun).toBeLessThan(RECOVERY_MS)
      await sleep(150)
      stop.abort()
      await within(RECOVERY_MS, traffic.ended)
      report(traffic)
      expect(traffic.errors.length).toBeGreaterThan(0)
      expect(count(traffic, 'acknowledged')).toBeGreaterThan(10)
      await expectNominal(world, pool)
      await expectExactLedger(world, traffic)
    },
  )

  it('F4 one session is killed by SIGKILL: the server breaks off all of them, and comes back by itself', async () => {
    const pool = open(4)
    const stop = new AbortController()
    const traffic = startTraffic(world, pool, { callers: 12, until: stop.signal })
    await sleep(150)
    const { rows } = await world.db.query<{ pid: number }>(
      'select pid from pg_stat_activity where application_name = $1 limit 1',
      [world.application],
    )
    process.kill(rows[0]?.pid ?? 0, 'SIGKILL')
    await sleep(50)
    await expectNominalUnderLoad(pool)
    await sleep(100)
    stop.abort()
    await within(RECOVERY_MS, traffic.ended)
    report(traffic)
    expect(traffic.errors.length).toBeGreaterThan(0)
    await expectNominal(world, pool)
    await expectExactLedger(world, traffic)
  })

  it('F4 a server that is not there at first: errors, and no restart of the process', async () => {
    await server.stop('fast')
    const pool = open(4)
    for (let n = 0; n < 3; n++)
      for (const id of world.tenants)
        expect(
          await within(2_000, outcomeOf(world.as(id, () => pool.query('select owner from item')))),
        ).toBe('gone')
    expect(countsOf(pool).total).toBe(0)
    await server.start()
    await expectNominal(world, pool)
  })

  /** Every tenant works again, while others still ask. */
  async function expectNominalUnderLoad(pool: TenantPool): Promise<void> {
    const deadline = performance.now() + RECOVERY_MS
    for (const id of world.tenants)
      for (;;) {
        const outcome = await outcomeOf(
          world.as(id, () => pool.query('select owner from item where id = $1', [1])),
        )
        if (outcome === 'fulfilled') break
        if (performance.now() > deadline) expect(outcome).toBe('fulfilled')
        await sleep(20)
      }
  }
})
