import {
  createTenantCache,
  memoryDriver,
  redisDriver,
  type TenantCache,
  TenantRedis,
} from '@partywall/cache'
import { createTenancy, isTenantId, memoryTenantStore, type TenantScope } from '@partywall/core'
import {
  canary,
  createTestRedis,
  foreignCanaries,
  seededRandom,
  type TestRedis,
} from '@partywall/test-support'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'

// Each begins another, or is what a careless pattern would match.
const IDS = ['a', 'a-b', 'ab', 'acme', 'acme2', 'b', 'cache', 'globex'] as const
const CACHE_KEY = 'cache'

const tenancy = createTenancy({ store: memoryTenantStore(IDS.map((id) => ({ id }))) })
const scopes = new Map<string, TenantScope>()
let server: TestRedis
let redis: TenantRedis

beforeAll(async () => {
  for (const id of IDS) scopes.set(id, await tenancy.run(id, (scope) => scope))
  server = await createTestRedis({ privateServer: true })
  const walls = IDS.flatMap((id) => [`~${id}:*`, `&${id}:*`])
  await server.redis.call('ACL', 'SETUSER', 'tenants', 'on', '>secret', '+@all', ...walls)
})
beforeEach(async () => {
  await server.flush()
  redis = connect()
})
afterEach(async () => {
  redis.disconnect()
  // The server knows the walls too, and notes who reaches past them.
  expect(await server.redis.call('ACL', 'LOG')).toEqual([])
})
afterAll(() => server[Symbol.asyncDispose]())

function connect(enableAutoPipelining = true): TenantRedis {
  const options = { username: 'tenants', password: 'secret', enableAutoPipelining }
  return new TenantRedis(tenancy, server.url, options)
}

function inTenant<T>(id: string, fn: () => T): T {
  const scope = scopes.get(id)
  if (scope === undefined) throw new Error(`no tenant ${id}`)
  return tenancy.run(scope, fn)
}

const wireKeys = async (): Promise<string[]> => (await server.redis.keys('*')).sort()

/** The keys under which a tenant's commands would reach the server; they are collected and never sent. */
function wireKeysOf(id: string, keys: readonly string[]): string[] {
  const pipeline = inTenant(id, () => {
    const collected = redis.pipeline()
    for (const key of keys) collected.get(key)
    return collected
  })
  const { _queue: commands } = pipeline as unknown as { _queue: { args: string[] }[] }
  return commands.map(({ args }) => String(args[0]))
}

const drivers: [string, () => TenantCache][] = [
  ['memory', () => createTenantCache(tenancy, { driver: memoryDriver() })],
  ['redis', () => createTenantCache(tenancy, { driver: redisDriver(redis) })],
]

describe.each(drivers)('the time that one tenant’s pattern takes, in %s', (_name, open) => {
  test('is bounded: long patterns are refused, and the longest allowed one keeps nobody waiting', async () => {
    const cache = open()
    for (const id of ['acme', 'globex'])
      await inTenant(id, async () => {
        for (let n = 0; n < 5; n++) await cache.set(`${'a'.repeat(60_000)}${n}`, id)
        await cache.set('aab', id)
      })
    await inTenant('acme', async () => {
      for (const pattern of [`*${'a'.repeat(30_000)}b`, `*${'é'.repeat(512)}`])
        await expect(cache.keys(pattern)).rejects.toMatchObject({
          code: 'ERR_TENANCY_CACHE_KEY_INVALID',
        })
    })
    const started = performance.now()
    const hostile = inTenant('acme', () => cache.keys(`*${'a?'.repeat(510)}b`))
    const other = inTenant('globex', () => cache.keys('*b'))
    expect(await hostile).toEqual([])
    expect(await other).toEqual(['aab'])
    expect(performance.now() - started).toBeLessThan(2_000)
  })
})

