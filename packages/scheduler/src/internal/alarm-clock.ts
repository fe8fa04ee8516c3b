/** One thing that is to happen at a time. */
export interface Alarm {
  /** Takes it back. Harmless afterwards. */
  cancel(): void
}

interface Entry extends Alarm {
  readonly at: number
  /** Alarms of the same time go off in the order in which they were set. */
  readonly order: number
  ring: (() => void) | undefined
}

// setTimeout takes 31 bits, and fires at once beyond.
const LONGEST_SLEEP_MS = 2_147_483_647

/**
 * Any number of alarms on one timer: a binary heap, and a `setTimeout` for the earliest. The timer does not keep the process alive.
 *
 * `now` may be a clock that people set. It is read again at least every `longestSleepMs`, so that after a jump forward alarms
 * are late by that much at most; after a jump backward they wait for their time.
 */
export class AlarmClock {
  readonly #now: () => number
  readonly #longestSleepMs: number
  #heap: Entry[] = []
  #cancelled = 0
  #timer: NodeJS.Timeout | undefined
  #timerAt = Number.POSITIVE_INFINITY
  #order = 0
  #closed = false

  constructor(now: () => number, longestSleepMs = LONGEST_SLEEP_MS) {
    this.#now = now
    this.#longestSleepMs = longestSleepMs
  }

  now(): number {
    return this.#now()
  }

  /** Calls `ring` at a time of this clock, or soon if it has passed. `ring` must not throw. */
  set(at: number, ring: () => void): Alarm {
    const entry: Entry = {
      at,
      order: this.#order++,
      ring,
      cancel: () => {
        if (entry.ring === undefined) return
        entry.ring = undefined
        this.#cancelled++
        this.#compact()
      },
    }
    if (this.#closed) return entry
    this.#push(entry)
    this.#arm()
    return entry
  }

  /** Alarms in memory, cancelled ones that still take room included. */
  get size(): number {
    return this.#heap.length
  }

  close(): void {
    this.#closed = true
    this.#heap = []
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #arm(): void {
    const first = this.#heap[0]
    if (first === undefined || (this.#timer !== undefined && this.#timerAt <= first.at)) return
    clearTimeout(this.#timer)
    this.#timerAt = first.at
    const sleepMs = Math.min(Math.max(0, Math.ceil(first.at - this.#now())), this.#longestSleepMs)
    this.#timer = setTimeout(() => this.#wake(), sleepMs)
    this.#timer.unref()
  }

  #wake(): void {
    this.#timer = undefined
    const now = this.#now()
    for (let first = this.#heap[0]; first !== undefined && first.at <= now; first = this.#heap[0]) {
      this.#pop()
      const { ring } = first
      if (ring === undefined) this.#cancelled--
      first.ring = undefined
      ring?.()
    }
    this.#arm()
  }

  /** Cancelled entries leave at their time; too many of them leave at once. */
  #compact(): void {
    if (this.#cancelled < 64 || this.#cancelled * 2 < this.#heap.length) return
    const kept = this.#heap.filter((entry) => entry.ring !== undefined)
    this.#cancelled = 0
    // A sorted list is a heap.
    this.#heap = kept.sort((a, b) => (before(a, b) ? -1 : 1))
  }

  #push(entry: Entry): void {
    const heap = this.#heap
    let index = heap.push(entry) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      const above = heap[parent] as Entry
      if (!before(entry, above)) break
      heap[index] = above
      index = parent
    }
    heap[index] = entry
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return
    let index = 0
    for (;;) {
      let child = 2 * index + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1] as Entry, heap[child] as Entry)) child++
      if (!before(heap[child] as Entry, last)) break
      heap[index] = heap[child] as Entry
      index = child
    }
    heap[index] = last
  }
}

function before(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}
