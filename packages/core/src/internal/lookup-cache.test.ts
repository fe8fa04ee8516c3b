import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { TenancyError } from '../errors.ts'
import { type LookupOptions, resolveLookupOptions } from '../lookup-options.ts'
import { LookupCache } from './lookup-cache.ts'

interface Tenant {
  readonly canary: string
}

/** A cache on a clock that stands still, over a store that counts, and that can be changed, held back and broken. */
function setUp(options: LookupOptions = {}) {
  const store = new Map<string, Tenant>([
    ['acme', { canary: 'acme' }],
    ['globex', { canary: 'globex' }],
  ])
  const calls: string[] = []
  const failures: { error: unknown; servedStale: boolean }[] = []
  const held: (() => void)[] = []
  const world = { now: 1_000.123, broken: false, hold: false, active: 0, mostActive: 0 }
  const cache = new LookupCache<Tenant>(
    async (name) => {
      calls.push(name)
      world.active += 1
      world.mostActive = Math.max(world.mostActive, world.active)
      try {
        // Read before the wait: a store answers with what was true when it looked.
        const value = store.get(name)
        const { broken } = world
        if (world.hold) await new Promise<void>((resolve) => held.push(resolve))
        if (broken) throw new Error('store down')
        return value
      } finally {
        world.active -= 1
      }
    },
    resolveLookupOptions({
      maxAgeMs: 60_000,
      staleWhileRevalidateMs: 60_000,
      staleIfErrorMs: 3_600_000,
      ...options,
    }),
    {
      now: () => world.now,
      outside: (fn) => fn(),
      onFailure: (error, servedStale) => failures.push({ error, servedStale }),
    },
  )
  const release = (): void => {
    world.hold = false
    for (const resolve of held.splice(0)) resolve()
  }
  return { cache, store, calls, failures, world, release }
}

const refusal = (code: string) => expect.objectContaining({ code })

afterEach(() => {
  vi.useRealTimers()
})

describe('hits', () => {
  it('are answered at once, without a promise, known and unknown', async () => {
    const { cache, calls } = setUp()
    expect(cache.find('acme')).toBeInstanceOf(Promise)
    expect((await cache.find('acme'))?.canary).toBe('acme')
    expect((await cache.find('globex'))?.canary).toBe('globex')
    await cache.find('nobody')
    expect(cache.find('acme')).toEqual({ canary: 'acme' })
    expect(cache.find('globex')).toEqual({ canary: 'globex' })
    expect(cache.find('nobody')).toBeUndefined()
    expect(calls).toEqual(['acme', 'globex', 'nobody'])
  })

  it('are fresh for exactly maxAgeMs', async () => {
    const { cache, calls, world } = setUp({ staleWhileRevalidateMs: 0 })
    await cache.find('acme')
    world.now += 59_999
    expect(cache.find('acme')).not.toBeInstanceOf(Promise)
    world.now += 1
    expect(await cache.find('acme')).toEqual({ canary: 'acme' })
    expect(calls).toHaveLength(2)
  })
})

