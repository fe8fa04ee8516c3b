import { TenancyError, type Tenant } from '@partywall/core'
import pg from 'pg'
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

  /** @internal Runs the pool's `onConnect`, which may talk without a tenant: the connection belongs to nobody yet. */
  async setUp(fn: () => unknown): Promise<void> {
    this.#settingUp = true
    this.#connection.openSetup()
    try {
      await fn()
    } finally {
      this.#settingUp = false
      this.#connection.takeBack()
    }
  }

  /** @internal Whether the connection has served as many tenants as it may. */
  get spent(): boolean {
    return this.#connection.spent
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
    const done = (): void => {
      this.#connection.removeListener('readyForQuery', done)
      this.#connection.removeListener('end', done)
      // Behind the client's own listener, which comes first.
      callback()
    }
    this.#connection.on('readyForQuery', done)
    this.#connection.on('end', done)
    this.#connection.endBatch()
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
