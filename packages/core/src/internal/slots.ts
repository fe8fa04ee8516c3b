/**
 * A counting semaphore: so many holders at one time, the rest wait in the order of their arrival until a slot is free or they are aborted.
 */
export class Slots {
  #free: number
  readonly #waiting = new Set<() => void>()

  constructor(count: number) {
    this.#free = count
  }

  /** Whether `acquire` would wait. */
  get exhausted(): boolean {
    return this.#free === 0
  }

  /** Takes a slot; whoever got one gives it back by `release`. Rejects with the reason of the signal if that comes first. */
  async acquire(signal: AbortSignal): Promise<void> {
    if (this.#free > 0) {
      this.#free -= 1
      return
    }
    await new Promise<void>((resolve, reject) => {
      const take = (): void => {
        signal.removeEventListener('abort', leave)
        resolve()
      }
      const leave = (): void => {
        this.#waiting.delete(take)
        reject(signal.reason as Error)
      }
      this.#waiting.add(take)
      signal.addEventListener('abort', leave, { once: true })
    })
  }

  release(): void {
    // Handed over and not freed: a newcomer must not overtake those who wait.
    const [next] = this.#waiting
    if (next === undefined) {
      this.#free += 1
      return
    }
    this.#waiting.delete(next)
    next()
  }
}