describe('bounds', () => {
  it('keeps the most recently used', async () => {
    const { cache, store, calls } = setUp({ maxTenants: 2 })
    store.set('initech', { canary: 'initech' })
    await cache.find('acme')
    await cache.find('globex')
    void cache.find('acme')
    await cache.find('initech')
    expect(cache.size).toBe(2)
    expect(cache.find('acme')).toEqual({ canary: 'acme' })
    expect(cache.find('globex')).toBeInstanceOf(Promise)
    expect(calls.filter((name) => name === 'acme')).toHaveLength(1)
  })

  it('remembers unknown names for unknownMaxAgeMs, so many, and at no cost to known ones', async () => {
    const { cache, store, calls, world } = setUp({ maxUnknown: 3, unknownMaxAgeMs: 5_000 })
    await cache.find('acme')
    for (const name of ['u1', 'u2', 'u3', 'u4']) await cache.find(name)
    expect(cache.size).toBe(4)
    expect(cache.find('acme')).toEqual({ canary: 'acme' })
    store.set('u4', { canary: 'u4' })
    world.now += 4_999
    expect(cache.find('u4')).toBeUndefined()
    world.now += 1
    expect(await cache.find('u4')).toEqual({ canary: 'u4' })
    expect(calls).toEqual(['acme', 'u1', 'u2', 'u3', 'u4', 'u4'])
  })

  it('remembers nothing unknown with unknownMaxAgeMs 0', async () => {
    const { cache, calls } = setUp({ unknownMaxAgeMs: 0 })
    await cache.find('nobody')
    await cache.find('nobody')
    expect(calls).toHaveLength(2)
  })

  it('lets no more look-ups to the store at a time than maxConcurrent, and turns unknown names away', async () => {
    const { cache, calls, world, release } = setUp({ maxConcurrent: 3 })
    world.hold = true
    const admitted = ['a', 'b', 'c'].map((name) => cache.find(name))
    await expect(cache.find('d')).rejects.toEqual(refusal('ERR_TENANCY_STORE_BUSY'))
    await turn()
    expect(calls).toEqual(['a', 'b', 'c'])
    release()
    await Promise.all(admitted)
    await cache.find('d')
    expect(world.mostActive).toBe(3)
  })

  it('queues known names behind maxConcurrent, so that a new epoch is no stampede and refuses nobody', async () => {
    const { cache, store, calls, world, release } = setUp({ maxConcurrent: 2 })
    const names = Array.from({ length: 20 }, (_, index) => `t${index}`)
    for (const name of names) store.set(name, { canary: name })
    for (const name of names) await cache.find(name)
    calls.length = 0
    world.mostActive = 0
    world.hold = true
    cache.invalidateAll()
    const found = Promise.all(names.map((name) => cache.find(name)))
    await turn()
    expect(calls).toHaveLength(2)
    release()
    expect((await found).map((tenant) => tenant?.canary)).toEqual(names)
    expect(world.mostActive).toBe(2)
    expect(calls).toEqual(names)
  })

  it('lets maxUnknownPerSecond unknown names to the store, and known ones are none of them', async () => {
    const { cache, calls, world } = setUp({ maxUnknownPerSecond: 10 })
    await cache.find('acme')
    let busy = 0
    for (let index = 0; index < 50; index++)
      try {
        await cache.find(`u${index}`)
      } catch (error) {
        expect(error).toEqual(refusal('ERR_TENANCY_STORE_BUSY'))
        busy += 1
      }
    expect(busy).toBe(40)
    expect(calls).toHaveLength(11)
    expect(cache.find('acme')).toEqual({ canary: 'acme' })
    world.now += 500
    for (let index = 50; index < 55; index++) await cache.find(`u${index}`)
    await expect(cache.find('u55')).rejects.toEqual(refusal('ERR_TENANCY_STORE_BUSY'))
    world.now += 3_600_000
    for (let index = 60; index < 70; index++) await cache.find(`u${index}`)
    // An hour of quiet saves up one second, not 3,600.
    await expect(cache.find('u70')).rejects.toEqual(refusal('ERR_TENANCY_STORE_BUSY'))
  })

  it('does not charge found names', async () => {
    const { cache, store } = setUp({ maxUnknownPerSecond: 1 })
    for (let index = 0; index < 100; index++) {
      store.set(`t${index}`, { canary: `t${index}` })
      expect(await cache.find(`t${index}`)).toEqual({ canary: `t${index}` })
    }
  })

  it('charges failures of names that are not known, so that a flood cannot hammer a broken store', async () => {
    const { cache, calls, world } = setUp({ maxUnknownPerSecond: 10 })
    world.broken = true
    for (let index = 0; index < 100; index++)
      await Promise.resolve(cache.find(`u${index}`)).catch(() => undefined)
    expect(calls).toHaveLength(10)
  })

  it('overdraws the budget by maxConcurrent at most, and pays that back', async () => {
    const { cache, calls, world } = setUp({ maxUnknownPerSecond: 1, maxConcurrent: 5 })
    const flood = async (): Promise<void> => {
      await Promise.allSettled(Array.from({ length: 50 }, () => cache.find(crypto.randomUUID())))
    }
    await flood()
    expect(calls).toHaveLength(5)
    world.now += 4_000
    await flood()
    expect(calls).toHaveLength(5)
    world.now += 1_001
    await flood()
    expect(calls).toHaveLength(10)
  })
})

