import { type Tenancy, TenancyError, type TenantScope } from '@partywall/core'
import type { CacheDriver, CacheTtl } from './cache-driver.ts'
import { assertCacheKey, assertCachePattern } from './internal/cache-key.ts'
import { decodeCacheValue, encodeCacheValue } from './internal/cache-value.ts'
import { assertTtl, jittered } from './internal/ttl.ts'
import {
  type ResolvedTenantCacheOptions,
  resolveTenantCacheOptions,
  type TenantCacheOptions,
} from './tenant-cache-options.ts'

/** A load of `remember` that is under way. */
interface Flight {
  /** JSON text, so that every caller gets a copy of its own; `undefined` if there is nothing to cache. */
  result: Promise<string | undefined>
  /** The entry was written or removed meanwhile, so what was loaded may be older and must not be stored. */
  superseded: boolean
}

/**
 * A cache whose entries belong to the current tenant: the same key in two tenants is two entries, and no operation reaches beyond its tenant.
 *
 * Values are copied by JSON on the way in and out. An absent entry is `undefined`. A lifetime is in milliseconds, or `'never'`. The
 * tenant is the one of the moment of the call. Every operation rejects with `ERR_TENANCY_CONTEXT_MISSING` outside of a tenant, before the driver is touched; with
 * `ERR_TENANCY_CACHE_KEY_INVALID` for what is no key (a non-empty string of at most 65,536 bytes of UTF-8), and with whatever the driver rejects with.
 */
export class TenantCache {
  readonly #tenancy: Tenancy
  readonly #options: ResolvedTenantCacheOptions
  readonly #driver: CacheDriver
  // Per tenant: a flight that two tenants share would give one what was loaded for the other.
  readonly #flights = new Map<string, Map<string, Flight>>()

  constructor(tenancy: Tenancy, options: TenantCacheOptions) {
    this.#tenancy = tenancy
    this.#options = resolveTenantCacheOptions(options)
    this.#driver = this.#options.driver
  }

  /** The value of an entry, or `undefined`. */
  async get<T = unknown>(key: string): Promise<T | undefined> {
    const scope = this.#tenancy.require()
    const [text] = await this.#driver.getMany(scope, [assertCacheKey(key)])
    return text === undefined ? undefined : (decodeCacheValue(key, text) as T)
  }

  /** The values of several entries, in the order of `keys`, each `undefined` if absent. One call of the driver. */
  async getMany<T = unknown>(keys: Iterable<string>): Promise<(T | undefined)[]> {
    const scope = this.#tenancy.require()
    const list = Array.from(keys, assertCacheKey)
    if (list.length === 0) return []
    const texts = await this.#driver.getMany(scope, list)
    return list.map((key, index) => {
      const text = texts[index]
      return text === undefined ? undefined : (decodeCacheValue(key, text) as T)
    })
  }

  /**
   * Stores a value.
   *
   * @param ttl Lifetime in milliseconds from now, or `'never'`; that of the options by default.
   * @throws {TenancyError} `ERR_TENANCY_CACHE_VALUE_INVALID` for what JSON cannot carry; `ERR_TENANCY_OPTION_INVALID` for a bad lifetime.
   */
  async set(key: string, value: unknown, ttl?: CacheTtl): Promise<void> {
    await this.setMany([[key, value]], ttl)
  }

  /** Stores several values: pairs, a Map, or `Object.entries(...)`. All are checked before the first is stored. */
  async setMany(
    entries: Iterable<readonly [key: string, value: unknown]>,
    ttl?: CacheTtl,
  ): Promise<void> {
    const scope = this.#tenancy.require()
    const ttlMs = this.#ttl(ttl)
    const list = Array.from(entries, ([key, value]) => ({
      key: assertCacheKey(key),
      value: encodeCacheValue(key, value),
      ttlMs,
    }))
    if (list.length === 0) return
    for (const { key } of list) this.#supersede(scope, key)
    await this.#driver.setMany(scope, list)
  }

  /** Removes an entry and tells whether there was one. */
  async delete(key: string): Promise<boolean> {
    const scope = this.#tenancy.require()
    assertCacheKey(key)
    this.#supersede(scope, key)
    return await this.#driver.delete(scope, key)
  }

  /** Tells whether there is an entry. */
  async has(key: string): Promise<boolean> {
    const scope = this.#tenancy.require()
    return await this.#driver.has(scope, assertCacheKey(key))
  }

