import { assertKnownKeys, TenancyError } from '@partywall/core'
import type { CacheDriver, CacheTtl } from './cache-driver.ts'
import { assertTtl } from './internal/ttl.ts'

export interface TenantCacheOptions {
  /** Where entries are kept: `memoryDriver()`, `redisDriver(redis)`, or your own. */
  readonly driver: CacheDriver
  /** Lifetime in milliseconds of entries that are stored without one; `'never'` disables expiry. @defaultValue `60_000` */
  readonly ttlMs?: CacheTtl | undefined
  /**
   * The fraction by which the lifetime of entries that `remember` stores is varied at random, up and down, so that entries loaded
   * together do not expire together. At least 0 and below 1; `'off'` stores the exact lifetime. @defaultValue `0.1`
   */
  readonly jitter?: number | 'off' | undefined
}

export type ResolvedTenantCacheOptions = Readonly<{
  driver: CacheDriver
  ttlMs: CacheTtl
  jitter: number | 'off'
}>

const MEMBERS = ['getMany', 'setMany', 'has', 'delete', 'increment', 'keys', 'clear'] as const

/** Fills in defaults. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function resolveTenantCacheOptions(options: TenantCacheOptions): ResolvedTenantCacheOptions {
  assertKnownKeys('createTenantCache', options, ['driver', 'ttlMs', 'jitter'])
  const { driver, ttlMs = 60_000, jitter = 0.1 } = options
  for (const member of MEMBERS)
    if (typeof driver?.[member] !== 'function')
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `driver must be a CacheDriver; it has no ${member}().`,
        { hint: 'Use memoryDriver() or redisDriver(redis).' },
      )
  assertTtl('ttlMs', ttlMs)
  if (jitter !== 'off' && !(typeof jitter === 'number' && jitter >= 0 && jitter < 1))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `jitter must be a number from 0 to below 1, or 'off', got ${String(jitter)}.`,
    )
  return Object.freeze({ driver, ttlMs, jitter })
}