describe('single flight', () => {
  it('asks once for a hundred callers, once per name', async () => {
    const { cache, calls, world, release } = setUp()
    world.hold = true
    const acme = Array.from({ length: 100 }, () => cache.find('acme'))
    const globex = Array.from({ length: 100 }, () => cache.find('globex'))
    release()
    for (const tenant of await Promise.all(acme)) expect(tenant?.canary).toBe('acme')
    for (const tenant of await Promise.all(globex)) expect(tenant?.canary).toBe('globex')
    expect(calls).toEqual(['acme', 'globex'])
  })

  it('fails a hundred callers by one failure, and the next asks again', async () => {
    const { cache, calls, failures, world } = setUp()
    world.broken = true
    const outcomes = await Promise.allSettled(Array.from({ length: 100 }, () => cache.find('acme')))
    for (const outcome of outcomes)
      expect(outcome).toEqual({
        status: 'rejected',
        reason: refusal('ERR_TENANCY_STORE_UNAVAILABLE'),
      })
    expect(failures).toEqual([{ error: expect.any(Error), servedStale: false }])
    world.broken = false
    expect(await cache.find('acme')).toEqual({ canary: 'acme' })
    expect(calls).toHaveLength(2)
  })
})

describe('stale-while-revalidate', () => {
  it('answers at once with the old record and fetches one new one', async () => {
    const { cache, store, calls, world } = setUp()
    await cache.find('acme')
    store.set('acme', { canary: 'acme, renewed' })
    world.now += 60_000
    for (let index = 0; index < 10; index++) expect(cache.find('acme')).toEqual({ canary: 'acme' })
    await turn()
    expect(cache.find('acme')).toEqual({ canary: 'acme, renewed' })
    expect(calls).toHaveLength(2)
  })

  it('drops a tenant that the refresh does not find', async () => {
    const { cache, store, world } = setUp()
    await cache.find('acme')
    store.delete('acme')
    world.now += 60_000
    expect(cache.find('acme')).toEqual({ canary: 'acme' })
    await turn()
    expect(cache.find('acme')).toBeUndefined()
    expect(cache.size).toBe(1)
    // Neither does an outage bring it back.
    world.broken = true
    world.now += 10_000
    await expect(cache.find('acme')).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
  })

  it('waits for the store beyond the window', async () => {
    const { cache, store, world } = setUp()
    await cache.find('acme')
    store.set('acme', { canary: 'acme, renewed' })
    world.now += 120_000
    expect(await cache.find('acme')).toEqual({ canary: 'acme, renewed' })
  })
})

describe('stale-if-error', () => {
  it('keeps a known tenant for maxAgeMs + staleIfErrorMs, others fail', async () => {
    const { cache, failures, world } = setUp()
    await cache.find('acme')
    world.broken = true
    world.now += 3_659_999
    expect(await cache.find('acme')).toEqual({ canary: 'acme' })
    expect(failures).toEqual([{ error: expect.any(Error), servedStale: true }])
    await expect(cache.find('globex')).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
    world.now += 1
    await expect(cache.find('acme')).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
    world.broken = false
    expect(await cache.find('acme')).toEqual({ canary: 'acme' })
  })

  it('lets one caller wait for the failure, and asks once a second from then on', async () => {
    const { cache, store, calls, world } = setUp()
    await cache.find('acme')
    world.broken = true
    world.now += 120_000
    expect(cache.find('acme')).toBeInstanceOf(Promise)
    await turn()
    calls.length = 0
    for (let index = 0; index < 30; index++) {
      world.now += 100
      expect(cache.find('acme')).toEqual({ canary: 'acme' })
      await turn()
    }
    expect(calls).toHaveLength(3)
    store.set('acme', { canary: 'acme, renewed' })
    world.broken = false
    world.now += 1_000
    void cache.find('acme')
    await turn()
    expect(cache.find('acme')).toEqual({ canary: 'acme, renewed' })
  })

  it('asks a failing store once a second within the stale-while-revalidate window, too', async () => {
    const { cache, calls, world } = setUp()
    await cache.find('acme')
    world.broken = true
    world.now += 60_000
    calls.length = 0
    for (let index = 0; index < 30; index++) {
      expect(cache.find('acme')).toEqual({ canary: 'acme' })
      await turn()
      world.now += 100
    }
    expect(calls).toHaveLength(3)
  })

  it('is off with staleIfErrorMs 0', async () => {
    const { cache, world } = setUp({ staleWhileRevalidateMs: 0, staleIfErrorMs: 0 })
    await cache.find('acme')
    world.broken = true
    world.now += 60_000
    await expect(cache.find('acme')).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
  })
})