describe('K1 distinct (tenant, key) have distinct wire keys', () => {
  const hostile = [':', '!', '%', '{', '}', '\0', '*', '[', 'a', 'b', 'é', '::', 'acme:', 'a-b:']

  test('K1 300,000 generated pairs of this process and a million more in wire-key.test.ts', () => {
    const random = seededRandom()
    const owners = new Map<string, string>()
    for (let chunk = 0; chunk < 600; chunk++) {
      const id = random.pick(IDS)
      const keys = Array.from({ length: 500 }, () => {
        let key = ''
        for (let length = random.integer(0, 5); length > 0; length--) key += random.pick(hostile)
        return key
      })
      for (const [index, wire] of wireKeysOf(id, keys).entries()) {
        const pair = `${id} ${keys[index]}`
        const owner = owners.get(wire) ?? pair
        if (owner !== pair) expect(owner).toBe(pair)
        owners.set(wire, pair)
      }
    }
    // So many different pairs, and as many wire keys.
    expect(owners.size).toBeGreaterThan(100_000)
    expect(new Set(owners.values()).size).toBe(owners.size)
  })

  test('K1 keys that spell other tenants do not meet on the server', async () => {
    const keys = [
      'k',
      'b:k',
      'a:k',
      ':k',
      'acme:k',
      '{acme}:k',
      'cache:k',
      'cache:cache:k',
      '\0',
      '%',
    ]
    const writes = IDS.flatMap((id) =>
      keys.map((key) => inTenant(id, () => redis.set(key, canary(id, key)))),
    )
    await Promise.all(writes)
    expect(await server.redis.dbsize()).toBe(IDS.length * keys.length)
    for (const id of IDS)
      expect(await inTenant(id, () => redis.mget(keys))).toEqual(keys.map((key) => canary(id, key)))
  })
})

describe('K2 commands go through an allowlist', () => {
  test.each([
    'FLUSHALL',
    'SWAPDB',
    'SELECT',
    'MOVE',
    'CONFIG',
    'MONITOR',
    'WATCH',
    'SUBSCRIBE',
    'PUBLISH',
    'CLUSTER',
    'ACL',
    'DEBUG',
    'SHUTDOWN',
    'REPLICAOF',
    'MIGRATE',
    'CLIENT',
    'JSON.GET',
    'NO.SUCH',
  ])('K2 %s is refused alone, in a pipeline and in a transaction', async (name) => {
    await inTenant('globex', () => redis.set('k', canary('globex', 1)))
    const refused = expect.objectContaining({ code: 'ERR_TENANCY_REDIS_COMMAND_REFUSED' })
    await inTenant('acme', async () => {
      for (const spelling of [name, name.toLowerCase()]) {
        await expect(redis.call(spelling, '0', '1')).rejects.toEqual(refused)
        expect(await redis.pipeline().call(spelling, '0', '1').ping().exec()).toEqual([
          [refused],
          [null, 'PONG'],
        ])
        await expect(redis.multi().set('x', '1').call(spelling, '0', '1').exec()).rejects.toEqual(
          refused,
        )
      }
      expect(await redis.exists('x')).toBe(0)
    })
    expect(await wireKeys()).toEqual(['globex:k'])
  })

  test('K2 FLUSHDB, DBSIZE, RANDOMKEY, KEYS and SCAN act within the tenant', async () => {
    for (const [index, id] of IDS.entries())
      await inTenant(id, async () => {
        for (let n = 0; n <= index; n++) await redis.set(`${id}-${n}`, canary(id, n))
      })
    for (const [index, id] of IDS.entries())
      await inTenant(id, async () => {
        const own = Array.from({ length: index + 1 }, (_, n) => `${id}-${n}`).sort()
        expect(await redis.dbsize()).toBe(index + 1)
        expect((await redis.keys('*')).sort()).toEqual(own)
        expect(own).toContain(await redis.randomkey())
        const scanned = new Set<string>()
        for await (const keys of redis.scanStream()) for (const key of keys) scanned.add(key)
        expect([...scanned].sort()).toEqual(own)
      })
    await inTenant('a', () => redis.flushdb())
    expect((await wireKeys()).filter((key) => key.startsWith('a:'))).toEqual([])
    const rest = IDS.slice(1).reduce((sum, _, index) => sum + index + 2, 0)
    expect(await server.redis.dbsize()).toBe(rest)
  })
})

describe('K3 glob characters never widen a pattern', () => {
  const patterns = ['*', '?*', '[a-z]*', '*:*', '\\*', 'a*', '[^x]*', '*[', '**', '?:k', 'acme*']

  test.each(patterns)('K3 the pattern %j sees one tenant', async (pattern) => {
    for (const id of IDS) await inTenant(id, () => redis.mset('k', '1', 'acme:k', '1', '*', '1'))
    for (const id of IDS)
      await inTenant(id, async () => {
        const own = ['*', 'acme:k', 'k']
        expect(own).toEqual(expect.arrayContaining(await redis.keys(pattern)))
        const [, scanned] = await redis.scan(0, 'MATCH', pattern, 'COUNT', 1_000)
        expect(own).toEqual(expect.arrayContaining(scanned))
      })
  })

  test.each(drivers)('K3 keys of the cache with glob characters, %s', async (_name, create) => {
    const cache = create()
    const keys = ['*', '?', '[a-z]', '\\', 'a\\*', 'k']
    for (const id of IDS)
      await inTenant(id, () => cache.setMany(keys.map((key) => [key, canary(id, key)])))
    for (const id of IDS)
      await inTenant(id, async () => {
        for (const pattern of patterns) {
          const found = await cache.keys(pattern)
          expect(keys).toEqual(expect.arrayContaining(found))
          expect(foreignCanaries(await cache.getMany(found), id)).toEqual([])
        }
        expect(await cache.delete('*')).toBe(true)
        expect((await cache.keys()).sort()).toEqual(keys.filter((key) => key !== '*').sort())
      })
  })

  test.each(['*', 'a*', '?', '[a-z]', 'acme\\', 'a?me', 'acme:globex', 'Acme', ''])(
    'K3 %j is no tenant id, so it can be in no prefix',
    (id) => {
      expect(isTenantId(id)).toBe(false)
    },
  )
})

