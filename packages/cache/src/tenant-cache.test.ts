import { createTenancy, memoryTenantStore } from '@partywall/core'
import { canary, foreignCanaries } from '@partywall/test-support'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import type { CacheDriver } from './cache-driver.ts'
import { memoryDriver } from './drivers/memory.ts'
import { jittered } from './internal/ttl.ts'
import { createTenantCache, type TenantCache } from './tenant-cache.ts'

const tenancy = createTenancy({ store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]) })
const inAcme = <T>(fn: () => T) => tenancy.run('acme', fn)
const inGlobex = <T>(fn: () => T) => tenancy.run('globex', fn)
const code = (name: string) => expect.objectContaining({ code: name })

let driver: CacheDriver
let cache: TenantCache

beforeEach(() => {
  driver = memoryDriver()
  cache = createTenantCache(tenancy, { driver })
})

describe('values', () => {
  test('are apart between tenants under equal keys', async () => {
    for (const id of ['acme', 'globex'])
      await tenancy.run(id, () => cache.set('k', { owner: canary(id, 1) }))
    for (const id of ['acme', 'globex']) {
      const value = await tenancy.run(id, () => cache.get('k'))
      expect(value).toEqual({ owner: canary(id, 1) })
      expect(foreignCanaries(value, id)).toEqual([])
    }
  })

  test('are copies: nobody changes what another gets', () =>
    inAcme(async () => {
      const stored = { list: [1] }
      await cache.set('k', stored)
      stored.list.push(2)
      const first = await cache.get<{ list: number[] }>('k')
      first?.list.push(3)
      expect(await cache.get('k')).toEqual({ list: [1] })
    }))

  test.each([null, false, 0, '', 'x', [], {}, [null, { a: [1] }], '\ud800', -0.5])(
    '%j survives',
    (value) =>
      inAcme(async () => {
        await cache.set('k', value)
        expect(await cache.get('k')).toEqual(value)
        expect(await cache.has('k')).toBe(true)
      }),
  )

  test('a Date becomes its JSON, hit or miss', () =>
    inAcme(async () => {
      const date = new Date(0)
      const load = () => ({ at: date })
      expect(await cache.remember('k', 1_000, load)).toEqual({ at: '1970-01-01T00:00:00.000Z' })
      expect(await cache.remember('k', 1_000, load)).toEqual({ at: '1970-01-01T00:00:00.000Z' })
    }))

  const cycle: Record<string, unknown> = {}
  cycle['self'] = cycle
  test.each([
    ['undefined', undefined],
    ['a function', () => 1],
    ['a symbol', Symbol('s')],
    ['a bigint', 1n],
    ['NaN', Number.NaN],
    ['Infinity inside', { a: [Number.POSITIVE_INFINITY] }],
    ['a function inside', { a: { b: () => 1 } }],
    ['undefined in an array', [undefined]],
    ['a Map', new Map([[1, 2]])],
    ['a Set inside', { a: new Set([1]) }],
    ['a Buffer', Buffer.from('x')],
    ['a Buffer inside', { a: Buffer.from('x') }],
    ['a typed array', new Uint8Array(1)],
    ['a Promise', Promise.resolve(1)],
    ['a RegExp', /x/],
    ['an Error', new Error('x')],
    ['a cycle', cycle],
  ])('%s is refused and stores nothing', (_name, value) =>
    inAcme(async () => {
      await expect(cache.set('k', value)).rejects.toEqual(code('ERR_TENANCY_CACHE_VALUE_INVALID'))
      await expect(
        cache.setMany([
          ['good', 1],
          ['k', value],
        ]),
      ).rejects.toEqual(code('ERR_TENANCY_CACHE_VALUE_INVALID'))
      expect(await cache.keys()).toEqual([])
    }),
  )

  test('__proto__ in a value stays data', () =>
    inAcme(async () => {
      await cache.set('k', JSON.parse('{"__proto__":{"polluted":true}}'))
      const value = await cache.get<object>('k')
      expect(Object.keys(value ?? {})).toEqual(['__proto__'])
      expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
    }))
})