describe('invalidation', () => {
  it('forgets one name and leaves the other', async () => {
    const { cache, store, calls } = setUp()
    await cache.find('acme')
    await cache.find('globex')
    store.set('acme', { canary: 'acme, renewed' })
    cache.invalidate('acme')
    expect(await cache.find('acme')).toEqual({ canary: 'acme, renewed' })
    expect(cache.find('globex')).toEqual({ canary: 'globex' })
    expect(calls).toEqual(['acme', 'globex', 'acme'])
  })

  it('forgets that a name is unknown', async () => {
    const { cache, store } = setUp()
    await cache.find('initech')
    store.set('initech', { canary: 'initech' })
    cache.invalidate('initech')
    expect(await cache.find('initech')).toEqual({ canary: 'initech' })
  })

  it.each(['acme', '*'])('of %s during a flight does not cache the old record', async (name) => {
    const { cache, store, calls, world, release } = setUp()
    world.hold = true
    const before = cache.find('acme')
    await turn()
    store.set('acme', { canary: 'acme, suspended' })
    if (name === '*') cache.invalidateAll()
    else cache.invalidate(name)
    // Whoever asks now must not join the flight that looked before the change.
    const after = cache.find('acme')
    await turn()
    release()
    expect(await before).toEqual({ canary: 'acme' })
    expect(await after).toEqual({ canary: 'acme, suspended' })
    expect(cache.find('acme')).toEqual({ canary: 'acme, suspended' })
    expect(calls).toHaveLength(2)
  })

  it('during a flight that ends last does not let it overwrite the newer record', async () => {
    const releases: ((tenant: Tenant) => void)[] = []
    const cache = new LookupCache<Tenant>(
      () => new Promise((resolve) => releases.push(resolve)),
      resolveLookupOptions(),
      { now: () => 0, outside: (fn) => fn(), onFailure: () => undefined },
    )
    const first = cache.find('acme')
    await turn()
    cache.invalidate('acme')
    const second = cache.find('acme')
    await turn()
    releases[1]?.({ canary: 'new' })
    expect(await second).toEqual({ canary: 'new' })
    releases[0]?.({ canary: 'old' })
    expect(await first).toEqual({ canary: 'old' })
    expect(cache.find('acme')).toEqual({ canary: 'new' })
    expect(cache.pending).toBe(0)
  })

  it('during a refresh that fails takes the old record away for good', async () => {
    const { cache, world, release } = setUp()
    await cache.find('acme')
    world.now += 120_000
    world.broken = true
    world.hold = true
    const waiting = cache.find('acme')
    await turn()
    cache.invalidate('acme')
    release()
    await expect(waiting).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
    await expect(cache.find('acme')).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
  })

  it('of everything leaves no record fresh, whatever the clock rounds to', async () => {
    for (let index = 0; index < 200; index++) {
      const { cache, store, world } = setUp()
      world.now = index * 1234.567_891_23
      await cache.find('acme')
      store.set('acme', { canary: 'acme, suspended' })
      cache.invalidateAll()
      world.now += index * 0.1
      expect(await cache.find('acme')).toEqual({ canary: 'acme, suspended' })
    }
  })

  it('of everything during an outage keeps known tenants, after one more try', async () => {
    const { cache, calls, world } = setUp()
    await cache.find('acme')
    world.broken = true
    cache.invalidateAll()
    expect(cache.find('acme')).toBeInstanceOf(Promise)
    await turn()
    expect(cache.find('acme')).toEqual({ canary: 'acme' })
    expect(calls).toHaveLength(2)
    // A second one is news again.
    cache.invalidateAll()
    expect(await cache.find('acme')).toEqual({ canary: 'acme' })
    expect(calls).toHaveLength(3)
  })

  it('by clear() leaves nothing, not even for an outage', async () => {
    const { cache, world } = setUp()
    await cache.find('acme')
    cache.clear()
    expect(cache.size).toBe(0)
    world.broken = true
    await expect(cache.find('acme')).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
  })
})