  /**
   * Adds `by`, a whole number that may be negative, and resolves to the sum. Atomic, also between processes that share a Redis. An absent entry counts as 0 and lives for `ttl`;
   * a present one keeps the lifetime it has. Not safe to retry: a lost answer may have counted.
   *
   * @throws {TenancyError} `ERR_TENANCY_CACHE_VALUE_INVALID` if `by` or the entry is no whole number, or the sum is beyond `Number.MAX_SAFE_INTEGER`; the entry is then as it was.
   */
  async increment(key: string, by = 1, ttl?: CacheTtl): Promise<number> {
    const scope = this.#tenancy.require()
    assertCacheKey(key)
    if (!Number.isSafeInteger(by))
      throw new TenancyError(
        'ERR_TENANCY_CACHE_VALUE_INVALID',
        `increment() adds whole numbers, got ${String(by)}.`,
      )
    this.#supersede(scope, key)
    const sum = await this.#driver.increment(scope, key, by, this.#ttl(ttl))
    if (sum !== undefined) return sum
    throw new TenancyError(
      'ERR_TENANCY_CACHE_VALUE_INVALID',
      `${JSON.stringify(key.slice(0, 80))} holds no whole number, or adding ${by} leaves the safe range.`,
    )
  }

  /**
   * The keys of this tenant that match a glob in Redis's form, in any order. Matching goes through all entries of the tenant, in
   * Redis through all keys of the database: for tools, not for requests. A pattern has at most 1,024 bytes of UTF-8, else `ERR_TENANCY_CACHE_KEY_INVALID`.
   */
  async keys(pattern = '*'): Promise<string[]> {
    const scope = this.#tenancy.require()
    return await this.#driver.keys(scope, assertCachePattern(pattern))
  }

  /** Removes every entry of this tenant, and no other's. Resolves to how many there were. Entries written meanwhile may survive. */
  async clear(): Promise<number> {
    const scope = this.#tenancy.require()
    for (const flight of this.#flights.get(scope.tenant.id)?.values() ?? [])
      flight.superseded = true
    this.#flights.delete(scope.tenant.id)
    return await this.#driver.clear(scope)
  }

  /**
   * The value of an entry; if there is none, what `load` returns, which is then stored for `ttl` milliseconds give or take the jitter.
   *
   * Callers in the same tenant and process who ask for the same key at the same time share one load, which runs in the context of the first;
   * so the key has to name everything that the result depends on beside the tenant, the user for example. Hit or miss, every caller gets a
   * JSON copy of its own. If `load` fails, all of them get its error and nothing is stored; `undefined` is returned and not stored either. What was loaded is not stored if
   * the entry was set, incremented, deleted or cleared through this cache meanwhile.
   *
   * @throws {TenancyError} as `set` does, and whatever `load` throws.
   */
  async remember<T>(key: string, ttl: CacheTtl | undefined, load: () => T): Promise<Awaited<T>> {
    const scope = this.#tenancy.require()
    assertCacheKey(key)
    const ttlMs = this.#ttl(ttl)
    const text = await this.#flight(scope, key, ttlMs, load).result
    return (text === undefined ? undefined : decodeCacheValue(key, text)) as Awaited<T>
  }

  #flight(scope: TenantScope, key: string, ttlMs: CacheTtl, load: () => unknown): Flight {
    const tenantId = scope.tenant.id
    let flights = this.#flights.get(tenantId)
    if (flights === undefined) this.#flights.set(tenantId, (flights = new Map()))
    const running = flights.get(key)
    if (running !== undefined) return running
    const flight: Flight = { superseded: false, result: Promise.resolve(undefined) }
    flights.set(key, flight)
    flight.result = this.#load(scope, key, ttlMs, load, flight).finally(() =>
      this.#land(tenantId, key, flight),
    )
    return flight
  }

  async #load(
    scope: TenantScope,
    key: string,
    ttlMs: CacheTtl,
    load: () => unknown,
    flight: Flight,
  ): Promise<string | undefined> {
    const [cached] = await this.#driver.getMany(scope, [key])
    if (cached !== undefined) return cached
    const loaded = await load()
    if (loaded === undefined) return undefined
    const value = encodeCacheValue(key, loaded)
    if (!flight.superseded)
      await this.#driver.setMany(scope, [
        { key, value, ttlMs: jittered(ttlMs, this.#options.jitter) },
      ])
    return value
  }

  #land(tenantId: string, key: string, flight: Flight): void {
    const flights = this.#flights.get(tenantId)
    if (flights?.get(key) !== flight) return
    flights.delete(key)
    if (flights.size === 0) this.#flights.delete(tenantId)
  }

  /** A write makes a load under way stale: it must not overwrite the write, and later callers must not join it. */
  #supersede(scope: TenantScope, key: string): void {
    const flight = this.#flights.get(scope.tenant.id)?.get(key)
    if (flight === undefined) return
    flight.superseded = true
    this.#land(scope.tenant.id, key, flight)
  }

  #ttl(ttl: CacheTtl | undefined): CacheTtl {
    return ttl === undefined ? this.#options.ttlMs : assertTtl('ttl', ttl)
  }
}

/**
 * Creates a cache of the current tenant on a driver.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` for options that are wrong or unknown.
 */
export function createTenantCache(tenancy: Tenancy, options: TenantCacheOptions): TenantCache {
  return new TenantCache(tenancy, options)
}
