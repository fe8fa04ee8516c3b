import { LRUCache } from 'lru-cache'
import { TenancyError } from '../errors.ts'
import type { ResolvedLookupOptions } from '../lookup-options.ts'
import type { MaybePromise } from './maybe-promise.ts'

interface Entry<V> {
  readonly value: V
  /** When it was fetched; `-Infinity` after an invalidation of everything: then it is good for nothing but an outage. */
  readonly fetchedAt: number
}

export interface LookupCacheHooks {
  /** Milliseconds of a monotonic clock. */
  readonly now: () => number
  /** Whether the store is asked outside of every tenant. */
  readonly outside: <T>(fn: () => T) => T
  readonly onFailure: (error: unknown, servedStale: boolean) => void
}

/**
 * Caches a look-up by name: LRU with a maximum age, bounded memory of unknown names, single flight, stale-while-revalidate, stale-if-error, and a
 * bound on what unknown names may cost the store. A hit is answered at once, without a promise.
 */
export class LookupCache<V extends object> {
  readonly #known: LRUCache<string, Entry<V>>
  readonly #unknown: LRUCache<string, number>
  readonly #flights = new Map<string, Promise<V | undefined>>()
  readonly #load: (name: string, signal: AbortSignal) => Promise<V | undefined>
  readonly #options: ResolvedLookupOptions
  readonly #hooks: LookupCacheHooks
  #budget: number
  #budgetAt: number

  constructor(
    load: (name: string, signal: AbortSignal) => Promise<V | undefined>,
    options: ResolvedLookupOptions,
    hooks: LookupCacheHooks,
  ) {
    this.#load = load
    this.#options = options
    this.#hooks = hooks
    this.#known = new LRUCache({ max: options.maxTenants })
    this.#unknown = new LRUCache({ max: options.maxUnknown })
    this.#budget = options.maxUnknownPerSecond
    this.#budgetAt = hooks.now()
  }

  /** Number of cached names: known and unknown. */
  get size(): number {
    return this.#known.size + this.#unknown.size
  }

  /**
   * @throws {TenancyError} `ERR_TENANCY_STORE_BUSY`, `ERR_TENANCY_STORE_UNAVAILABLE`; always by rejection.
   */
  find(name: string): MaybePromise<V | undefined> {
    const entry = this.#known.get(name)
    const now = this.#hooks.now()
    if (entry !== undefined) {
      const age = now - entry.fetchedAt
      if (age < this.#options.maxAgeMs) return entry.value
      if (age < this.#options.maxAgeMs + this.#options.staleWhileRevalidateMs) {
        // The outcome is handled inside; this caller does not wait for it.
        this.#fly(name, entry).catch(() => undefined)
        return entry.value
      }
      return this.#fly(name, entry)
    }
    const unknownUntil = this.#unknown.get(name)
    if (unknownUntil !== undefined && now < unknownUntil) return undefined
    return this.#fly(name, undefined)
  }

  /** Forgets one name. A look-up that is under way serves those who wait for it, and is not cached. */
  invalidate(name: string): void {
    this.#known.delete(name)
    this.#unknown.delete(name)
    this.#flights.delete(name)
  }

  /** Forgets that anything is fresh; what is known may still serve while the store fails. */
  invalidateAll(): void {
    const entries = [...this.#known.entries()].reverse()
    this.#known.clear()
    const now = this.#hooks.now()
    const { maxAgeMs, staleWhileRevalidateMs } = this.#options
    for (const [name, { value, fetchedAt }] of entries)
      this.#known.set(name, {
        value,
        fetchedAt: Math.min(fetchedAt, now - maxAgeMs - staleWhileRevalidateMs),
      })
    this.#unknown.clear()
    this.#flights.clear()
  }

  clear(): void {
    this.#known.clear()
    this.#unknown.clear()
    this.#flights.clear()
  }

  #fly(name: string, stale: Entry<V> | undefined): Promise<V | undefined> {
    const underWay = this.#flights.get(name)
    if (underWay !== undefined) return underWay
    if (
      stale === undefined &&
      (this.#flights.size >= this.#options.maxConcurrent || !this.#hasBudget())
    )
      return Promise.reject(
        new TenancyError(
          'ERR_TENANCY_STORE_BUSY',
          'Too many look-ups of tenants that are not cached.',
        ),
      )
    const flight: Promise<V | undefined> = this.#fetch(
      name,
      stale,
      () => this.#flights.get(name) === flight,
    )
    this.#flights.set(name, flight)
    return flight
  }

  async #fetch(
    name: string,
    stale: Entry<V> | undefined,
    current: () => boolean,
  ): Promise<V | undefined> {
    try {
      const value = await this.#ask(name)
      if (value === undefined) this.#budget -= 1
      if (!current()) return value
      if (value === undefined) {
        this.#known.delete(name)
        this.#unknown.set(name, this.#hooks.now() + this.#options.unknownMaxAgeMs)
      } else {
        this.#unknown.delete(name)
        this.#known.set(name, { value, fetchedAt: this.#hooks.now() })
      }
      return value
    } catch (cause) {
      const usable =
        stale !== undefined &&
        // An invalidation in the meantime says that the old record is wrong.
        current() &&
        this.#hooks.now() - stale.fetchedAt < this.#options.maxAgeMs + this.#options.staleIfErrorMs
      this.#hooks.onFailure(cause, usable)
      if (usable) return stale.value
      throw new TenancyError('ERR_TENANCY_STORE_UNAVAILABLE', 'The tenant store failed.', { cause })
    } finally {
      if (current()) this.#flights.delete(name)
    }
  }

  /** Asks the store once, within the time limit, outside of every context: the answer is for all who wait. */
  #ask(name: string): Promise<V | undefined> {
    return this.#hooks.outside(async () => {
      const abort = new AbortController()
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => {
          const error = new Error(`No answer within ${this.#options.timeoutMs} ms.`)
          abort.abort(error)
          reject(error)
        }, this.#options.timeoutMs)
        timer.unref()
      })
      try {
        return await Promise.race([this.#load(name, abort.signal), late])
      } finally {
        clearTimeout(timer)
      }
    })
  }

  /** A token bucket: unknown names take a token each, time gives them back. */
  #hasBudget(): boolean {
    const { maxUnknownPerSecond } = this.#options
    const now = this.#hooks.now()
    this.#budget = Math.min(
      maxUnknownPerSecond,
      this.#budget + ((now - this.#budgetAt) / 1000) * maxUnknownPerSecond,
    )
    this.#budgetAt = now
    return this.#budget >= 1
  }
}