describe('keys', () => {
  test.each([
    ['the empty string', ''],
    ['too many bytes', 'é'.repeat(32_769)],
    ['a lone surrogate', 'a\ud800'],
    ['no string', 7 as unknown as string],
    ['undefined', undefined as unknown as string],
  ])('%s is refused by every operation', (_name, key) =>
    inAcme(async () => {
      for (const call of [
        () => cache.get(key),
        () => cache.set(key, 1),
        () => cache.delete(key),
        () => cache.has(key),
        () => cache.increment(key),
        () => cache.getMany([key]),
        () => cache.setMany([[key, 1]]),
        () => cache.remember(key, 1_000, () => 1),
      ])
        await expect(call()).rejects.toEqual(code('ERR_TENANCY_CACHE_KEY_INVALID'))
    }),
  )

  test('65,536 bytes are allowed', () =>
    inAcme(async () => {
      await cache.set('é'.repeat(32_768), 1)
      expect(await cache.has('é'.repeat(32_768))).toBe(true)
    }))
})

describe('operations', () => {
  test('getMany and setMany keep the order and know absence', () =>
    inAcme(async () => {
      await cache.setMany(new Map([['a', 1]]))
      await cache.setMany(Object.entries({ b: 2 }))
      expect(await cache.getMany(['b', 'x', 'a'])).toEqual([2, undefined, 1])
      expect(await cache.getMany([])).toEqual([])
      await cache.setMany([])
    }))

  test('increment adds whole numbers only', () =>
    inAcme(async () => {
      expect(await cache.increment('n')).toBe(1)
      expect(await cache.increment('n', 4)).toBe(5)
      expect(await inAcme(() => cache.get('n'))).toBe(5)
      await expect(cache.increment('n', 0.5)).rejects.toEqual(
        code('ERR_TENANCY_CACHE_VALUE_INVALID'),
      )
      await cache.set('text', 'x')
      await expect(cache.increment('text')).rejects.toEqual(code('ERR_TENANCY_CACHE_VALUE_INVALID'))
      expect(await cache.get('text')).toBe('x')
    }))

  test('clear and keys stay in their tenant', async () => {
    for (const id of ['acme', 'globex'])
      await tenancy.run(id, () =>
        cache.setMany([
          ['user:1', canary(id, 1)],
          ['user:2', canary(id, 2)],
        ]),
      )
    expect((await inAcme(() => cache.keys('user:*'))).sort()).toEqual(['user:1', 'user:2'])
    expect(await inAcme(() => cache.clear())).toBe(2)
    expect(await inGlobex(() => cache.get('user:1'))).toBe(canary('globex', 1))
  })

  test('outside of a tenant and in central work everything is refused before the driver is touched', async () => {
    const touched = vi.fn()
    const trap = new Proxy(memoryDriver(), {
      get: (target, name) => {
        const member = Reflect.get(target, name)
        return typeof member !== 'function' ? member : (...args: unknown[]) => touched(name, args)
      },
    })
    const guarded = createTenantCache(tenancy, { driver: trap })
    const load = vi.fn()
    const calls = [
      () => guarded.get('k'),
      () => guarded.set('k', 1),
      () => guarded.delete('k'),
      () => guarded.has('k'),
      () => guarded.increment('k'),
      () => guarded.keys(),
      () => guarded.clear(),
      () => guarded.getMany(['k']),
      () => guarded.setMany([['k', 1]]),
      () => guarded.remember('k', 1_000, load),
      () => tenancy.central('test', () => guarded.get('k')),
    ]
    for (const call of calls)
      await expect(call()).rejects.toEqual(code('ERR_TENANCY_CONTEXT_MISSING'))
    expect(touched).not.toHaveBeenCalled()
    expect(load).not.toHaveBeenCalled()
  })

  test('the tenant is that of the call, whoever awaits it', async () => {
    await inAcme(() => cache.set('k', canary('acme', 1)))
    await inGlobex(() => cache.set('k', canary('globex', 1)))
    let pending: Promise<unknown> | undefined
    await inAcme(() => {
      pending = cache.get('k')
    })
    expect(await inGlobex(() => pending)).toBe(canary('acme', 1))
  })
})

