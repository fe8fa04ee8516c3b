import { Lane, type LaneUnit } from './lane.ts'
import type { ScopedConnection } from './scoped-connection.ts'
import { TenantTurns } from './tenant-turns.ts'

/** A client that was checked out for a lane. */
export interface LaneClient {
  readonly connection: ScopedConnection
  readonly types: unknown
  /** Gives the client back to the pool. */
  readonly giveBack: (error?: Error) => void
}

export interface LanesOptions {
  /** Statements that are under way on one connection at a time. */
  readonly depth: number
  readonly maxPerTenant: number
  /** Checks out a client for whoever comes. */
  readonly checkOut: (callback: (error: Error | undefined, client?: LaneClient) => void) => void
  /** The connections of the pool. */
  readonly max: number
  /** Whether a connection is idle or may be opened. */
  readonly hasRoom: () => boolean
  /** Callers of the pool who wait for a connection, lanes that are to open among them. */
  readonly waitingCount: () => number
}

/** How long a text takes, in milliseconds, as a moving average; `'never'`: it does not end with its statement. */
type Known = { tookMs: number } | 'never'

/** Texts that are remembered. */
const MAX_TEXTS = 2_000
/** A statement that takes longer than a round trip by this has a connection to itself, and nobody is put behind one that does. In milliseconds. */
const SLOW_MS = 20
/** How much the newest of the times counts. */
const NEWEST = 0.2
/** Statements whose effect ends with them. */
const HARMLESS: ReadonlySet<unknown> = new Set(['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'MERGE'])

/**
 * Shares the connections of a pool between autocommit statements when all are busy.
 *
 * Only statements that are known take part: those that ran by themselves before, left nothing in the session and were quick. While somebody waits for a connection of his own, lanes take nothing more and drain.
 */
export class Lanes {
  readonly #options: LanesOptions
  readonly #turns: TenantTurns
  readonly #texts = new Map<string, Known>()
  readonly #lanes = new Set<Lane>()
  readonly #waiting = new Set<LaneUnit>()
  #opening = 0
  /** The quickest of what is known: about a round trip. */
  #floorMs = Number.POSITIVE_INFINITY

  constructor(options: LanesOptions) {
    this.#options = options
    this.#turns = new TenantTurns(options.maxPerTenant * options.depth)
  }

  /** Whether a text may share a connection. */
  takes(text: string): boolean {
    const known = this.#texts.get(text)
    return known !== undefined && known !== 'never' && known.tookMs < this.#slowMs
  }

  /** @param command - as pg reports it; `undefined` for a text of several statements, or one that left something behind. */
  learn(text: string, command: unknown, tookMs: number): void {
    if (HARMLESS.has(command)) this.#time(text, tookMs)
    else this.#remember(text, 'never')
  }

  #time(text: string, tookMs: number): void {
    const known = this.#texts.get(text)
    if (known === 'never') return
    if (known === undefined) this.#remember(text, { tookMs })
    else known.tookMs += (tookMs - known.tookMs) * NEWEST
    // Forgotten slowly, because a round trip may become longer.
    this.#floorMs = Math.min(this.#floorMs * 1.001, tookMs)
  }

  #remember(text: string, known: Known): void {
    const oldest = this.#texts.keys().next()
    if (this.#texts.size >= MAX_TEXTS && !this.#texts.has(text) && !oldest.done)
      this.#texts.delete(oldest.value)
    this.#texts.set(text, known)
  }

  /** Runs a unit on a lane, now or when there is one. Returns the function that takes it out of the queue, `false` if it has been sent. */
  run(unit: LaneUnit): () => boolean {
    let started = false
    const counted: LaneUnit = {
      ...unit,
      callback: (error, result) => {
        this.#turns.leave(unit.tenantId)
        unit.callback(error, result)
      },
      redo: () => {
        this.#turns.leave(unit.tenantId)
        unit.redo()
      },
    }
    const giveUp = this.#turns.enter(unit.tenantId, () => {
      started = true
      this.#start(counted)
    })
    return () => {
      if (!started) {
        giveUp()
        return true
      }
      if (!this.#waiting.delete(counted)) return false
      this.#turns.leave(unit.tenantId)
      return true
    }
  }

  /** Tells whoever waits that nothing comes. */
  close(error: Error): void {
    for (const unit of this.#waiting) unit.callback(error)
    this.#waiting.clear()
  }

  get #slowMs(): number {
    return SLOW_MS + (Number.isFinite(this.#floorMs) ? this.#floorMs : 0)
  }

  /** Somebody who wants a connection to himself waits for one. */
  get #yields(): boolean {
    return this.#options.waitingCount() > this.#opening
  }

  #start(unit: LaneUnit): void {
    const lane = this.#options.hasRoom() ? undefined : this.#leastLoaded()
    if (lane !== undefined) return lane.push(unit)
    this.#waiting.add(unit)
    this.#open()
  }

  #leastLoaded(): Lane | undefined {
    if (this.#yields) return undefined
    let best: Lane | undefined
    for (const lane of this.#lanes)
      if (
        lane.load < Math.min(this.#options.depth, best?.load ?? Number.POSITIVE_INFINITY) &&
        lane.joinable(this.#slowMs)
      )
        best = lane
    return best
  }

  /** Asks for a connection, unless enough are lanes or about to be. */
  #open(): void {
    if (
      this.#opening >= this.#waiting.size ||
      this.#opening + this.#lanes.size >= this.#options.max
    )
      return
    this.#opening++
    this.#options.checkOut((error, client) => {
      this.#opening--
      if (client === undefined) {
        const [unit] = this.#waiting
        if (unit === undefined) return
        this.#waiting.delete(unit)
        // Those behind it would wait for a lane that nobody opens.
        this.#open()
        unit.callback(error ?? new Error('No client.'))
        return
      }
      const { connection, types, giveBack } = client
      const lane: Lane = new Lane(connection, types, {
        onResult: (text, tookMs) => {
          if (tookMs === undefined) this.#remember(text, 'never')
          else this.#time(text, tookMs)
        },
        onAnswer: () => this.#refill(lane, this.#yields, giveBack),
        onEnd: (reason) => {
          this.#lanes.delete(lane)
          giveBack(reason)
          this.#open()
        },
      })
      this.#lanes.add(lane)
      this.#refill(lane, false, giveBack)
    })
  }

  /** Gives a lane what waits, unless it is to drain, and its connection back when nothing is on it. */
  #refill(lane: Lane, drain: boolean, giveBack: () => void): void {
    if (!this.#lanes.has(lane)) return
    // What waits is spread over the lanes that are about to open.
    let take = drain ? 0 : Math.ceil(this.#waiting.size / (this.#opening + 1))
    for (const unit of this.#waiting) {
      // A unit whose parameters cannot be written down may have closed the lane.
      if (
        !this.#lanes.has(lane) ||
        take-- <= 0 ||
        lane.load >= this.#options.depth ||
        !lane.joinable(this.#slowMs)
      )
        break
      this.#waiting.delete(unit)
      lane.push(unit)
    }
    if (lane.load > 0 || !this.#lanes.has(lane)) return
    this.#lanes.delete(lane)
    lane.close()
    // Behind those who wait for a connection of their own.
    this.#open()
    giveBack()
  }
}
