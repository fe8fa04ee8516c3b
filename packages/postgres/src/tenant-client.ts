import { setTimeout as sleep } from 'node:timers/promises'
import { TenancyError, type Tenant } from '@partywall/core'
import pg from 'pg'
import { requestCancel } from './internal/cancel-request.ts'
import { isSubmittable, type PgClientState } from './internal/pg-internals.ts'
import { type ConnectionLimits, ScopedConnection } from './internal/scoped-connection.ts'
import type { TenantPrefix } from './internal/tenant-prefix.ts'

/**
 * A client of a `TenantPool`: a `pg.Client` whose connection scopes every statement. Whoever checks one out gets a handle of it that lives for one checkout; the client itself belongs to
 * the pool, and `query` on it is refused.
 */
export class TenantClient extends pg.Client {
  readonly #connection: ScopedConnection
  #tenant: Tenant | undefined
  #settingUp = false
  readonly #pooled: boolean
  readonly #outside: <T>(fn: () => T) => T
  /** Makes the socket, where the pool was given a function for that. */
  readonly #makeStream: unknown

  /**
   * @param outside - opens sockets outside of every tenant.
   * @param limits - what one connection may gather.
   */
  constructor(
    config?: string | pg.ClientConfig,
    outside: <T>(fn: () => T) => T = (fn) => fn(),
    limits: ConnectionLimits = {},
  ) {
    super(config)
    this.#pooled = limits.pooled === true
    this.#outside = outside
    const { stream } = (typeof config === 'object' ? config : {}) as { stream?: unknown }
    this.#makeStream = typeof stream === 'function' ? stream : undefined
    const state = this.#state
    const { connection } = state
    // The default one has not been connected yet; its stream is taken over.
    this.#connection = new ScopedConnection(
      {
        stream: connection.stream,
        ssl: connection.ssl,
        sslNegotiation: connection.sslNegotiation,
        keepAlive: connection._keepAlive,
        keepAliveInitialDelayMillis: connection._keepAliveInitialDelayMillis,
      },
      limits,
    )
    state.connection = this.#connection
    // Without a listener, a connection that breaks while it is checked out would end the process.
    this.on('error', () => undefined)
    const connect = this.connect.bind(this) as (...args: unknown[]) => unknown
    // The socket outlives the call that opens it: its events must not run as the tenant of that call.
    this.connect = ((...args: unknown[]) => outside(() => connect(...args))) as typeof this.connect
    const query = this.query.bind(this) as (...args: unknown[]) => unknown
    this.#query = query
    this.query = ((...args: unknown[]) =>
      this.#settingUp ? query(...args) : this.#refuse(args)) as typeof this.query
  }

  readonly #query: (...args: unknown[]) => unknown