describe('lifetimes', () => {
  const stored = (options = {}) => {
    const ttls: unknown[] = []
    const inner = memoryDriver()
    const spy: CacheDriver = new Proxy(inner, {
      get: (target, name) =>
        name === 'setMany'
          ? (scope: never, entries: { ttlMs: unknown }[]) => {
              ttls.push(...entries.map(({ ttlMs }) => ttlMs))
              return target.setMany(scope, entries as never)
            }
          : Reflect.get(target, name).bind?.(target),
    })
    return { ttls, cache: createTenantCache(tenancy, { driver: spy, ...options }) }
  }

  test('60 s by default, as given in the options, or as given in the call', () =>
    inAcme(async () => {
      const standard = stored()
      await standard.cache.set('k', 1)
      await standard.cache.set('k', 1, 5)
      await standard.cache.set('k', 1, 'never')
      expect(standard.ttls).toEqual([60_000, 5, 'never'])
      const configured = stored({ ttlMs: 'never' })
      await configured.cache.set('k', 1)
      expect(configured.ttls).toEqual(['never'])
    }))

  test('remember varies its own by 10 %, unless that is off', () =>
    inAcme(async () => {
      const standard = stored()
      for (let n = 0; n < 200; n++) await standard.cache.remember(`k${n}`, 10_000, () => n)
      const ttls = standard.ttls.map(Number)
      expect(Math.min(...ttls)).toBeGreaterThanOrEqual(9_000)
      expect(Math.max(...ttls)).toBeLessThanOrEqual(11_000)
      expect(new Set(ttls).size).toBeGreaterThan(50)
      const exact = stored({ jitter: 'off' })
      await exact.cache.remember('k', 10_000, () => 1)
      await exact.cache.remember('l', undefined, () => 1)
      await exact.cache.remember('m', 'never', () => 1)
      expect(exact.ttls).toEqual([10_000, 60_000, 'never'])
    }))

  test('jitter reaches both ends and never 0', () => {
    expect(jittered(1_000, 0.1, () => 0)).toBe(900)
    expect(jittered(1_000, 0.1, () => 1)).toBe(1_100)
    expect(jittered(1, 0.9, () => 0)).toBe(1)
    expect(jittered('never', 0.5)).toBe('never')
  })

  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '60', null])(
    '%s is no lifetime',
    (ttl) =>
      inAcme(async () => {
        await expect(cache.set('k', 1, ttl as never)).rejects.toEqual(
          code('ERR_TENANCY_OPTION_INVALID'),
        )
        await expect(cache.remember('k', ttl as never, () => 1)).rejects.toEqual(
          code('ERR_TENANCY_OPTION_INVALID'),
        )
        expect(await cache.has('k')).toBe(false)
      }),
  )
})

