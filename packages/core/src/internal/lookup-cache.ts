import { LRUCache } from 'lru-cache'
import { TenancyError } from '../errors.ts'
import type { ResolvedLookupOptions } from '../lookup-options.ts'
import type { MaybePromise } from './maybe-promise.ts'
import { Slots } from './slots.ts'

interface Entry<V> {
  readonly value: V
  readonly fetchedAt: number
  /** The epoch in which it was fetched; an invalidation of everything begins a new one. */
  readonly epoch: number
  /** Set when a refresh failed: the epoch of the failure, and when the next refresh is due. */
  readonly outage?: { readonly epoch: number; readonly retryAt: number }
}

export interface LookupCacheHooks {
  /** Milliseconds of a monotonic clock. */
  readonly now: () => number
  /** Runs a function outside of every tenant: the store is asked there. */
  readonly outside: <T>(fn: () => T) => T
  readonly onFailure: (error: unknown, servedStale: boolean) => void
}

/**
 * How long a failed refresh keeps the next one away. While a store is down, the requests of a known tenant must neither wait for its time limit one after the
 * other nor add to its load.
 */
const RETRY_AFTER_MS = 1_000

/**
 * Caches a look-up by name: LRU with a maximum age, bounded memory of unknown names, single flight, stale-while-revalidate, stale-if-error, and a
 * bound on what unknown names may cost the store. A hit is answered at once, without a promise.
 */
export class LookupCache<V extends object> {
  readonly #known: LRUCache<string, Entry<V>>
  readonly #unknown: LRUCache<string, number>
  /** Names that were known when they were invalidated: their next look-up waits for its turn instead of being turned away. */
  readonly #wasKnown: LRUCache<string, true>
  readonly #flights = new Map<string, Promise<V | undefined>>()
  readonly #slots: Slots
  readonly #load: (name: string, signal: AbortSignal) => Promise<V | undefined>
  readonly #options: ResolvedLookupOptions
  readonly #hooks: LookupCacheHooks
  #epoch = 0
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
    this.#wasKnown = new LRUCache({ max: options.maxTenants })
    this.#slots = new Slots(options.maxConcurrent)
    this.#budget = options.maxUnknownPerSecond
    this.#budgetAt = hooks.now()
  }

  /** Number of cached names: known and unknown. */
  get size(): number {
    return this.#known.size + this.#unknown.size
  }

  /** Whether a name that is not cached would be turned away now. */
  get refuses(): boolean {
    return this.#slots.exhausted || !this.#hasBudget()
  }

  /** Number of look-ups under way. */
  get pending(): number {
    return this.#flights.size
  }

  /**
   * @throws {TenancyError} `ERR_TENANCY_STORE_BUSY`, `ERR_TENANCY_STORE_UNAVAILABLE`; always by rejection.
   */
  find(name: string): MaybePromise<V | undefined> {
    const entry = this.#known.get(name)
    const now = this.#hooks.now()
    if (entry === undefined) {
      const unknownUntil = this.#unknown.get(name)
      if (unknownUntil !== undefined && now < unknownUntil) return undefined
      return this.#fly(name, undefined)
    }
    const age = now - entry.fetchedAt
    const valid = entry.epoch === this.#epoch
    if (valid && age < this.#options.maxAgeMs) return entry.value
    if (
      (valid && age < this.#options.maxAgeMs + this.#options.staleWhileRevalidateMs) ||
      (entry.outage?.epoch === this.#epoch && this.#usableInOutage(entry, now))
    ) {
      // This caller does not wait for the outcome, which is handled inside.
      if (entry.outage === undefined || now >= entry.outage.retryAt)
        this.#fly(name, entry).catch(() => undefined)
      return entry.value
    }
    return this.#fly(name, entry)
  }

  /** Forgets one name. A look-up that is under way serves those who wait for it, and is not cached. */
  invalidate(name: string): void {
    if (this.#known.delete(name)) this.#wasKnown.set(name, true)
    this.#unknown.delete(name)
    this.#flights.delete(name)
  }

  /** Forgets that anything is fresh; what is known may still serve while the store fails. */
  invalidateAll(): void {
    this.#epoch += 1
    this.#unknown.clear()
    this.#flights.clear()
  }

  clear(): void {
    this.#known.clear()
    this.#wasKnown.clear()
    this.#unknown.clear()
    this.#flights.clear()
  }

  #fly(name: string, stale: Entry<V> | undefined): Promise<V | undefined> {
    const underWay = this.#flights.get(name)
    if (underWay !== undefined) return underWay
    // A known tenant waits for its turn; what may be a flood of random names is turned away.
    if (stale === undefined && !this.#wasKnown.has(name) && this.refuses)
      return Promise.reject(storeBusy())
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
      const now = this.#hooks.now()
      if (value === undefined) {
        this.#known.delete(name)
        this.#wasKnown.delete(name)
        this.#unknown.set(name, now + this.#options.unknownMaxAgeMs)
      } else {
        this.#unknown.delete(name)
        this.#wasKnown.delete(name)
        this.#known.set(name, { value, fetchedAt: now, epoch: this.#epoch })
      }
      return value
    } catch (cause) {
      // A name that is not known to exist pays for a failure, too: a flood must not hammer a store that is coming up.
      if (stale === undefined) this.#budget -= 1
      const now = this.#hooks.now()
      // An invalidation in the meantime says that the old record is wrong.
      const usable = stale !== undefined && current() && this.#usableInOutage(stale, now)
      if (usable) {
        const outage = { epoch: this.#epoch, retryAt: now + RETRY_AFTER_MS }
        this.#known.set(name, { ...stale, outage })
      }
      this.#hooks.onFailure(cause, usable)
      if (usable) return stale.value
      throw new TenancyError('ERR_TENANCY_STORE_UNAVAILABLE', 'The tenant store failed.', { cause })
    } finally {
      if (current()) this.#flights.delete(name)
    }
  }

  #usableInOutage(entry: Entry<V>, now: number): boolean {
    return now - entry.fetchedAt < this.#options.maxAgeMs + this.#options.staleIfErrorMs
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
      // Whoever is still in the queue hears of the time limit by the signal.
      late.catch(() => undefined)
      try {
        await this.#slots.acquire(abort.signal)
        try {
          return await Promise.race([this.#load(name, abort.signal), late])
        } finally {
          // Also for a store that never settles: its slot must not be lost.
          this.#slots.release()
        }
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
      this.#budget + (Math.max(0, now - this.#budgetAt) / 1000) * maxUnknownPerSecond,
    )
    this.#budgetAt = now
    return this.#budget >= 1
  }
}

/** The answer to whoever asks for a name that may be one of a flood. */
export function storeBusy(): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_STORE_BUSY',
    'Too many look-ups of tenants that are not cached.',
  )
}
