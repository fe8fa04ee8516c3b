import { TenancyError } from '@partywall/core'
import type { CacheTtl } from '../cache-driver.ts'

/** Returns a lifetime. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function assertTtl(option: string, ttlMs: unknown): CacheTtl {
  if (ttlMs === 'never') return ttlMs
  if (typeof ttlMs === 'number' && Number.isSafeInteger(ttlMs) && ttlMs > 0) return ttlMs
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} must be a positive whole number of milliseconds or 'never', got ${String(ttlMs)}.`,
  )
}

/** A lifetime moved at random by at most the fraction `jitter`, and at least 1 ms. */
export function jittered(ttlMs: CacheTtl, jitter: number | 'off', random = Math.random): CacheTtl {
  if (ttlMs === 'never' || jitter === 'off') return ttlMs
  return Math.max(1, Math.round(ttlMs * (1 - jitter + 2 * jitter * random())))
}