describe('remember', () => {
  const deferred = () => Promise.withResolvers<string>()

  test('loads once for a hundred callers of a tenant, and once for each tenant', async () => {
    const load = vi.fn(async () => canary(tenancy.require().tenant.id, 1))
    const callers = Array.from({ length: 200 }, (_, n) => {
      const id = n % 2 === 0 ? 'acme' : 'globex'
      return tenancy
        .run(id, () => cache.remember('k', 1_000, load))
        .then((value) => ({ id, value }))
    })
    for (const { id, value } of await Promise.all(callers)) expect(value).toBe(canary(id, 1))
    expect(load).toHaveBeenCalledTimes(2)
    await inAcme(() => cache.remember('k', 1_000, load))
    expect(load).toHaveBeenCalledTimes(2)
  })

  test('callers who shared a load share no object', () =>
    inAcme(async () => {
      const [first, second] = await Promise.all([
        cache.remember('k', 1_000, () => ({ list: [1] })),
        cache.remember('k', 1_000, () => ({ list: [2] })),
      ])
      first.list.push(9)
      expect(second).toEqual({ list: [1] })
    }))

  test('a failed load rejects all callers, is not kept, and the next call loads again', () =>
    inAcme(async () => {
      const failing = vi.fn(async () => {
        throw new Error('down')
      })
      const calls = [cache.remember('k', 1_000, failing), cache.remember('k', 1_000, failing)]
      for (const result of await Promise.allSettled(calls))
        expect(result).toMatchObject({ status: 'rejected', reason: { message: 'down' } })
      expect(failing).toHaveBeenCalledTimes(1)
      expect(await cache.remember('k', 1_000, () => 'up')).toBe('up')
    }))

  test('a load that throws at once behaves like one that rejects', () =>
    inAcme(async () => {
      const failing = () => {
        throw new Error('sync')
      }
      await expect(cache.remember('k', 1_000, failing)).rejects.toThrow('sync')
      expect(await cache.remember('k', 1_000, () => 1)).toBe(1)
    }))

  test('undefined is returned and not stored; null is stored', () =>
    inAcme(async () => {
      expect(await cache.remember('k', 1_000, () => undefined)).toBeUndefined()
      expect(await cache.has('k')).toBe(false)
      expect(await cache.remember('k', 1_000, () => null)).toBeNull()
      expect(await cache.has('k')).toBe(true)
    }))

  test.each([
    ['set', () => cache.set('k', 'newer'), 'newer'],
    ['delete', () => cache.delete('k'), undefined],
    ['clear', () => cache.clear(), undefined],
    ['increment', () => cache.increment('k'), 1],
  ] as const)('a %s during the load is not overwritten', (_name, write, expected) =>
    inAcme(async () => {
      const slow = deferred()
      const started = deferred()
      const old = cache.remember('k', 1_000, () => {
        started.resolve('')
        return slow.promise
      })
      await started.promise
      await write()
      slow.resolve('older')
      expect(await old).toBe('older')
      expect(await cache.get('k')).toBe(expected)
    }),
  )

  test('a caller after a delete does not get what was loaded before it', () =>
    inAcme(async () => {
      const slow = deferred()
      const started = deferred()
      const old = cache.remember('k', 1_000, () => {
        started.resolve('')
        return slow.promise
      })
      await started.promise
      await cache.delete('k')
      expect(await cache.remember('k', 1_000, () => 'fresh')).toBe('fresh')
      slow.resolve('stale')
      await old
      expect(await cache.get('k')).toBe('fresh')
    }))

  test("a write in one tenant leaves another tenant's load alone", async () => {
    const slow = deferred()
    const started = deferred()
    const loading = inGlobex(() =>
      cache.remember('k', 1_000, () => {
        started.resolve('')
        return slow.promise
      }),
    )
    await started.promise
    await inAcme(() => cache.clear())
    await inAcme(() => cache.delete('k'))
    slow.resolve(canary('globex', 1))
    await loading
    expect(await inGlobex(() => cache.get('k'))).toBe(canary('globex', 1))
  })
})

describe('options', () => {
  test.each([
    [{}, 'driver'],
    [{ driver: {} }, 'driver'],
    [{ driver: memoryDriver(), ttlMs: 0 }, 'ttlMs'],
    [{ driver: memoryDriver(), jitter: 1 }, 'jitter'],
    [{ driver: memoryDriver(), jitter: -0.1 }, 'jitter'],
    [{ driver: memoryDriver(), ttl: 5 }, 'ttlMs'],
  ])('%o is refused by name', (options, named) => {
    expect(() => createTenantCache(tenancy, options as never)).toThrowError(
      expect.objectContaining({
        code: 'ERR_TENANCY_OPTION_INVALID',
        message: expect.stringContaining(named),
      }),
    )
  })
})
