import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { type Tenancy, TenancyError, type Tenant, type TenantScope } from '@partywall/core'
import pg from 'pg'
import type { AbortableQuery } from './abortable-query.ts'
import { type ClusterOptions, fieldsOf, resolveCluster } from './cluster-options.ts'
import { signalOf, submitAbortable } from './internal/abortable.ts'
import { CentralPools } from './internal/central-pools.ts'
import { channelName } from './internal/channel-name.ts'
import type { TenantPoolClient } from './internal/client-handle.ts'
import { createClientHandle } from './internal/client-handle.ts'
import { type DatabaseCounts, DatabasePools } from './internal/database-pools.ts'
import { type DatabaseTarget, targetOf } from './internal/database-target.ts'
import { foreignSchemaError } from './internal/foreign-schema.ts'
import { Lanes } from './internal/lanes.ts'
import { isSubmittable } from './internal/pg-internals.ts'
import { runsCode, sharedText } from './internal/query-config.ts'
import { type TenantPrefix, TenantPrefixes } from './internal/tenant-prefix.ts'
import { TenantSubscriptions } from './internal/tenant-subscriptions.ts'
import { TenantTurns } from './internal/tenant-turns.ts'
import { UnsafeSessions } from './internal/unsafe-sessions.ts'
import { TenantClient } from './tenant-client.ts'
import {
  type ResolvedTenantPoolOptions,
  resolveTenantPoolOptions,
  type TenantPoolOptions,
} from './tenant-pool-options.ts'
import type {
  ListenOptions,
  NotificationListener,
  TenantSubscription,
} from './tenant-subscription.ts'

/** Takes a connection for a tenant. Returns the function that gives up waiting; `false` if it is too late. */
type Connect = (opened: Opened, callback: ConnectCallback) => () => boolean
type Callback = (error: Error | undefined | null, result?: unknown) => void
type ConnectCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void

/** Runs statements inside a transaction of `TenantPool.transaction`. */
export type TransactionQuery = pg.PoolClient['query'] & AbortableQuery

/** Options of `TenantPool.transaction`. */
export interface TransactionOptions {
  /** The statement that opens the transaction. @defaultValue `'begin'` */
  readonly begin?: string | undefined
  /** Aborts the transaction: waiting for a connection, in a statement, or between two. Once COMMIT was sent it has no effect. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `TenantPool.unsafeSession`. */
export interface UnsafeSessionOptions {
  /** For the audit log. */
  readonly reason: string
}

/** What `TenantPool` adds to the signatures of `pg.Pool`: its constructor sets both, so that they work without `this`. */
// oxlint-disable-next-line typescript/no-unsafe-declaration-merging -- both members are there, see the constructor
export interface TenantPool {
  query: pg.Pool['query'] & AbortableQuery
  connect(): Promise<TenantPoolClient>
  connect(options: { readonly signal?: AbortSignal | undefined }): Promise<TenantPoolClient>
  connect(
    callback: (
      error: Error | undefined,
      client: TenantPoolClient | undefined,
      done: (release?: Error | boolean) => void,
    ) => void,
  ): void
}

/**
 * A `pg.Pool` whose every statement runs in the tenant of its caller.
 *
 * The tenant is captured when `query` or `connect` is called. The scope travels with the statement, in the same round trip and the same implicit transaction, so no connection ever remembers a
 * tenant. Outside of a tenant everything is refused before a connection is taken. `central` is the one door past the isolation.
 *
 * Whoever hands the pool to a library gets what `pg.Pool` gives: promises and callbacks, cursors, streams, COPY, transactions, events.
 */
export class TenantPool extends pg.Pool {
  readonly #tenancy: Tenancy
  readonly #prefixes: TenantPrefixes
  readonly #centralOptions: pg.PoolConfig
  #central: pg.Pool | undefined
  #destroyed = 0
  readonly #waiting = new Set<ConnectCallback>()
  readonly #turns: TenantTurns
  readonly #lanes: Lanes | undefined
  readonly #checkoutTimeoutMs: number | 'never'
  readonly #madeIn: string | undefined
  /** What the pool takes to stand between it and the server; `assertPooler` compares. */
  readonly pooler: 'none' | 'transaction'
  readonly #databases: DatabasePools
  readonly #centrals: CentralPools
  /** The way to the server for what needs a session of its own; `undefined` behind a pooler. */
  readonly #direct: pg.PoolConfig | undefined
  readonly #unsafeSessions: UnsafeSessions
  #subscriptions: TenantSubscriptions | undefined
  /** The schemas that stand behind the tenant's own in its search_path. */
  readonly sharedSchemas: readonly string[]
  /** The schema that holds the tables of all tenants with `row` isolation. */
  readonly rowSchema: string

