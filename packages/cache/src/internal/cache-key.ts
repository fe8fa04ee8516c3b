import { TenancyError } from '@partywall/core'

const MAX_KEY_BYTES = 65_536

/**
 * Returns a key. One with a lone surrogate is refused: UTF-8 cannot carry it, so two such keys would be one in Redis.
 *
 * @throws {TenancyError} `ERR_TENANCY_CACHE_KEY_INVALID`.
 */
export function assertCacheKey(key: unknown): string {
  if (typeof key !== 'string') throw invalid(`A cache key must be a string, got ${typeof key}.`)
  if (key === '') throw invalid('A cache key must not be empty.')
  // Bytes are counted only where they can matter: a UTF-16 unit is at most 3 bytes.
  if (key.length * 3 > MAX_KEY_BYTES && Buffer.byteLength(key) > MAX_KEY_BYTES)
    throw invalid(`A cache key of ${Buffer.byteLength(key)} bytes is too long.`)
  if (!key.isWellFormed()) throw invalid('A cache key must not contain a lone surrogate.')
  return key
}

/** In bytes. Matching takes time in proportion to it, and it is often made of what somebody typed. */
const MAX_PATTERN_BYTES = 1_024

/**
 * Returns a pattern for keys.
 *
 * @throws {TenancyError} `ERR_TENANCY_CACHE_KEY_INVALID`.
 */
export function assertCachePattern(pattern: unknown): string {
  const checked = assertCacheKey(pattern)
  const length = Buffer.byteLength(checked)
  if (length > MAX_PATTERN_BYTES)
    throw invalid(`A pattern of ${length} bytes is too long; ${MAX_PATTERN_BYTES} are allowed.`)
  return checked
}

function invalid(message: string): TenancyError {
  return new TenancyError('ERR_TENANCY_CACHE_KEY_INVALID', message)
}
