import type { TenantPool, TenantPoolOptions } from '@partywall/postgres'
import {
  createFaultProxy,
  eventually,
  type FaultProxy,
  outcomeOf,
  type WireFaults,
} from '@partywall/test-support'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import {
  countsOf,
  createVariantWorld,
  type PoolVariant,
  VARIANTS,
  type VariantWorld,
} from '../isolation/variant-world.ts'
import { expectNominal, expectOwnRows, within } from './fault-fixture.ts'
import { expectExactLedger, expectExplained, startTraffic, type Traffic } from './traffic.ts'

let world: VariantWorld
let proxy: FaultProxy

/** What is wrong with the wire all the time, and breaks nothing. */
const SLOW: Record<string, Partial<WireFaults>> = {
  'latency of 4 ms': { latencyMs: 4 },
  'bandwidth of 300 kB a second': { bytesPerSecond: 300_000 },
  'slices of 1 byte': { sliceBytes: 1 },
  'slices of 7 bytes': { sliceBytes: 7 },
  'latency, bandwidth and slices': { latencyMs: 2, bytesPerSecond: 500_000, sliceBytes: 100 },
  'a slow close': { closeDelayMs: 150 },
}

interface Breakage {
  readonly name: string
  readonly options?: TenantPoolOptions
  /** Breaks the wire while traffic goes over it, and resolves to how many connections it broke. */
  readonly run: (traffic: Traffic, pool: TenantPool) => Promise<number>
  /** What units are told, besides that the connection is gone. */
  readonly errors?: RegExp
}

/** How often a wire is broken, and how many units it lets through in between: on a busy machine it takes longer, and shows the same. */
const BREAKS = 15
const UNITS_BETWEEN = 6

/** Waits for so many more units to have ended, well or not. */
function moreUnits(traffic: Traffic): Promise<unknown> {
  const ended = (): number => traffic.replies + traffic.errors.length
  const before = ended()
  return eventually(() => ended() >= before + UNITS_BETWEEN, { intervalMs: 2 })
}

/** Does something to all connections again and again. */
const repeatedly =
  (fn: () => void): Breakage['run'] =>
  async (traffic, pool) => {
    let broken = 0
    for (let n = 0; n < BREAKS; n++) {
      await moreUnits(traffic)
      broken += countsOf(pool).total
      fn()
    }
    return broken
  }
/** Lets every connection live for so many bytes. */
const limited =
  (limit: WireFaults['limit']): Breakage['run'] =>
  async (traffic) => {
    const { connections, openConnections } = proxy
    proxy.toClient.limit = limit
    for (let n = 0; n < BREAKS; n++) await moreUnits(traffic)
    return proxy.connections - connections + openConnections
  }

/** A time-out of the pool's callers, of a connection or of a statement. */
const TIMEOUT = /^Query read timeout$|connection timeout|timeout expired|timeout exceeded/

const BREAKAGES: Breakage[] = [
  { name: 'resets', run: repeatedly(() => proxy.end('reset')) },
  { name: 'orderly ends', run: repeatedly(() => proxy.end('close')) },
  {
    name: 'silence',
    options: { query_timeout: 100, connectionTimeoutMillis: 1_000, checkoutTimeoutMs: 'never' },
    run: repeatedly(() => proxy.end('silence')),
    errors: TIMEOUT,
  },
  { name: 'a reset after 6,000 bytes', run: limited({ bytes: 6_000, end: 'reset' }) },
  { name: 'an end after 6,001 bytes', run: limited({ bytes: 6_001, end: 'close' }) },
  {
    name: 'silence after 9,000 bytes',
    options: { query_timeout: 100, connectionTimeoutMillis: 1_000, checkoutTimeoutMs: 'never' },
    run: limited({ bytes: 9_000, end: 'silence' }),
    errors: TIMEOUT,
  },
]