  /**
   * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
   */
  constructor(tenancy: Tenancy, options: TenantPoolOptions = {}) {
    const resolved = resolveTenantPoolOptions(options)
    const { pool, central, sharedSchemas } = resolved
    const outside = <T>(fn: () => T): T => tenancy.context.outside(fn)
    class Client extends TenantClient {
      constructor(config?: string | pg.ClientConfig) {
        super(config, outside, resolved)
      }
    }
    const { onConnect } = pool as { onConnect?: (client: pg.ClientBase) => unknown }
    super({
      ...pool,
      Client,
      ...(onConnect === undefined
        ? {}
        : { onConnect: (client: TenantClient) => client.setUp(() => onConnect(client)) }),
      // The types of pg do not know that a Client of one's own is waited for.
    } as unknown as pg.PoolConfig)
    this.#tenancy = tenancy
    this.#prefixes = new TenantPrefixes(resolved)
    this.#turns = new TenantTurns(resolved.maxPerTenant)
    this.#checkoutTimeoutMs = resolved.checkoutTimeoutMs
    this.#madeIn = tenancy.current()?.tenant.id
    this.#centralOptions = central
    this.#direct = resolved.direct
    this.#unsafeSessions = new UnsafeSessions({
      tenancy,
      max: resolved.maxUnsafeSessions,
      checkoutTimeoutMs: resolved.checkoutTimeoutMs,
    })
    this.pooler = resolved.pooled ? 'transaction' : 'none'
    this.sharedSchemas = Object.freeze([...sharedSchemas])
    this.rowSchema = resolved.rowSchema
    this.#centrals = new CentralPools(resolved.databases.connectTimeoutMs)
    this.#databases = new DatabasePools({
      own: { connection: fieldsOf(pool), central: fieldsOf(central) },
      clusters: resolved.clusters,
      limits: resolved.databases,
      connectionLimits: resolved,
      credentials: resolved.credentials,
      options: keepingOf(this.options),
      outside,
      events: this,
    })
    // An idle connection that breaks is replaced; without a listener it would end the process.
    this.on('error', () => undefined)
    const checkOut = super.connect.bind(this) as (callback: ConnectCallback) => void
    const connect: Connect = ({ scope: { tenant }, prefix: { target } }, callback) =>
      this.#wait(
        target === undefined ? checkOut : (take) => this.#databases.connect(target, tenant, take),
        tenant.id,
        callback,
      )
    this.#lanes = resolved.pipelineDepth === 'off' ? undefined : this.#openLanes(checkOut, resolved)
    const query = super.query.bind(this) as (...args: unknown[]) => unknown
    this.connect = ((given?: ConnectCallback | { readonly signal?: AbortSignal }) =>
      this.#connect(connect, given)) as typeof this.connect
    this.query = ((...args: unknown[]) =>
      // A function or a query object in the first place: pg's own refusal or its own path over connect().
      typeof args[0] === 'function' || isSubmittable(args[0])
        ? query(...args)
        : this.#query(connect, args)) as typeof this.query
  }

  /**
   * A plain pool on the same database, outside of every tenant (`ERR_TENANCY_CLOSED` after `end`, if it was never used): for the registry, for job tables, for work on the whole server. Its connections have the server's default search_path.
   * Opened at its first use; every use from within a tenant is told by the event `isolation:bypassed`.
   */
  get central(): pg.Pool {
    if (this.ending && this.#central === undefined) throw poolEnded()
    this.#tellBypass('pool.central')
    if (this.#central === undefined) {
      this.#central = this.#tenancy.context.outside(() => new pg.Pool(this.#centralOptions))
      this.#central.on('error', () => undefined)
      // The pool listens to idle connections alone; one that breaks in somebody's hands would end the process.
      this.#central.on('connect', (client) => client.on('error', () => undefined))
    }
    return this.#central
  }

  /**
   * A plain pool of at most two connections outside of every tenant, like `central`, in the database of a tenant, or in the own database of a cluster; `undefined` is the pool's own server, and its pool is `central`. For work on
   * databases and schemas there. Opened at its first use; every use from within a tenant is told by `isolation:bypassed`.
   *
   * @throws {TenancyError} `ERR_TENANCY_CLUSTER_UNKNOWN`, `ERR_TENANCY_CLOSED`.
   */
  centralOf(place: Tenant | string | undefined): pg.Pool {
    if (this.ending) throw poolEnded()
    const target =
      typeof place === 'object'
        ? targetOf(place)
        : place === undefined
          ? undefined
          : { key: JSON.stringify([place]), cluster: place, database: undefined }
    if (target === undefined) return this.central
    const { key, cluster, database } = target
    const settings = (): pg.ClientConfig => {
      const { central } = this.#databases.clusterOf(cluster)
      return database === undefined ? central : { ...central, database }
    }
    this.#databases.clusterOf(cluster, typeof place === 'object' ? place : undefined)
    this.#tellBypass('pool.centralOf')
    return this.#tenancy.context.outside(() => this.#centrals.get(key, cluster, settings))
  }

  /** @internal How the clients of the pool reach a cluster. @throws {TenancyError} `ERR_TENANCY_CLUSTER_UNKNOWN`. */
  connectionOf(cluster: string): pg.ClientConfig {
    return this.#databases.clusterOf(cluster).connection
  }

  #tellBypass(door: string): void {
    const from = this.#tenancy.current()
    if (from !== undefined)
      this.#tenancy.events.emit('isolation:bypassed', {
        door,
        from,
        reason: `${door} was used inside a tenant`,
      })
  }

  /** The connections to all databases but the pool's own, which `totalCount`, `idleCount` and `waitingCount` are about. */
  get databaseCounts(): DatabaseCounts {
    return this.#databases.counts
  }

  /**
   * Adds a cluster, or gives one other settings, credentials that were rotated for example: connections are opened with them from now on, idle ones are closed at once, and those in use when they are released. A database that
   * was not tried any more is tried again. For a password alone, a function in its place does the same without this.
   *
   * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
   */
  setCluster(name: string, options: ClusterOptions): void {
    this.#databases.setCluster(name, resolveCluster(name, options, this.options))
    this.#centrals.refresh(name)
  }

  /** Connections that were thrown away because they might have carried something of a tenant to the next one. */
  get destroyedCount(): number {
    return this.#destroyed
  }

  /**
   * Runs `fn` in one transaction of the current tenant: COMMIT when it returns, ROLLBACK when it throws or rejects. The BEGIN costs no round trip. `query` works inside `fn` only.
   * Not repeated on failure; whether a repetition is safe is the caller's to know.
   *
   * @param options - the statement that opens the transaction, `begin isolation level serializable` for example, or {@link TransactionOptions}.
   * @throws {TenancyError} `ERR_TENANCY_TRANSACTION_ABORTED` if a statement had failed and `fn` returned all the same (Postgres then answers COMMIT with ROLLBACK, without an error);
   * `ERR_TENANCY_UNIT_UNFINISHED` if `fn` returned before its statements were answered: nothing is saved. `signal.reason` if it was aborted: nothing is saved. Else what `fn` throws.
   */
  async transaction<T>(
    fn: (query: TransactionQuery) => Promise<T> | T,
    options: string | TransactionOptions = {},
  ): Promise<T> {
    const { begin = 'begin', signal } = typeof options === 'string' ? { begin: options } : options
    const client = await this.connect({ signal })
    const base = Object.getPrototypeOf(client) as TenantClient
    let open = true
    const query = ((...args: Parameters<pg.PoolClient['query']>) =>
      open
        ? (client as pg.PoolClient).query(
            ...(signal === undefined ? args : abortable(args, signal)),
          )
        : Promise.reject(
            new TenancyError(
              'ERR_TENANCY_UNIT_UNFINISHED',
              'A statement was sent after its transaction had ended.',
            ),
          )) as TransactionQuery
    let failure: Error | true | undefined = true
    // The error of a statement arrives ahead of the end of its answer.
    const settle = (): Promise<void> | undefined =>
      base.settling ? new Promise((resolve) => base.whenSettled(resolve)) : undefined
    try {
      await client.query(begin)
      let result: T
      try {
        result = await fn(query)
        signal?.throwIfAborted()
      } catch (error) {
        open = false
        await settle()
        // The error of fn is the one to tell, not that of a rollback on a broken connection.
        if (base.settled)
          await client.query('rollback').then(
            () => (failure = undefined),
            () => undefined,
          )
        throw error
      }
      open = false
      await settle()
      if (!base.settled)
        throw new TenancyError(
          'ERR_TENANCY_UNIT_UNFINISHED',
          'The transaction function returned before its statements were answered; nothing was saved.',
        )
      const { command } = await client.query('commit')
      failure = undefined
      if (command !== 'COMMIT')
        throw new TenancyError(
          'ERR_TENANCY_TRANSACTION_ABORTED',
          'A statement of the transaction had failed; nothing was saved.',
        )
      return result
    } finally {
      open = false
      client.release(failure)
    }
  }

  /**
   * Listens to a channel of the current tenant. `channel` is the tenant's own name: the same name in two tenants is two channels. The listener runs in the tenant that subscribed, once for each notification, in the order in which they were
   * committed. All subscriptions of all tenants share one connection, which is opened for the first and closed after the last, and opened again when it breaks; `onGap` tells that notifications may have been missed.
   *
   * A payload is a hint and no proof: whoever can send SQL to the database can notify any channel of it.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_CONTEXT_MISSING`; `ERR_TENANCY_OPTION_INVALID` for a channel that is no name, and behind a pooler without `direct`; `ERR_TENANCY_ISOLATION_UNSUPPORTED` for a tenant in
   * another database; `ERR_TENANCY_CLOSED`. `signal.reason` if it was aborted. Else what the server or the network says; nothing is subscribed then, and repeating it is safe.
   */
  async listen(
    channel: string,
    listener: NotificationListener,
    options: ListenOptions = {},
  ): Promise<TenantSubscription> {
    const { scope, prefix } = this.#openDirect('listen')
    if (prefix.target?.cluster !== undefined || prefix.target?.database !== undefined)
      throw new TenancyError(
        'ERR_TENANCY_ISOLATION_UNSUPPORTED',
        `Channels are of the pool's own database, and tenant ${scope.tenant.id} is in another one.`,
        { tenantId: scope.tenant.id },
      )
    this.#subscriptions ??= new TenantSubscriptions({
      tenancy: this.#tenancy,
      config: this.#directOrRefuse('listen', scope.tenant),
      keepsProcessAlive: this.options.allowExitOnIdle !== true,
    })
    return this.#subscriptions.listen(scope.tenant, channel, listener, options)
  }

  /**
   * Notifies a channel of the current tenant. In a transaction, send `notifyStatement` with it instead.
   *
   * @param payload - at most 7,999 bytes; given on as it is.
   * @throws {TenancyError} as `query` does, and `ERR_TENANCY_OPTION_INVALID` for a channel that is no name.
   */
  async notify(channel: string, payload = ''): Promise<void> {
    await this.query(this.notifyStatement(channel, payload))
  }

  /**
   * The statement that `notify` sends, for a query function, a client, or a library: `await query(pool.notifyStatement('orders', id))` inside `pool.transaction` is told when the transaction commits, and never if it does not.
   *
   * @throws {TenancyError} `ERR_TENANCY_CONTEXT_MISSING`, `ERR_TENANCY_OPTION_INVALID` for a channel that is no name.
   */
  notifyStatement(channel: string, payload = ''): { text: string; values: string[] } {
    const physical = channelName(this.#tenancy.require().tenant.id, channel)
    return { text: 'select pg_catalog.pg_notify($1, $2)', values: [physical, payload] }
  }

  /**
   * Runs `fn` with a connection of its own that is in the current tenant for its whole session: for statements that cannot run in a transaction block, like VACUUM, CREATE INDEX CONCURRENTLY or a procedure that commits. Role, search_path, `app.tenant_id` and limits of
   * time are those of the tenant, and were checked before `fn` runs. The connection is not one of the pool, is always destroyed afterwards, and there are `maxUnsafeSessions` at a time; more wait in their order. Told by `isolation:bypassed`.
   *
   * Unsafe, because the session has a state: what `fn` sets it also finds, and a statement that leaves the tenant, RESET or DISCARD ALL for example, leaves it for the rest of the session (and finds no tables then). Nothing is rolled back by itself: each statement
   * is its own transaction.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_CONTEXT_MISSING`; `ERR_TENANCY_OPTION_INVALID` without a reason, and behind a pooler without `direct`; `ERR_TENANCY_SCHEMA_MISSING`, `ERR_TENANCY_SCOPE_FAILED`; `ERR_TENANCY_POOL_EXHAUSTED` after `checkoutTimeoutMs`;
   * `ERR_TENANCY_UNIT_UNFINISHED` if `fn` returned with a statement under way or a transaction open; `ERR_TENANCY_CLOSED` if the pool ended. Else what `fn` throws.
   */
  async unsafeSession<T>(
    fn: (client: TenantPoolClient) => Promise<T> | T,
    { reason }: UnsafeSessionOptions,
  ): Promise<T> {
    if (typeof reason !== 'string' || reason.trim() === '')
      throw new TenancyError('ERR_TENANCY_OPTION_INVALID', 'unsafeSession needs a reason.')
    const { scope, prefix } = this.#openDirect('unsafeSession')
    const { tenant } = scope
    const values = this.#prefixes.valuesFor(tenant)
    const settings = (): Promise<pg.PoolConfig> => this.#sessionSettings(prefix.target, tenant)
    return this.#unsafeSessions.run(scope, settings, values, this, reason, fn)
  }

  /** The same as `end()`. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.ending) await this.end()
  }

  #openDirect(what: string): Opened {
    const opened = this.#open()
    if (opened instanceof TenancyError) throw opened
    this.#directOrRefuse(what, opened.scope.tenant)
    return opened
  }

  /** The settings of a session of a tenant's own, in whatever database the tenant is. */
  async #sessionSettings(
    target: DatabaseTarget | undefined,
    tenant: Tenant,
  ): Promise<pg.PoolConfig> {
    const direct = this.#directOrRefuse('unsafeSession', tenant)
    if (target === undefined) return direct
    const { onConnect } = direct as { onConnect?: unknown }
    const settings = await this.#databases.settingsFor(target, tenant)
    return { ...settings, ...(onConnect === undefined ? {} : { onConnect }) } as pg.PoolConfig
  }

  #directOrRefuse(what: string, { id }: Tenant): pg.PoolConfig {
    if (this.#direct !== undefined) return this.#direct
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `${what} needs a session of its own, and a pooler in transaction mode has none to give.`,
      { tenantId: id, hint: 'Set the option direct to the way past the pooler.' },
    )
  }

  /** Waits for the tenant's turn and for a connection. pg forgets whoever waits when the pool ends; here they are told. */
  #wait(
    checkOut: (callback: ConnectCallback) => (() => void) | void,
    tenantId: string,
    callback: ConnectCallback,
  ): () => boolean {
    this.#waiting.add(callback)
    let timer: NodeJS.Timeout | undefined
    let stopWaiting: (() => void) | void
    const start = (): void => {
      stopWaiting = checkOut((error, client, done) => {
        clearTimeout(timer)
        const leave = (reason?: Error | boolean): void => {
          // With some errors, pg gives nothing back to give back.
          done?.(reason)
          this.#turns.leave(tenantId)
        }
        if (!this.#waiting.delete(callback)) return leave()
        if (client === undefined) leave()
        callback(error, client, leave)
      })
    }
    const leaveQueue = this.#turns.enter(tenantId, start)
    const giveUp = (): boolean => {
      if (!this.#waiting.delete(callback)) return false
      clearTimeout(timer)
      leaveQueue()
      stopWaiting?.()
      return true
    }
    if (this.#checkoutTimeoutMs === 'never' || !this.#waiting.has(callback)) return giveUp
    timer = setTimeout(() => {
      if (giveUp())
        callback(poolExhausted(tenantId, this.#checkoutTimeoutMs), undefined, () => undefined)
    }, this.#checkoutTimeoutMs)
    timer.unref()
    return giveUp
  }

  #connect(connect: Connect, given?: ConnectCallback | { readonly signal?: AbortSignal }): unknown {
    if (typeof given === 'function') {
      const callback = AsyncResource.bind(given)
      const opened = this.#open()
      if (opened instanceof TenancyError)
        process.nextTick(() => callback(opened, undefined, () => undefined))
      else this.#checkOut(connect, opened, callback)
      return undefined
    }
    const opened = this.#open()
    if (opened instanceof TenancyError) return Promise.reject(opened)
    return new Promise<pg.PoolClient>((resolve, reject) => {
      this.#checkOut(abortableConnect(connect, given?.signal), opened, (error, client) =>
        client === undefined ? reject(error ?? new Error('No client.')) : resolve(client),
      )
    })
  }

  #checkOut(connect: Connect, { scope, prefix }: Opened, callback: ConnectCallback): void {
    connect({ scope, prefix }, (error, lent, done) => {
      if (lent === undefined) return callback(error, undefined, done)
      const client = lent as unknown as TenantClient
      client.lend(scope.tenant, prefix)
      const handle = createClientHandle({
        client,
        scope,
        context: this.#tenancy.context,
        names: this,
        giveBack: (reason) => this.#giveBack(client, scope, done, reason),
      })
      callback(undefined, handle, (reason) => handle.release(reason))
    })
  }

  #query(connect: Connect, args: unknown[]): unknown {
    // By position, as pg.Pool reads them: an absent callback may be there as undefined.
    const [config, second, third] = args
    const given = (typeof second === 'function' ? second : third) as Callback | undefined
    const values = typeof second === 'function' ? undefined : second
    const opened = this.#open(config)
    if (given !== undefined) {
      const callback = AsyncResource.bind(given)
      if (opened instanceof TenancyError) process.nextTick(() => callback(opened))
      else this.#run(connect, opened, config, values, callback)
      return undefined
    }
    if (opened instanceof TenancyError) return Promise.reject(opened)
    return new Promise((resolve, reject) => {
      this.#run(connect, opened, config, values, (error, result) =>
        error ? reject(error) : resolve(result),
      )
    }).catch((error: unknown) => {
      // As pg does: from here the stack leads to who awaits, and not to the socket. What a caller aborted with is its own.
      if (error instanceof Error && error !== signalOf(config)?.reason)
        Error.captureStackTrace(error)
      throw error
    })
  }

  #openLanes(
    checkOut: (callback: ConnectCallback) => void,
    { pipelineDepth, maxPerTenant }: ResolvedTenantPoolOptions,
  ): Lanes {
    return new Lanes({
      depth: Number(pipelineDepth),
      maxPerTenant,
      max: this.options.max,
      hasRoom: () => this.idleCount > 0 || this.totalCount < this.options.max,
      waitingCount: () => this.waitingCount,
      checkOut: (callback) =>
        checkOut((error, lent, done) => {
          if (lent === undefined) return callback(error)
          const client = lent as unknown as TenantClient
          callback(undefined, {
            ...client.lane,
            giveBack: (reason) => this.#giveBack(client, undefined, done, reason),
          })
        }),
    })
  }

  /** Runs a statement on a connection that it may share with others, if it is one for that. */
  #share(
    lanes: Lanes,
    connect: Connect,
    opened: Opened,
    config: unknown,
    values: unknown,
    callback: Callback,
  ): boolean {
    // Lanes are of the pool's own database.
    const text = opened.prefix.target === undefined ? sharedText(config) : undefined
    if (text === undefined || !lanes.takes(text)) return false
    const tenantId = opened.scope.tenant.id
    let timer: NodeJS.Timeout | undefined
    const settle: Callback = (error, result) => {
      clearTimeout(timer)
      callback(error, result)
    }
    const giveUp = lanes.run({
      tenantId,
      prefix: opened.prefix,
      text,
      config,
      values,
      within: runsCode(config, values) ? AsyncLocalStorage.snapshot() : undefined,
      callback: settle,
      redo: () => this.#runAlone(connect, opened, config, values, settle),
    })
    if (this.#checkoutTimeoutMs !== 'never') {
      timer = setTimeout(() => {
        if (giveUp()) callback(poolExhausted(tenantId, this.#checkoutTimeoutMs))
      }, this.#checkoutTimeoutMs)
      timer.unref()
    }
    return true
  }

  #run(
    connect: Connect,
    opened: Opened,
    config: unknown,
    values: unknown,
    callback: Callback,
  ): void {
    const signal = signalOf(config)
    if (signal === undefined) this.#runOnce(connect, opened, config, values, callback)
    else this.#runAbortable(connect, opened, [config, values], signal, callback)
  }

  /** One statement that its caller may abort. Always on a connection that it has to itself: a cancel request names the connection, not the statement. */
  #runAbortable(
    connect: Connect,
    { scope, prefix }: Opened,
    args: readonly unknown[],
    signal: AbortSignal,
    callback: Callback,
  ): void {
    const send: ConnectCallback = (connectError, lent, done): void => {
      if (lent === undefined) return callback(connectError)
      const client = lent as unknown as TenantClient
      client.lend(scope.tenant, prefix)
      const giveBack = (error: Error | undefined | null): void => {
        this.#giveBack(client, scope, done, error && !client.usable ? error : undefined)
      }
      try {
        submitAbortable(
          client,
          signal,
          (answer) => client.submit([...args, answer]),
          (error, result) => {
            giveBack(error)
            callback(error, result)
          },
        )
      } catch (error) {
        this.#giveBack(client, scope, done, error as Error)
        callback(error as Error)
      }
    }
    abortableConnect(connect, signal)({ scope, prefix }, AsyncResource.bind(send))
  }

  #runOnce(
    connect: Connect,
    opened: Opened,
    config: unknown,
    values: unknown,
    callback: Callback,
  ): void {
    const lanes = this.#lanes
    if (lanes === undefined || !this.#share(lanes, connect, opened, config, values, callback))
      this.#runAlone(connect, opened, config, values, callback)
  }

  /** One statement on a connection of its own. Unlike pg.Pool, an error of the server alone does not cost the connection. */
  #runAlone(
    connect: Connect,
    { scope, prefix }: Opened,
    config: unknown,
    values: unknown,
    callback: Callback,
  ): void {
    const send: ConnectCallback = (connectError, lent, done): void => {
      if (lent === undefined) return callback(connectError)
      const client = lent as unknown as TenantClient
      client.lend(scope.tenant, prefix)
      const startedAt = this.#lanes === undefined ? 0 : performance.now()
      let answered = false
      try {
        client.submit([
          config,
          values,
          (error: Error | null, result: unknown) => {
            // A parameter that cannot be written down fails its statement, and the end of the connection then fails it again.
            if (answered) return
            answered = true
            const residue = this.#giveBack(
              client,
              scope,
              done,
              error !== null && !client.usable ? error : undefined,
            )
            if (this.#lanes !== undefined && prefix.target === undefined && error === null) {
              const text = sharedText(config)
              const command = residue ?? (result as { command?: unknown }).command
              if (text !== undefined)
                this.#lanes.learn(text, command, performance.now() - startedAt)
            }
            callback(error, result)
          },
        ])
      } catch (error) {
        this.#giveBack(client, scope, done, error as Error)
        callback(error as Error)
      }
    }
    // A statement that had to wait is sent by whoever releases a connection, and the driver serialises its parameters then; some of them are code of the caller's.
    connect({ scope, prefix }, runsCode(config, values) ? AsyncResource.bind(send) : send)
  }

  #giveBack(
    client: TenantClient,
    scope: TenantScope | undefined,
    done: (release?: Error | boolean) => void,
    reason: Error | boolean | undefined,
  ): string | undefined {
    const finish = (): string | undefined => {
      const residue = client.takeBack()
      if (residue !== undefined && client.usable) {
        this.#destroyed++
        this.#tenancy.events.emit('connection:destroyed', {
          tenant: scope?.tenant,
          reason: residue,
        })
      }
      done(reason || residue !== undefined || client.spent || undefined)
      return residue
    }
    // The error of a statement arrives ahead of the end of its answer.
    if (reason || !client.settling) return finish()
    client.whenSettled(finish)
    return undefined
  }

  /** Captures the tenant of the caller. */
  #open(query?: unknown): Opened | TenancyError {
    if (this.ending) return poolEnded()
    try {
      const scope = this.#tenancy.require()
      const foreign = foreignSchemaError(query, scope.tenant, this)
      if (foreign !== undefined) return foreign
      const prefix = this.#prefixes.bytesFor(scope.tenant)
      return { scope, prefix }
    } catch (error) {
      if (TenancyError.is(error)) return error
      throw error
    }
  }

  /**
   * Closes the connections of the pool and of `central`, after those in use were released. Who waits for a connection is told by `ERR_TENANCY_CLOSED`.
   *
   * @throws {TenancyError} `ERR_TENANCY_CONTEXT_LOCKED` by rejection inside a tenant, unless the pool was made there.
   */
  override end(): Promise<void>
  override end(callback: () => void): void
  override end(callback?: () => void): Promise<void> | undefined {
    const active = this.#tenancy.current()?.tenant.id
    // What a library made inside a tenant, it may also end there; not what all tenants use.
    if (active !== undefined && active !== this.#madeIn)
      return Promise.reject(
        new TenancyError(
          'ERR_TENANCY_CONTEXT_LOCKED',
          `The pool serves other tenants too, and cannot be ended inside tenant ${active}.`,
          { tenantId: active },
        ),
      )
    const ended = this.#end()
    if (callback === undefined) return ended
    void ended.then(callback)
    return undefined
  }

  async #end(): Promise<void> {
    const waiting = Array.from(this.#waiting)
    this.#waiting.clear()
    for (const callback of waiting) callback(poolEnded(), undefined, () => undefined)
    this.#lanes?.close(poolEnded())
    await Promise.all([
      super.end(),
      this.#central?.end(),
      this.#centrals.end(),
      this.#databases.end(),
      this.#subscriptions?.close(),
      this.#unsafeSessions.end(),
    ])
  }
}

