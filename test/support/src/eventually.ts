import { setTimeout as sleep } from 'node:timers/promises'

export interface EventuallyOptions {
  /** How long to wait before giving up, in milliseconds. @defaultValue `10_000` */
  readonly timeoutMs?: number
  /** The pause between two checks, in milliseconds. @defaultValue `10` */
  readonly intervalMs?: number
}

/**
 * Waits until `check` answers something truthy without throwing, and resolves to that answer: wait for the condition, never for
 * a guessed time. When time is up, rejects with the last error of the check as cause.
 */
export async function eventually<T>(
  check: () => T | Promise<T>,
  { timeoutMs = 10_000, intervalMs = 10 }: EventuallyOptions = {},
): Promise<Exclude<T, false | null | undefined | 0 | ''>> {
  const deadline = performance.now() + timeoutMs
  let cause: unknown
  do {
    try {
      const answer = await check()
      if (answer) return answer as Exclude<T, false | null | undefined | 0 | ''>
      cause = new Error('The check answered a falsy value.')
    } catch (error) {
      cause = error
    }
    await sleep(intervalMs)
  } while (performance.now() < deadline)
  throw new Error(`The condition was still not met after ${timeoutMs} ms.`, { cause })
}
