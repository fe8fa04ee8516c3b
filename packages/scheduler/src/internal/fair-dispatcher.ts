import { Fifo } from './fifo.ts'

/** The work of one tenant, as the dispatcher sees it. */
export interface Lane {
  /** Whether a job could be started now, were there room. */
  isReady(): boolean
  /** Starts the next job, and resolves when it is done. Called only when ready. Never rejects. */
  runNext(): Promise<void>
}

export interface DispatcherOptions {
  /** Jobs at one time, of all tenants. */
  readonly concurrency: number
  /** Jobs at one time of one tenant. */
  readonly concurrencyPerLane: number
}

interface LaneState {
  running: number
  queued: boolean
}

/**
 * Lets tenants take turns: each that has work runs one job, then the next tenant has its turn. A tenant with a thousand jobs delays another
 * tenant's by one job, not by a thousand.
 */
export class FairDispatcher {
  readonly #options: DispatcherOptions
  readonly #ring = new Fifo<Lane>()
  readonly #states = new WeakMap<Lane, LaneState>()
  #running = 0
  #open = false
  #onIdle: (() => void) | undefined

  constructor(options: DispatcherOptions) {
    this.#options = options
  }

  /** Jobs that run now. */
  get running(): number {
    return this.#running
  }

  start(): void {
    this.#open = true
    this.#fill()
  }

  /** Tells that a lane may have work. */
  offer(lane: Lane): void {
    this.#enqueue(lane)
    this.#fill()
  }

  /** Starts no further job. Resolves when none runs any more. */
  async stop(): Promise<void> {
    this.#open = false
    if (this.#running > 0)
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve
      })
  }

  #stateOf(lane: Lane): LaneState {
    let state = this.#states.get(lane)
    if (state === undefined) this.#states.set(lane, (state = { running: 0, queued: false }))
    return state
  }

  #enqueue(lane: Lane): void {
    const state = this.#stateOf(lane)
    if (state.queued || state.running >= this.#options.concurrencyPerLane || !lane.isReady()) return
    state.queued = true
    this.#ring.push(lane)
  }

  #fill(): void {
    while (this.#open && this.#running < this.#options.concurrency) {
      const lane = this.#ring.shift()
      if (lane === undefined) return
      const state = this.#stateOf(lane)
      state.queued = false
      // It may have been paused, held or emptied while it stood in the ring.
      if (!lane.isReady()) continue
      state.running++
      this.#running++
      void this.#run(lane, state)
      this.#enqueue(lane)
    }
  }

  async #run(lane: Lane, state: LaneState): Promise<void> {
    try {
      await lane.runNext()
    } finally {
      state.running--
      this.#running--
      this.#enqueue(lane)
      this.#fill()
      if (this.#running === 0) this.#onIdle?.()
    }
  }
}
