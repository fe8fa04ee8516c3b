import type { TenantPool } from '@partywall/postgres'
import { createFaultProxy, eventually, type FaultProxy, outcomeOf } from '@partywall/test-support'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { createVariantWorld, VARIANTS, type VariantWorld } from '../isolation/variant-world.ts'
import { backendOf, expectNominal, expectOwnRows, terminate, within } from './fault-fixture.ts'
import { leasedStates, untilRunning } from './leased-states.ts'

let world: VariantWorld
let proxy: FaultProxy

/** How a leased connection breaks. */
const BREAKS: Record<string, (pid: number) => Promise<void> | void> = {
  'ended by the server': (pid) => terminate(world, pid),
  'reset by the network': () => proxy.end('reset'),
  'closed by the network': () => proxy.end('close'),
}

describe.each(Object.values(VARIANTS))('F2 $name: leased connections that break', (variant) => {
  beforeAll(async () => {
    world = await createVariantWorld(variant)
    proxy = await createFaultProxy(world.url)
  })
  afterAll(async () => {
    await world[Symbol.asyncDispose]()
    await proxy[Symbol.asyncDispose]()
  })
  beforeEach(async () => {
    // What a failed test left running would hold its locks.
    await world.db.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and wait_event = 'PgSleep'",
      [world.application],
    )
    await world.clearLogs()
    world.destroyed.length = 0
  })

  const open = (max: number, options = {}): TenantPool => {
    const pool = world.openPool({ max, connectionString: proxy.url, ...options })
    onTestFinished(() => void pool.end())
    return pool
  }

  // The ways of a network to break differ for the driver, not for the variant.
  const breaks = variant === VARIANTS.schema ? Object.keys(BREAKS) : ['ended by the server']
  const cases = variant.poolSizes.flatMap((max) =>
    breaks.flatMap((how) => leasedStates(variant).map((state) => ({ max, how, state }))),
  )
  it.each(cases)('F2 pool of $max, $how: $state.name', async ({ max, how, state }) => {
    const [acme, globex, zeta] = world.tenants
    const pool = open(max)
    const breakIt = BREAKS[how] as (typeof BREAKS)[string]
    // A connection that has worked before: what is prepared on it is not prepared on the next one.
    await expectOwnRows(world, pool, acme)
    const client = await world.as(acme, () => pool.connect())
    const pid = backendOf(client)
    const underWay = await world.as(acme, () => state.enter(client, acme))
    const outcomes = Object.values(underWay).map(outcomeOf)
    // With a pool of one they wait for it; with four, those of an administrator's kill never notice.
    const others = [globex, zeta].map((tenantId) => outcomeOf(expectOwnRows(world, pool, tenantId)))
    if (max > 1) await Promise.all(others)
    if (state.running === true) await untilRunning(world, pid)

    await breakIt(pid)
    for (const outcome of await within(5_000, Promise.all(outcomes))) expect(outcome).toBe('gone')
    expect(await within(5_000, outcomeOf(world.as(acme, () => client.query('select 1'))))).toBe(
      'gone',
    )
    expect(await within(5_000, outcomeOf(world.as(acme, () => client.query('commit'))))).toBe(
      'gone',
    )
    client.release()

    expect(await within(5_000, Promise.all(others))).toEqual(['fulfilled', 'fulfilled'])
    await expectNominal(world, pool)
    // The server goes on with what it does until it notices that the network is gone.
    await terminate(world, pid)
    expect(await world.logs()).toEqual([])
  })

  /** A unit of work of each form, that says when its statement runs. */
  const UNITS: Record<
    string,
    (pool: TenantPool, sent: (sql: string) => string) => Promise<unknown>
  > = {
    'pool.query': (pool, sql) => pool.query(sql('select owner, pg_sleep(30) from item')),
    'pool.query with parameters': (pool, sql) =>
      pool.query(sql('select owner, pg_sleep(30) from item where id < $1'), [9]),
    'pool.query with a callback': (pool, sql) =>
      new Promise((resolve, reject) => {
        pool.query(sql('select owner, pg_sleep(30) from item'), (error, result) =>
          error ? reject(error) : resolve(result),
        )
      }),
    'pool.transaction': (pool, sql) =>
      pool.transaction(async (query) => {
        await query("insert into log values ('lost', 'lost')")
        await query(sql('select owner, pg_sleep(30) from item'))
      }),
    'pool.transaction whose function takes no notice': (pool, sql) =>
      pool.transaction(async (query) => {
        await query("insert into log values ('lost', 'lost')")
        await query(sql('select owner, pg_sleep(30) from item')).catch(() => undefined)
      }),
  }

  it.each(
    variant.poolSizes.flatMap((max) =>
      breaks.flatMap((how) => Object.keys(UNITS).map((unit) => ({ max, how, unit }))),
    ),
  )('F2 pool of $max, $how: $unit', async ({ max, how, unit }) => {
    const [acme, globex] = world.tenants
    const pool = open(max)
    await expectOwnRows(world, pool, acme)
    const mark = `/* ${max} ${how} ${unit} */`
    const running = outcomeOf(
      world.as(acme, () =>
        (UNITS[unit] as (typeof UNITS)[string])(pool, (sql) => `${sql} ${mark}`),
      ),
    )
    const waiting = outcomeOf(
      max === 1 ? expectOwnRows(world, pool, globex) : Promise.resolve(undefined),
    )
    const pid = await eventually(
      async () => {
        const { rows } = await world.db.query<{ pid: number }>(
          "select pid from pg_stat_activity where query like '%' || $1 and wait_event = 'PgSleep'",
          [mark],
        )
        return rows[0]?.pid
      },
      { intervalMs: 2 },
    )
    await (BREAKS[how] as (typeof BREAKS)[string])(pid)
    // A function that hides the error has returned too early.
    expect(await within(5_000, running)).toMatch(
      unit.includes('takes no notice') ? /^(?:gone|ERR_TENANCY_UNIT_UNFINISHED)$/ : /^gone$/,
    )
    expect(await within(5_000, waiting)).toBe('fulfilled')
    await expectNominal(world, pool)
    await terminate(world, pid)
    expect(await world.logs()).toEqual([])
  })
})