const { schema, pipelined, role, row } = VARIANTS
describe.each<PoolVariant>([schema, pipelined, role, row])('F6 $name: a bad network', (variant) => {
  beforeAll(async () => {
    world = await createVariantWorld(variant)
    proxy = await createFaultProxy(world.url)
  })
  afterAll(async () => {
    await world[Symbol.asyncDispose]()
    await proxy[Symbol.asyncDispose]()
  })
  beforeEach(() => world.clearLogs())

  const open = (max: number, options: TenantPoolOptions = {}): TenantPool => {
    const pool = world.openPool({ max, connectionString: proxy.url, ...options })
    onTestFinished(() => void pool.end())
    return pool
  }

  const slow = Object.entries(SLOW).filter(([name]) => variant === schema || name.includes(' and '))
  it.each(
    variant.poolSizes.flatMap((max) => slow.map(([name, faults]) => ({ max, name, faults }))),
  )('F6 pool of $max, $name: not a reply is crossed, not a unit fails', async ({ max, faults }) => {
    const pool = open(max)
    Object.assign(proxy.toServer, faults)
    Object.assign(proxy.toClient, faults)
    onTestFinished(() => proxy.heal())
    const traffic = startTraffic(world, pool, { callers: 8, units: max * 30 })
    await within(25_000, traffic.ended)
    expect(traffic.crossed).toEqual([])
    expect(traffic.errors).toEqual([])
    expect(traffic.replies).toBeGreaterThan(max * 30)
    proxy.heal()
    await expectNominal(world, pool)
    await expectExactLedger(world, traffic)
    expect(pool.destroyedCount).toBe(0)
  })

  // Without a query_timeout, which is refused together with pipelineDepth, silence has no end.
  const breakages = BREAKAGES.filter(({ name, options }) =>
    variant === pipelined
      ? options?.query_timeout === undefined
      : variant === schema || name === 'resets',
  )
  it.each(variant.poolSizes.flatMap((max) => breakages.map((breakage) => ({ max, ...breakage }))))(
    'F6 pool of $max, $name: not a reply is crossed, a broken connection costs the units on it',
    async ({ max, options, run, errors }) => {
      const pool = open(max, options)
      const stop = new AbortController()
      const traffic = startTraffic(world, pool, { callers: 8, until: stop.signal })
      const broken = await run(traffic, pool)
      stop.abort()
      await within(10_000, traffic.ended)
      proxy.heal()
      proxy.end('close')
      expect(traffic.crossed).toEqual([])
      expectExplained(traffic, ...(errors === undefined ? [] : [errors]))
      // Who only waited for a connection is not counted: the time-out of the statement in front of it is.
      const failed = traffic.errors.filter((error) => !/exceeded/.test((error as Error).message))
      expect(failed.length).toBeGreaterThan(0)
      // More than one on a connection where several share it.
      expect(failed.length).toBeLessThanOrEqual(broken * (variant === pipelined ? 8 : 1))
      expect(traffic.replies).toBeGreaterThan(0)
      expect(traffic.slowestMs).toBeLessThan(10_000)
      await expectNominal(world, pool)
      await expectExactLedger(world, traffic)
    },
  )

  it.each([
    ['turned away', 'reset', /^gone$|^ERR_TENANCY_POOL_EXHAUSTED$/],
    ['left without an answer', 'silence', /^gone$|timeout|^ERR_TENANCY_POOL_EXHAUSTED$/],
  ] as const)(
    'F6 connections that are %s: an error in time for everybody, and then it works again',
    async (_name, incoming, told) => {
      const pool = open(2, { connectionTimeoutMillis: 500 })
      const ask = (n: number): Promise<string> =>
        outcomeOf(
          world.as(world.tenants[n % 3] as string, () => pool.query('select owner from item')),
        )
      // Statements that are known: they may share connections, where they may.
      for (let n = 0; n < 9; n++) expect(await ask(n)).toBe('fulfilled')
      proxy.incoming = incoming
      proxy.end('close')
      await eventually(() => countsOf(pool).total === 0)
      const units = Array.from({ length: 9 }, (_, n) => ask(n))
      for (const outcome of await within(5_000, Promise.all(units))) expect(outcome).toMatch(told)
      proxy.heal()
      for (const id of world.tenants) await expectOwnRows(world, pool, id)
      await expectNominal(world, pool)
    },
  )
})
