import type { Tenant } from '@partywall/core'
import pg from 'pg'
import { TenantClient } from '../tenant-client.ts'
import type { DatabaseTarget } from './database-target.ts'
import type { PgClientState } from './pg-internals.ts'
import type { ConnectionLimits } from './scoped-connection.ts'

/** A connection that is asked to end has this long to say goodbye, so that a server that vanished does not keep its place. */
const CLOSE_TIMEOUT_MS = 5_000

/** Somebody who waits for a connection. */
export interface Waiter {
  readonly tenant: Tenant
  readonly callback: LendCallback
  /** It has gone, or was answered. */
  over: boolean
}

export type LendCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void

export interface DatabasePoolParts {
  readonly target: DatabaseTarget
  /** What each connection may gather. */
  readonly limits: ConnectionLimits
  /** How connections are kept; not where they go. */
  readonly options: pg.PoolConfig
  /** Opens sockets outside of every tenant. */
  readonly outside: <T>(fn: () => T) => T
  /** Called when a connection has ended. */
  readonly onEnd: (pool: DatabasePool) => void
}

/** What a connection is opened with. */
export interface DatabaseSettings {
  readonly config: pg.ClientConfig
  /** The state of the cluster's settings at that time. */
  readonly generation: number
}

/**
 * The connections of one target: a `pg.Pool`, which opens, keeps and closes them, and whose own queue is never used. Every connection is built with the settings of the moment, so that other credentials need no other pool.
 */
export class DatabasePool {
  readonly target: DatabaseTarget
  readonly pool: pg.Pool
  /** Those who wait, in the order in which they came. */
  readonly waiting = new Set<Waiter>()
  /** Places that are taken by attempts which have not built their connection yet. */
  reserved = 0
  #open = 0
  #settings: DatabaseSettings | undefined
  readonly #generations = new WeakMap<object, number>()

  constructor({ target, limits, options, outside, onEnd }: DatabasePoolParts) {
    this.target = target
    const take = (): DatabaseSettings => this.#settings as DatabaseSettings
    const opened = (client: TenantClient, generation: number): void => {
      this.#open++
      this.#generations.set(client, generation)
      client.once('end', () => {
        this.#open--
        onEnd(this)
      })
    }
    class Client extends TenantClient {
      constructor() {
        const { config, generation } = take()
        super(config, outside, limits)
        opened(this, generation)
        const cutOff = (): void => {
          ;(this as unknown as PgClientState).connection.stream.destroy()
        }
        const connect = this.connect.bind(this) as (callback: (error?: Error) => void) => void
        this.connect = ((callback: (error?: Error, client?: unknown) => void) =>
          connect((...answer) => {
            // pg forgets the socket of a login that failed; some servers wait a minute for the password.
            if (answer[0]) cutOff()
            callback(...answer)
          })) as typeof this.connect
        const end = this.end.bind(this) as (...args: unknown[]) => unknown
        this.end = ((...args: unknown[]) => {
          const timer = setTimeout(cutOff, CLOSE_TIMEOUT_MS)
          timer.unref()
          this.once('end', () => clearTimeout(timer))
          return end(...args)
        }) as typeof this.end
      }
    }
    this.pool = new pg.Pool({ ...options, Client })
  }

  /** Connections, from the attempt to open one until its socket has closed. */
  get open(): number {
    // pg.Pool builds one for each that was asked of it beyond those that are idle, but not at once.
    const asked = Math.max(0, this.pool.waitingCount - this.pool.idleCount)
    return this.#open + this.reserved + asked
  }

  /** Connections that nobody has and nobody was promised. */
  get idle(): number {
    return this.pool.idleCount - this.pool.waitingCount
  }

  /** Whether there are connections that work. */
  get live(): boolean {
    return this.#lent + this.pool.idleCount > 0
  }

  #lent = 0

  generationOf(client: object): number | undefined {
    return this.#generations.get(client)
  }

  /** Lends an idle connection. */
  take(callback: LendCallback): void {
    this.#connect(callback)
  }

  /** Opens a connection; the place that it takes must be reserved. */
  openWith(settings: DatabaseSettings, callback: LendCallback): void {
    this.#settings = settings
    this.reserved--
    this.#connect(callback)
  }

  #connect(callback: LendCallback): void {
    try {
      this.pool.connect(((error, client, done) => {
        if (client === undefined) return callback(error, undefined, done)
        this.#lent++
        callback(undefined, client, (reason) => {
          this.#lent--
          done(reason)
        })
      }) as Parameters<pg.Pool['connect']>[0])
    } catch (error) {
      // Settings that pg refuses to build a client from.
      callback(error as Error, undefined, () => undefined)
    }
  }
}
