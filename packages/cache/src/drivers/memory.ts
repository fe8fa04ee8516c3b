import { assertKnownKeys, TenancyError, type TenantScope } from '@partywall/core'
import { LRUCache } from 'lru-cache'
import type { CacheDriver, CacheEntry, CacheTtl } from '../cache-driver.ts'
import { globMatcher } from '../internal/glob.ts'
import { UsageHeap, type UsageHeapItem } from '../internal/usage-heap.ts'

export interface MemoryDriverOptions {
  /**
   * Memory for the entries of all tenants together, in bytes. An entry counts as two bytes per character of key and value, and 200 for its
   * book-keeping, which is more than what it really takes. @defaultValue `67_108_864` (64 MiB)
   */
  readonly maxBytes?: number | undefined
}

const ENTRY_OVERHEAD_BYTES = 200

interface Share extends UsageHeapItem {
  readonly tenantId: string
  readonly entries: LRUCache<string, string>
}

/** See {@link memoryDriver}. */
export class MemoryCacheDriver implements CacheDriver {
  readonly name = 'memory'
  readonly #maxBytes: number
  // One LRU per tenant that has entries. Only maxSize, never max: lru-cache allocates arrays of `max` slots at once.
  readonly #shares = new Map<string, Share>()
  readonly #heap = new UsageHeap<Share>()
  #usedBytes = 0

  constructor(options: MemoryDriverOptions = {}) {
    assertKnownKeys('memoryDriver', options, ['maxBytes'])
    const { maxBytes = 67_108_864 } = options
    if (!Number.isSafeInteger(maxBytes) || maxBytes < 1)
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `maxBytes must be a positive whole number, got ${String(maxBytes)}.`,
      )
    this.#maxBytes = maxBytes
  }

  /** Bytes in use, by the count of {@link MemoryDriverOptions.maxBytes}. Entries that expired count until they are met. */
  get usedBytes(): number {
    return this.#usedBytes
  }

  /** Tenants that have entries. */
  get tenantCount(): number {
    return this.#shares.size
  }

  getMany(scope: TenantScope, keys: readonly string[]): (string | undefined)[] {
    const share = this.#shares.get(scope.tenant.id)
    if (share === undefined) return keys.map(() => undefined)
    const values = keys.map((key) => share.entries.get(key))
    // A get that meets an expired entry removes it.
    if (values.includes(undefined)) this.#account(share)
    return values
  }

  setMany(scope: TenantScope, entries: readonly CacheEntry[]): void {
    for (const { key, value, ttlMs } of entries) {
      const share = this.#share(scope.tenant.id)
      share.entries.set(key, value, {
        size: sizeOf(key, value),
        ttl: ttlMs === 'never' ? 0 : ttlMs,
      })
      this.#account(share)
      this.#evict()
    }
  }

  has(scope: TenantScope, key: string): boolean {
    return this.#shares.get(scope.tenant.id)?.entries.has(key) ?? false
  }

  delete(scope: TenantScope, key: string): boolean {
    const share = this.#shares.get(scope.tenant.id)
    if (share === undefined) return false
    const existed = share.entries.has(key)
    share.entries.delete(key)
    this.#account(share)
    return existed
  }

  increment(scope: TenantScope, key: string, by: number, ttlMs: CacheTtl): number | undefined {
    const current = this.#shares.get(scope.tenant.id)?.entries.get(key)
    if (current !== undefined && !/^-?\d+$/.test(current)) return undefined
    const sum = Number(current ?? 0) + by
    if (!Number.isSafeInteger(sum)) return undefined
    const share = this.#share(scope.tenant.id)
    const value = String(sum)
    share.entries.set(key, value, {
      size: sizeOf(key, value),
      ttl: ttlMs === 'never' ? 0 : ttlMs,
      noUpdateTTL: current !== undefined,
    })
    this.#account(share)
    this.#evict()
    return sum
  }

  keys(scope: TenantScope, pattern: string): string[] {
    const share = this.#shares.get(scope.tenant.id)
    return share === undefined ? [] : [...share.entries.keys()].filter(globMatcher(pattern))
  }

  clear(scope: TenantScope): number {
    const share = this.#shares.get(scope.tenant.id)
    if (share === undefined) return 0
    share.entries.purgeStale()
    const count = share.entries.size
    share.entries.clear()
    this.#account(share)
    return count
  }

  #share(tenantId: string): Share {
    const existing = this.#shares.get(tenantId)
    if (existing !== undefined) return existing
    const entries = new LRUCache<string, string>({ maxSize: this.#maxBytes })
    const share: Share = { tenantId, entries, usage: 0, position: 0 }
    this.#shares.set(tenantId, share)
    this.#heap.add(share)
    return share
  }

  /** Brings the books in line with what an operation did to a share. A tenant without entries costs nothing. */
  #account(share: Share): void {
    const usage = share.entries.calculatedSize
    this.#usedBytes += usage - share.usage
    share.usage = usage
    if (share.entries.size > 0) return this.#heap.update(share)
    this.#heap.remove(share)
    this.#shares.delete(share.tenantId)
  }

  /**
   * Takes from whoever uses most until the budget holds. So a tenant loses entries only while no other has more than it, which means
   * that it is at or above the budget divided by the number of tenants: a noisy tenant evicts its own entries, never a quiet one's.
   */
  #evict(): void {
    while (this.#usedBytes > this.#maxBytes) {
      const largest = this.#heap.largest()
      if (largest === undefined) return
      largest.entries.pop()
      this.#account(largest)
    }
  }
}

/**
 * Keeps entries in the memory of this process, in one budget that tenants share fairly: when it is full, the tenant that uses
 * most loses its least recently used entries, so one tenant cannot push out the entries of another. Lost when the process ends; other processes have their own.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function memoryDriver(options: MemoryDriverOptions = {}): MemoryCacheDriver {
  return new MemoryCacheDriver(options)
}

function sizeOf(key: string, value: string): number {
  return 2 * (key.length + value.length) + ENTRY_OVERHEAD_BYTES
}
