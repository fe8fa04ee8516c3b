import type { ResolvedDatabases } from '../cluster-options.ts'

/** A place that failed lately. */
interface Trouble {
  failures: number
  /** On the clock of `performance.now`. */
  closedUntil: number
  probing: boolean
  cause: unknown
}

/** Places that are remembered. More fail at once only where many tenants share a cause, and that is a server, which has an entry of its own. */
const MAX_PLACES = 1_000

/**
 * Stops trying what fails: after some failures in a row, callers are refused for a time that grows with each further failure; then one of them may try. Remembers only what failed, and of that the last thousand.
 */
export class CircuitBreaker {
  readonly #options: ResolvedDatabases['breaker']
  readonly #places = new Map<string, Trouble>()

  constructor(options: ResolvedDatabases['breaker']) {
    this.#options = options
  }

  /** Whether an attempt may be made now. */
  allows(place: string): boolean {
    const trouble = this.#places.get(place)
    if (trouble === undefined || this.#options === 'off') return true
    if (trouble.failures < this.#options.failures) return true
    return !trouble.probing && performance.now() >= trouble.closedUntil
  }

  /** Why the last attempt failed. */
  causeOf(place: string): unknown {
    return this.#places.get(place)?.cause
  }

  /** Says that an attempt begins. Its end must be told, by `succeeded`, `failed` or `ended`. */
  begin(place: string): void {
    const trouble = this.#places.get(place)
    if (trouble !== undefined) trouble.probing = true
  }

  succeeded(place: string): void {
    this.#places.delete(place)
  }

  /** The attempt says nothing about the place. */
  ended(place: string): void {
    const trouble = this.#places.get(place)
    if (trouble !== undefined) trouble.probing = false
  }

  failed(place: string, cause: unknown): void {
    if (this.#options === 'off') return
    const { failures: limit, firstMs, longestMs } = this.#options
    const failures = (this.#places.get(place)?.failures ?? 0) + 1
    const delay = Math.min(longestMs, firstMs * 2 ** Math.min(30, Math.max(0, failures - limit)))
    this.#places.delete(place)
    this.#places.set(place, {
      failures,
      closedUntil: failures < limit ? 0 : performance.now() + delay,
      probing: false,
      cause,
    })
    if (this.#places.size <= MAX_PLACES) return
    const [oldest] = this.#places.keys()
    if (oldest !== undefined) this.#places.delete(oldest)
  }

  /** How many places are remembered. */
  get size(): number {
    return this.#places.size
  }
}
