import { setTimeout as sleep } from 'node:timers/promises'
import type { TenantPool, TenantPoolOptions } from '@partywall/postgres'
import { createFaultProxy, type FaultProxy, type WireFaults } from '@partywall/test-support'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { createVariantWorld, VARIANTS, type VariantWorld } from '../isolation/variant-world.ts'
import { expectNominal, expectOwnRows, outcomeOf, within } from './fault-fixture.ts'
import { expectExactLedger, expectExplained, runTraffic } from './traffic.ts'

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
  /** Goes on breaking the wire until it is told to stop, and resolves to how many connections it broke. */
  readonly run: (stop: AbortSignal, pool: TenantPool) => Promise<number>
  /** What units are told, besides that the connection is gone. */
  readonly errors?: RegExp
}

/** Does something to all connections again and again. */
const repeatedly =
  (everyMs: number, fn: () => void): Breakage['run'] =>
  async (stop, pool) => {
    let broken = 0
    while (!stop.aborted) {
      await sleep(everyMs)
      broken += pool.totalCount
      fn()
    }
    return broken
  }
/** Lets every connection live for so many bytes. */
const limited =
  (limit: WireFaults['limit']): Breakage['run'] =>
  async (stop) => {
    const { connections } = proxy
    proxy.toClient.limit = limit
    await new Promise((resolve) => stop.addEventListener('abort', resolve))
    return proxy.connections - connections
  }

const BREAKAGES: Breakage[] = [
  { name: 'resets', run: repeatedly(25, () => proxy.end('reset')) },
  { name: 'orderly ends', run: repeatedly(25, () => proxy.end('close')) },
  {
    name: 'silence',
    options: { query_timeout: 100, connectionTimeoutMillis: 200 },
    run: repeatedly(180, () => proxy.end('silence')),
    errors: /^Query read timeout$|connection timeout|timeout expired/,
  },
  { name: 'a reset after 6,000 bytes', run: limited({ bytes: 6_000, end: 'reset' }) },
  { name: 'an end after 6,001 bytes', run: limited({ bytes: 6_001, end: 'close' }) },
  {
    name: 'silence after 9,000 bytes',
    options: { query_timeout: 60, connectionTimeoutMillis: 200 },
    run: limited({ bytes: 9_000, end: 'silence' }),
    errors: /^Query read timeout$|connection timeout|timeout expired/,
  },
]

describe.each(Object.values(VARIANTS))('F6 $name: a bad network', (variant) => {
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

  it.each(
    variant.poolSizes.flatMap((max) =>
      Object.entries(SLOW).map(([name, faults]) => ({ max, name, faults })),
    ),
  )('F6 pool of $max, $name: not a reply is crossed, not a unit fails', async ({ max, faults }) => {
    const pool = open(max)
    Object.assign(proxy.toServer, faults)
    Object.assign(proxy.toClient, faults)
    onTestFinished(() => proxy.heal())
    const traffic = await within(25_000, runTraffic(world, pool, { callers: 8, units: max * 30 }))
    expect(traffic.crossed).toEqual([])
    expect(traffic.errors).toEqual([])
    expect(traffic.replies).toBeGreaterThan(max * 30)
    proxy.heal()
    await expectNominal(world, pool)
    await expectExactLedger(world, traffic)
    expect(pool.destroyedCount).toBe(0)
  })

  it.each(variant.poolSizes.flatMap((max) => BREAKAGES.map((breakage) => ({ max, ...breakage }))))(
    'F6 pool of $max, $name: not a reply is crossed, a broken connection costs the units on it',
    async ({ max, options, run, errors }) => {
      const pool = open(max, options)
      const stop = new AbortController()
      const breaking = run(stop.signal, pool)
      setTimeout(() => stop.abort(), 600)
      const traffic = await within(
        10_000,
        runTraffic(world, pool, { callers: 8, until: stop.signal }),
      )
      const broken = await breaking
      proxy.heal()
      proxy.end('close')
      expect(traffic.crossed).toEqual([])
      expectExplained(traffic, ...(errors === undefined ? [] : [errors]))
      expect(traffic.errors.length).toBeGreaterThan(0)
      expect(traffic.errors.length).toBeLessThanOrEqual(broken)
      expect(traffic.replies).toBeGreaterThan(0)
      // Units are never longer under way than their own time-outs, one for each statement, and those of the units in front of them.
      expect(traffic.slowestMs).toBeLessThan(5_000)
      await expectNominal(world, pool)
      await expectExactLedger(world, traffic)
    },
  )

  it.each([
    ['turned away', 'reset', /^gone$/],
    ['left without an answer', 'silence', /^gone$|timeout/],
  ] as const)(
    'F6 connections that are %s: an error in time, and then it works again',
    async (_name, incoming, told) => {
      const [acme, globex] = world.tenants
      const pool = open(2, { connectionTimeoutMillis: 150 })
      proxy.incoming = incoming
      const units = [acme, globex, acme].map((id) =>
        outcomeOf(world.as(id, () => pool.query('select owner from item'))),
      )
      for (const outcome of await within(5_000, Promise.all(units))) expect(outcome).toMatch(told)
      proxy.heal()
      for (const id of world.tenants) await expectOwnRows(world, pool, id)
      await expectNominal(world, pool)
    },
  )
})