describe('time limit', () => {
  function hanging(options: LookupOptions) {
    const signals: AbortSignal[] = []
    const world = { now: 0, hang: true }
    const cache = new LookupCache<Tenant>(
      async (name, signal) => {
        signals.push(signal)
        return world.hang ? await new Promise<never>(() => undefined) : { canary: name }
      },
      resolveLookupOptions(options),
      { now: () => world.now, outside: (fn) => fn(), onFailure: () => undefined },
    )
    return { cache, signals, world }
  }

  it('ends a look-up, tells the store, and keeps no slot', async () => {
    vi.useFakeTimers()
    const { cache, signals, world } = hanging({ timeoutMs: 5_000, maxConcurrent: 1 })
    const waiting = Promise.resolve(cache.find('acme')).catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(4_999)
    expect(signals[0]?.aborted).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    const error = await waiting
    expect(TenancyError.is(error, 'ERR_TENANCY_STORE_UNAVAILABLE')).toBe(true)
    expect(String((error as Error).cause)).toContain('5000 ms')
    expect(signals[0]?.aborted).toBe(true)
    world.hang = false
    expect(await cache.find('globex')).toEqual({ canary: 'globex' })
  })

  it('counts the time in the queue', async () => {
    vi.useFakeTimers()
    const { cache, signals, world } = hanging({ timeoutMs: 5_000, maxConcurrent: 1 })
    world.hang = false
    await cache.find('acme')
    await cache.find('globex')
    world.hang = true
    cache.invalidateAll()
    const first = cache.find('acme')
    await vi.advanceTimersByTimeAsync(1)
    let settled = false
    const second = Promise.resolve(cache.find('globex')).finally(() => (settled = true))
    await vi.advanceTimersByTimeAsync(4_998)
    expect(signals).toHaveLength(3)
    await vi.advanceTimersByTimeAsync(1)
    expect(await first).toEqual({ canary: 'acme' })
    expect(settled).toBe(false)
    // Its own five seconds ran while it queued; it is not given another five for its turn.
    await vi.advanceTimersByTimeAsync(1)
    expect(settled).toBe(true)
    expect(await second).toEqual({ canary: 'globex' })
    world.hang = false
    cache.invalidateAll()
    expect(await cache.find('globex')).toEqual({ canary: 'globex' })
  })

  it('does not cache an answer that comes too late', async () => {
    vi.useFakeTimers()
    let answer: ((tenant: Tenant) => void) | undefined
    const cache = new LookupCache<Tenant>(
      () => new Promise((resolve) => (answer = resolve)),
      resolveLookupOptions({ timeoutMs: 100 }),
      { now: () => 0, outside: (fn) => fn(), onFailure: () => undefined },
    )
    const waiting = Promise.resolve(cache.find('acme')).catch(() => 'failed')
    await vi.advanceTimersByTimeAsync(100)
    expect(await waiting).toBe('failed')
    answer?.({ canary: 'late' })
    await vi.advanceTimersByTimeAsync(0)
    expect(cache.size).toBe(0)
  })
})

describe('options', () => {
  it.each([
    { maxTenants: 0 },
    { maxAgeMs: -1 },
    { maxAgeMs: 1.5 },
    { timeoutMs: Number.NaN },
    { unknownMaxAgeMs: Number.POSITIVE_INFINITY },
    { maxConcurrent: '64' as never },
    { maxAge: 5 } as LookupOptions,
  ])('refuses %j', (options) => {
    expect(() => resolveLookupOptions(options)).toThrow(refusal('ERR_TENANCY_OPTION_INVALID'))
  })

  it('fills in frozen defaults', () => {
    const resolved = resolveLookupOptions({ maxAgeMs: undefined, timeoutMs: 1 })
    expect(resolved).toEqual({
      maxTenants: 10_000,
      maxAgeMs: 60_000,
      staleWhileRevalidateMs: 60_000,
      staleIfErrorMs: 3_600_000,
      maxUnknown: 10_000,
      unknownMaxAgeMs: 5_000,
      maxUnknownPerSecond: 100,
      maxConcurrent: 64,
      timeoutMs: 1,
    })
    expect(Object.isFrozen(resolved)).toBe(true)
  })
})