/** Waits for a connection until a signal is aborted. */
function abortableConnect(connect: Connect, signal: AbortSignal | undefined): Connect {
  if (signal === undefined) return connect
  return (opened, callback) => {
    const nothing = (): void => undefined
    if (signal.aborted) {
      process.nextTick(() => callback(signal.reason as Error, undefined, nothing))
      return () => false
    }
    const given: ConnectCallback = (...args) => {
      signal.removeEventListener('abort', abort)
      callback(...args)
    }
    const abort = (): void => {
      if (giveUp()) callback(signal.reason as Error, undefined, nothing)
    }
    signal.addEventListener('abort', abort, { once: true })
    const giveUp = connect(opened, given)
    return giveUp
  }
}

/** Puts a signal into the arguments of `query`, besides the one that may be there. */
function abortable(
  args: Parameters<pg.PoolClient['query']>,
  signal: AbortSignal,
): Parameters<pg.PoolClient['query']> {
  const [config, ...rest] = args as unknown[]
  if (isSubmittable(config)) return args
  const own = signalOf(config)
  const either = own === undefined ? signal : AbortSignal.any([own, signal])
  const settings = typeof config === 'string' ? { text: config } : config
  // The config may be of a class whose members are not its own.
  const copy =
    typeof settings === 'object' && settings !== null
      ? Object.create(settings, {
          signal: { value: either },
          values: { value: (settings as { values?: unknown }).values, writable: true },
          callback: {
            value: (settings as { callback?: unknown }).callback,
            writable: true,
          },
        })
      : config
  return [copy, ...rest] as unknown as Parameters<pg.PoolClient['query']>
}

function poolExhausted(tenantId: string, timeoutMs: number | 'never'): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_POOL_EXHAUSTED',
    `No connection was free for tenant ${tenantId} within ${timeoutMs} ms.`,
    { tenantId },
  )
}

/** What a pool is told about keeping connections, and the rest of its options are about where they go. */
function keepingOf(options: pg.PoolConfig): pg.PoolConfig {
  const { maxLifetimeSeconds, maxUses, allowExitOnIdle, verify, log, onConnect } = options
  return { maxLifetimeSeconds, maxUses, allowExitOnIdle, verify, log, onConnect }
}

function poolEnded(): TenancyError {
  return new TenancyError('ERR_TENANCY_CLOSED', 'The pool was ended.')
}

interface Opened {
  readonly scope: TenantScope
  readonly prefix: TenantPrefix
}
