import { Cron } from 'croner'

/** A croner object takes 81 KiB, so tenants with the same pattern share one. */
class CronEvaluator {
  readonly #cron: Cron
  #from = Number.POSITIVE_INFINITY
  #next: number | undefined

  constructor(pattern: string, timezone: string) {
    // Without a function it starts no timer; it only computes.
    this.#cron = new Cron(pattern, { timezone, mode: '5-or-6-parts' })
  }

  nextAfter(fromMs: number): number | undefined {
    // A thousand tenants of one pattern ask the same question at the same tick: until the next run, the answer stays.
    if (fromMs >= this.#from && this.#next !== undefined && fromMs < this.#next) return this.#next
    this.#next = this.#cron.nextRun(new Date(fromMs))?.getTime()
    this.#from = fromMs
    return this.#next
  }
}

const MOST = 200
const evaluators = new Map<string, CronEvaluator>()

/**
 * The first time after `fromMs` at which a pattern is due, in milliseconds since the epoch; `undefined` if there is none. A fixed time in the gap
 * of a change to summer time is due after the gap, and a time that occurs twice once.
 *
 * @throws {Error} of croner, for a pattern that is none.
 */
export function nextCronRun(pattern: string, timezone: string, fromMs: number): number | undefined {
  const key = `${timezone} ${pattern}`
  let evaluator = evaluators.get(key)
  if (evaluator === undefined) evaluator = new CronEvaluator(pattern, timezone)
  // Least recently used first.
  evaluators.delete(key)
  evaluators.set(key, evaluator)
  for (const oldest of evaluators.keys()) {
    if (evaluators.size <= MOST) break
    evaluators.delete(oldest)
  }
  return evaluator.nextAfter(fromMs)
}

/** Evaluators in memory, for the test of the bound. */
export function cronEvaluators(): number {
  return evaluators.size
}
