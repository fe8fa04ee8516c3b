import { createHash } from 'node:crypto'
import { assertKnownKeys, TenancyError, type TenantScope } from '@partywall/core'
import type { ChainableCommander } from 'ioredis'
import type { CacheDriver, CacheEntry, CacheTtl } from '../cache-driver.ts'
import { escapeGlob } from '../internal/glob.ts'
import { TenantRedis } from '../tenant-redis.ts'

export interface RedisDriverOptions {
  /**
   * Stands between the tenant and the key, `<tenant>:<namespace>:<key>`, so that cache entries and the application's own keys do not meet. Caches with the same
   * namespace on the same database share their entries. 1 to 32 of `A-Z a-z 0-9 _ . -`. @defaultValue `'cache'`
   */
  readonly namespace?: string | undefined
}

const BATCH = 1_000

// A sum that JavaScript cannot hold, or an entry that is no whole number, changes nothing: nil. INCRBY alone would have counted already. Answered as
// text, because ioredis loses the last digit of the largest integers.
const INCREMENT = `
local current = redis.call('GET', KEYS[1])
if current and not string.match(current, '^%-?%d+$') then return false end
local sum = (tonumber(current or '0')) + tonumber(ARGV[1])
if sum > 9007199254740991 or sum < -9007199254740991 then return false end
local reply = redis.call('INCRBY', KEYS[1], ARGV[1])
if not current and ARGV[2] ~= 'never' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return string.format('%.0f', reply)
`
const INCREMENT_SHA = createHash('sha1').update(INCREMENT).digest('hex')

/** See {@link redisDriver}. */
export class RedisCacheDriver implements CacheDriver {
  readonly name = 'redis'
  readonly #redis: TenantRedis
  readonly #prefix: string

  constructor(redis: TenantRedis, options: RedisDriverOptions = {}) {
    assertKnownKeys('redisDriver', options, ['namespace'])
    const { namespace = 'cache' } = options
    if (!(redis instanceof TenantRedis))
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        'redisDriver() needs a TenantRedis: a plain client would share entries between tenants.',
      )
    if (!/^[\w.-]{1,32}$/.test(namespace))
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `namespace must be 1 to 32 of A-Z a-z 0-9 _ . -, got ${JSON.stringify(namespace)}.`,
      )
    this.#redis = redis
    this.#prefix = `${namespace}:`
  }

  async getMany(
    scope: TenantScope,
    keys: readonly string[],
  ): Promise<readonly (string | undefined)[]> {
    const [only] = keys
    const values = await this.#in(scope, async (redis) =>
      keys.length === 1 && only !== undefined
        ? [await redis.get(this.#prefix + only)]
        : redis.mget(keys.map((key) => this.#prefix + key)),
    )
    return values.map((value) => value ?? undefined)
  }

  async setMany(scope: TenantScope, entries: readonly CacheEntry[]): Promise<void> {
    const [only] = entries
    await this.#in(scope, async (redis) => {
      if (entries.length === 1 && only !== undefined) {
        await redis.set(...setArguments(this.#prefix, only))
        return
      }
      const pipeline = redis.pipeline()
      for (const entry of entries) pipeline.set(...setArguments(this.#prefix, entry))
      await allOf(pipeline)
    })
  }

  async has(scope: TenantScope, key: string): Promise<boolean> {
    return (await this.#in(scope, (redis) => redis.exists(this.#prefix + key))) === 1
  }

  async delete(scope: TenantScope, key: string): Promise<boolean> {
    return (await this.#in(scope, (redis) => redis.unlink(this.#prefix + key))) === 1
  }

  async increment(
    scope: TenantScope,
    key: string,
    by: number,
    ttlMs: CacheTtl,
  ): Promise<number | undefined> {
    const args = [this.#prefix + key, String(by), String(ttlMs)]
    const sum = await this.#in(scope, async (redis) => {
      try {
        return await redis.evalsha(INCREMENT_SHA, 1, ...args)
      } catch (error) {
        if (!(error instanceof Error && error.message.startsWith('NOSCRIPT'))) throw error
        return await this.#in(scope, () => redis.eval(INCREMENT, 1, ...args))
      }
    })
    return sum === null ? undefined : Number(sum)
  }

  async keys(scope: TenantScope, pattern: string): Promise<string[]> {
    const found = new Set<string>()
    await this.#scan(scope, pattern, async (keys) => {
      for (const key of keys) found.add(key.slice(this.#prefix.length))
    })
    return [...found]
  }

  async clear(scope: TenantScope): Promise<number> {
    let count = 0
    await this.#scan(scope, '*', async (keys, redis) => {
      count += await redis.unlink(keys)
    })
    return count
  }

  async #scan(
    scope: TenantScope,
    pattern: string,
    visit: (keys: string[], redis: TenantRedis) => Promise<void>,
  ): Promise<void> {
    const match = escapeGlob(this.#prefix) + pattern
    let cursor = '0'
    do {
      cursor = await this.#in(scope, async (redis) => {
        const [next, keys] = await redis.scan(cursor, 'MATCH', match, 'COUNT', BATCH)
        if (keys.length > 0) await visit(keys, redis)
        return next
      })
    } while (cursor !== '0')
  }

  /** The scope of the call and the current tenant, which the client takes, must be one; otherwise this refuses. */
  #in<T>(scope: TenantScope, use: (redis: TenantRedis) => T): T {
    return this.#redis.tenancy.context.run(scope, () => use(this.#redis))
  }
}

/**
 * Keeps entries in Redis, where all processes share them, under `<tenant>:cache:<key>`. Whoever made `redis` closes it.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function redisDriver(
  redis: TenantRedis,
  options: RedisDriverOptions = {},
): RedisCacheDriver {
  return new RedisCacheDriver(redis, options)
}

function setArguments(prefix: string, { key, value, ttlMs }: CacheEntry): [string, string] {
  const args = [prefix + key, value]
  if (ttlMs !== 'never') args.push('PX', String(ttlMs))
  // ioredis has an overload for each form of SET, and none for a list that is either.
  return args as [string, string]
}

async function allOf(pipeline: ChainableCommander): Promise<void> {
  for (const [error] of (await pipeline.exec()) ?? []) if (error !== null) throw error
}
