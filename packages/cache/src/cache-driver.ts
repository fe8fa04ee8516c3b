import type { MaybePromise, TenantScope } from '@partywall/core'

/** How long an entry lives: milliseconds, or `'never'` for one that does not expire. */
export type CacheTtl = number | 'never'

/** An entry to store. `value` is JSON text; a driver neither reads nor changes it. */
export interface CacheEntry {
  readonly key: string
  readonly value: string
  readonly ttlMs: CacheTtl
}

/**
 * What `TenantCache` keeps entries in. `TenantCache` owns everything else: checking keys and values, finding the tenant, lifetimes and
 * single flight. A driver only has to keep tenants apart: the pair of `scope.tenant.id` and key names an entry, and the same key in
 * two tenants is two entries. A cache may forget at any time; it must never give back another entry's value, or one that has expired.
 *
 * Every member answers at once or by a promise. A driver is used by many calls at the same time.
 */
export interface CacheDriver {
  /** For messages: `'memory'`, `'redis'`. */
  readonly name: string
  /** The values of `keys`, in their order; `undefined` for what is not there. */
  getMany(
    scope: TenantScope,
    keys: readonly string[],
  ): MaybePromise<readonly (string | undefined)[]>
  /** Stores all entries, each with a lifetime that starts now. A repeated key takes its last value. */
  setMany(scope: TenantScope, entries: readonly CacheEntry[]): MaybePromise<void>
  /** Whether there is an entry. */
  has(scope: TenantScope, key: string): MaybePromise<boolean>
  /** Removes an entry and tells whether there was one. */
  delete(scope: TenantScope, key: string): MaybePromise<boolean>
  /**
   * Adds `by` to a whole number, atomically. An absent entry counts as 0 and gets `ttlMs`; a present one keeps the lifetime it has.
   *
   * Resolves to the new value, or to `undefined`, and changes nothing, if the entry is no whole number or the sum is no safe integer.
   */
  increment(
    scope: TenantScope,
    key: string,
    by: number,
    ttlMs: CacheTtl,
  ): MaybePromise<number | undefined>
  /** The keys that match a glob in Redis's form (`*`, `?`, `[a-z]`, `[^a]`, `\` before a literal), each once, in any order. */
  keys(scope: TenantScope, pattern: string): MaybePromise<string[]>
  /** Removes every entry of this tenant and no other, and tells how many. */
  clear(scope: TenantScope): MaybePromise<number>
}