describe('K4 key names in replies are those of the tenant', () => {
  test.each([false, true])('K4 with auto-pipelining %s', async (enableAutoPipelining) => {
    const client = connect(enableAutoPipelining)
    for (const id of ['acme', 'globex'])
      await inTenant(id, async () => {
        await client.rpush('list', canary(id, 1), canary(id, 2), canary(id, 3))
        await client.zadd('zset', 1, canary(id, 4), 2, canary(id, 5))
        await client.xadd('stream', '1-1', 'f', canary(id, 6))
        const replies: unknown[] = [
          await client.blpop('absent', 'list', 1),
          await client.lmpop(2, 'absent', 'list', 'LEFT'),
          await client.zmpop(1, 'zset', 'MIN'),
          await client.bzpopmax('zset', 1),
          await client.xread('STREAMS', 'stream', '0'),
          await client.scan(0, 'COUNT', 1_000),
          await client.keys('*'),
          await client.randomkey(),
          await client.multi().brpop('list', 1).xread('STREAMS', 'stream', '0').exec(),
        ]
        const text = JSON.stringify(replies)
        for (const tenant of IDS) expect(text).not.toContain(`"${tenant}:`)
        expect(foreignCanaries(text, id)).toEqual([])
        expect(text.match(/"list"/g)?.length).toBeGreaterThanOrEqual(3)
      })
    client.disconnect()
  })
})

describe('K10 clearing one tenant', () => {
  test.each(drivers)('K10 removes all of it and nothing of AB or A2, %s', async (_name, create) => {
    const cache = create()
    for (const id of IDS)
      await inTenant(id, async () => {
        const entries = Array.from({ length: 40 }, (_, n) => [`k${n}`, canary(id, n)] as const)
        await cache.setMany(entries)
        await cache.increment('count')
      })
    for (const cleared of ['a', 'acme', 'b'] as const) {
      expect(await inTenant(cleared, () => cache.clear())).toBe(41)
      expect(await inTenant(cleared, () => cache.keys())).toEqual([])
    }
    for (const id of IDS.filter((each) => !['a', 'acme', 'b'].includes(each)))
      await inTenant(id, async () => {
        expect(await cache.keys()).toHaveLength(41)
        expect(await cache.get('k7')).toBe(canary(id, 7))
      })
  })

  test('K10 clearing the cache leaves the keys of the application', async () => {
    const cache = createTenantCache(tenancy, { driver: redisDriver(redis) })
    await inTenant('cache', async () => {
      await redis.set('k', 'mine')
      await cache.set('k', 'cached')
      await cache.clear()
      expect(await redis.keys('*')).toEqual(['k'])
    })
    expect(await wireKeys()).toEqual([`${CACHE_KEY}:k`])
  })
})

describe.each(drivers)('mixed traffic of all tenants, %s', (_name, create) => {
  test('K1 K4 no value ever belongs to another tenant', async () => {
    const cache = create()
    const random = seededRandom()
    let loads = 0
    const step = (n: number): Promise<unknown> => {
      const id = random.pick(IDS)
      const key = `k${random.integer(0, 9)}`
      const action = random.integer(0, 5)
      return inTenant(id, async () => {
        if (action === 0) await cache.set(key, canary(id, n))
        else if (action === 1) await cache.delete(key)
        else if (action === 2)
          await cache.remember(key, 20, async () => {
            loads++
            return canary(tenancy.require().tenant.id, n)
          })
        else if (action === 3 && n % 50 === 0) await cache.clear()
        else {
          const values = await cache.getMany([key, 'k1', 'k2'])
          expect(foreignCanaries(values, id)).toEqual([])
        }
        const value = await cache.remember(key, 20, () => canary(id, n))
        expect(value).toMatch(new RegExp(`^canary:${id}:`))
      })
    }
    for (let batch = 0; batch < 40; batch++)
      await Promise.all(Array.from({ length: 100 }, (_, n) => step(batch * 100 + n)))
    expect(loads).toBeGreaterThan(50)
  })
})