  get #state(): PgClientState {
    return this as unknown as PgClientState
  }

  /** @internal The base path is empty, so that nothing is found where a scope is missing or has ended. Poolers refuse settings that they do not know: behind one, the login brings the empty path. */
  getStartupConf(): Record<string, string> {
    const prototype = pg.Client.prototype as unknown as PgClientState
    const settings = prototype.getStartupConf.call(this)
    return this.#pooled ? settings : { ...settings, search_path: '' }
  }

  /** @internal */
  lend(tenant: Tenant, prefix: TenantPrefix): void {
    this.#tenant = tenant
    this.#connection.lend(tenant.id, prefix)
  }

  /** @internal What a lane works with; the client belongs to it until `takeBack`. */
  get lane(): { readonly connection: ScopedConnection; readonly types: unknown } {
    return { connection: this.#connection, types: this.#state._types }
  }

  /**
   * @internal Sends a statement for whoever the client is lent to.
   *
   * @param types - the type parsers of one checkout, where it has set some of its own.
   */
  submit(args: readonly unknown[], types?: pg.TypeOverrides): unknown {
    const state = this.#state
    const { _types } = state
    if (types !== undefined) state._types = types
    try {
      return this.#query(...args)
    } finally {
      state._types = _types
    }
  }

  /** @internal The query object of what was submitted last. */
  get lastSubmitted(): object | undefined {
    const { _queryQueue } = this.#state
    return (_queryQueue.at(-1) as object | undefined) ?? this.#activeQuery
  }

  get #activeQuery(): object | undefined {
    const state = this.#state
    // The name without the underscore is that of older versions, and a warning in newer ones.
    const active = '_activeQuery' in state ? state._activeQuery : state.activeQuery
    return (active as object | null | undefined) ?? undefined
  }

  /** @internal Takes a query out of the queue. Tells whether it was there still. */
  withdraw(query: object): boolean {
    const queue = this.#state._queryQueue as unknown[]
    const index = queue.indexOf(query)
    if (index !== -1) queue.splice(index, 1)
    return index !== -1
  }

  /**
   * @internal Asks the server to cancel a query, if it is the one that is under way. Until the server has taken the request nothing else is sent on this connection: the request names the session, not the statement, and would
   * hit the next one. `false`: it is not known whether the server has taken it.
   *
   * @param query - the one that is meant, where the client may be at another by now.
   */
  async cancelStatement(query = this.#activeQuery): Promise<boolean> {
    const { processID, secretKey, connection } = this as unknown as {
      readonly processID: number
      readonly secretKey: number
      readonly connection: { readonly ssl: unknown; readonly sslNegotiation?: string }
    }
    // A request may overtake its statement, and a session that is idle still ignores it: it is repeated until there is an answer.
    for (let pauseMs = 20; ; pauseMs = Math.min(2 * pauseMs, 1000)) {
      if (query === undefined || this.#activeQuery !== query) return true
      if (!this.#connection.underWay || !this.usable) return true
      const request = this.#outside(() =>
        requestCancel({
          host: this.host,
          port: this.port,
          processId: processID,
          secretKey,
          ssl: connection.ssl,
          sslNegotiation: connection.sslNegotiation,
          stream: this.#makeStream,
        }),
      )
      this.#connection.holdReady(request)
      if (!(await request)) return false
      await sleep(pauseMs, undefined, { ref: false })
    }
  }

  /** @internal Runs the pool's `onConnect`, which may talk without a tenant: the connection belongs to nobody yet. */
  async setUp<T>(fn: () => T): Promise<Awaited<T>> {
    this.#settingUp = true
    this.#connection.openSetup()
    try {
      return await fn()
    } finally {
      this.#settingUp = false
      this.#connection.takeBack()
    }
  }

  /** @internal Whether the connection has served as many tenants as it may. */
  get spent(): boolean {
    return this.#connection.spent
  }

  /** @internal Why the connection must not go to another tenant, as far as the server's answers tell. */
  get residue(): string | undefined {
    return this.#connection.residue
  }

  /** @internal Whether every statement that was sent has been answered to its end. */
  get settled(): boolean {
    const { readyForQuery, _queryQueue } = this.#state
    return readyForQuery === true && _queryQueue.length === 0
  }

  /** @internal Whether only the end of an answer is outstanding: the statement has failed, and ReadyForQuery is on its way. */
  get settling(): boolean {
    const state = this.#state
    return (
      !this.settled &&
      this.usable &&
      state._queryQueue.length === 0 &&
      (state._activeQuery ?? null) === null
    )
  }

  /** @internal */
  get usable(): boolean {
    const { _queryable, _ending, _ended } = this.#state
    return _queryable && !_ending && _ended !== true
  }

  /** @internal Calls back once the connection has settled, or has ended. */
  whenSettled(callback: () => void): void {
    // A new connection calls its first user back a moment before it counts itself as ready.
    if (!this.#connection.underWay) return process.nextTick(callback)
    let waiting = true
    const done = (): void => {
      if (!waiting) return
      waiting = false
      this.#connection.removeListener('readyForQuery', done)
      this.#connection.removeListener('end', done)
      // Behind the client's own listener, which comes first.
      callback()
    }
    this.#connection.on('readyForQuery', done)
    this.#connection.on('end', done)
    this.#connection.endBatch()
    // A new connection is lent from within its first ReadyForQuery, which is not told again.
    process.nextTick(() => {
      if (this.settled) done()
    })
  }

  /**
   * @internal Ends the loan. Returns why the connection must not go to the next tenant, or `undefined` if it may. Work that is still under way is cut off: behind the next loan, it
   * would run as the next tenant.
   */
  takeBack(): string | undefined {
    const reason = this.settled ? this.#connection.residue : 'an unfinished statement'
    this.#tenant = undefined
    this.#connection.takeBack()
    // A BEGIN that was held back and never sent left the client believing in a transaction.
    if (reason === undefined) this.#state._txStatus = 'I'
    if (!this.settled) this.#connection.stream.destroy()
    return reason
  }

  #refuse(args: readonly unknown[]): unknown {
    const error = new TenancyError(
      'ERR_TENANCY_USE_AFTER_RELEASE',
      this.#tenant === undefined
        ? 'The client is not checked out.'
        : 'The client is checked out by somebody else; use what connect() returned.',
      { hint: 'Set-up of new connections belongs into the option onConnect.' },
    )
    return refuseQuery(args, error)
  }
}

/** @internal Fails a query in the way that its caller listens for: callback, query object or promise. */
export function refuseQuery(args: readonly unknown[], error: TenancyError): unknown {
  const [config] = args
  const callback = args.find((argument) => typeof argument === 'function') as
    | ((error: Error) => void)
    | undefined
  if (isSubmittable(config)) {
    const query = config as { handleError?: (error: Error, connection: unknown) => void }
    process.nextTick(() => {
      if (callback !== undefined) callback(error)
      else
        query.handleError?.(error, {
          sync: () => undefined,
          flush: () => undefined,
          close: () => undefined,
        })
    })
    return config
  }
  if (callback === undefined) return Promise.reject(error)
  process.nextTick(() => callback(error))
  return undefined
}
