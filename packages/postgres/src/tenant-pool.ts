import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { type Tenancy, TenancyError, type Tenant, type TenantScope } from '@partywall/core'
import pg from 'pg'
import { createClientHandle } from './internal/client-handle.ts'
import { Lanes } from './internal/lanes.ts'
import { isSubmittable } from './internal/pg-internals.ts'
import { runsCode, sharedText } from './internal/query-config.ts'
import { type TenantPrefix, TenantPrefixes } from './internal/tenant-prefix.ts'
import { TenantTurns } from './internal/tenant-turns.ts'
import { TenantClient } from './tenant-client.ts'
import {
  type ResolvedTenantPoolOptions,
  resolveTenantPoolOptions,
  type TenantPoolOptions,
} from './tenant-pool-options.ts'

/** Takes a connection for a tenant. */
type Connect = (tenantId: string, callback: ConnectCallback) => void
type Callback = (error: Error | undefined | null, result?: unknown) => void
type ConnectCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: Error | boolean) => void,
) => void

/** Runs statements inside a transaction of `TenantPool.transaction`. */
export type TransactionQuery = pg.PoolClient['query']

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
    this.sharedSchemas = Object.freeze([...sharedSchemas])
    this.rowSchema = resolved.rowSchema
    // An idle connection that breaks is replaced; without a listener it would end the process.
    this.on('error', () => undefined)
    const checkOut = super.connect.bind(this) as (callback: ConnectCallback) => void
    const connect: Connect = (tenantId, callback) => this.#wait(checkOut, tenantId, callback)
    this.#lanes = resolved.pipelineDepth === 'off' ? undefined : this.#openLanes(checkOut, resolved)
    const query = super.query.bind(this) as (...args: unknown[]) => unknown
    this.connect = ((callback?: ConnectCallback) =>
      this.#connect(connect, callback)) as typeof this.connect
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
    const from = this.#tenancy.current()
    if (from !== undefined)
      this.#tenancy.events.emit('isolation:bypassed', {
        door: 'pool.central',
        from,
        reason: 'pool.central was used inside a tenant',
      })
    if (this.#central === undefined) {
      this.#central = this.#tenancy.context.outside(() => new pg.Pool(this.#centralOptions))
      this.#central.on('error', () => undefined)
    }
    return this.#central
  }

  /** Connections that were thrown away because they might have carried something of a tenant to the next one. */
  get destroyedCount(): number {
    return this.#destroyed
  }

  /**
   * Runs `fn` in one transaction of the current tenant: COMMIT when it returns, ROLLBACK when it throws or rejects. The BEGIN costs no round trip. `query` works inside `fn` only.
   * Not repeated on failure; whether a repetition is safe is the caller's to know.
   *
   * @param begin - the statement that opens the transaction, `begin isolation level serializable` for example.
   * @throws {TenancyError} `ERR_TENANCY_TRANSACTION_ABORTED` if a statement had failed and `fn` returned all the same (Postgres then answers COMMIT with ROLLBACK, without an error);
   * `ERR_TENANCY_UNIT_UNFINISHED` if `fn` returned before its statements were answered: nothing is saved. Else what `fn` throws.
   */
  async transaction<T>(
    fn: (query: TransactionQuery) => Promise<T> | T,
    begin = 'begin',
  ): Promise<T> {
    const client = await this.connect()
    const base = Object.getPrototypeOf(client) as TenantClient
    let open = true
    const query = ((...args: Parameters<pg.PoolClient['query']>) =>
      open
        ? client.query(...args)
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

  /** Waits for the tenant's turn and for a connection. pg forgets whoever waits when the pool ends; here they are told. */
  #wait(
    checkOut: (callback: ConnectCallback) => void,
    tenantId: string,
    callback: ConnectCallback,
  ): void {
    this.#waiting.add(callback)
    let timer: NodeJS.Timeout | undefined
    const start = (): void =>
      checkOut((error, client, done) => {
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
    const giveUp = this.#turns.enter(tenantId, start)
    if (this.#checkoutTimeoutMs === 'never' || !this.#waiting.has(callback)) return
    timer = setTimeout(() => {
      if (!this.#waiting.delete(callback)) return
      giveUp()
      callback(poolExhausted(tenantId, this.#checkoutTimeoutMs), undefined, () => undefined)
    }, this.#checkoutTimeoutMs)
    timer.unref()
  }

  #connect(connect: Connect, given?: ConnectCallback): unknown {
    if (given !== undefined) {
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
      this.#checkOut(connect, opened, (error, client) =>
        client === undefined ? reject(error ?? new Error('No client.')) : resolve(client),
      )
    })
  }

  #checkOut(connect: Connect, { scope, prefix }: Opened, callback: ConnectCallback): void {
    connect(scope.tenant.id, (error, lent, done) => {
      if (lent === undefined) return callback(error, undefined, done)
      const client = lent as unknown as TenantClient
      client.lend(scope.tenant, prefix)
      const handle = createClientHandle({
        client,
        scope,
        context: this.#tenancy.context,
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
    const opened = this.#open()
    if (given !== undefined) {
      const callback = AsyncResource.bind(given)
      if (opened instanceof TenancyError) process.nextTick(() => callback(opened))
      else this.#runOnce(connect, opened, config, values, callback)
      return undefined
    }
    if (opened instanceof TenancyError) return Promise.reject(opened)
    return new Promise((resolve, reject) => {
      this.#runOnce(connect, opened, config, values, (error, result) =>
        error ? reject(error) : resolve(result),
      )
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
    const text = sharedText(config)
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
      try {
        client.submit([
          config,
          values,
          (error: Error | null, result: unknown) => {
            const residue = this.#giveBack(
              client,
              scope,
              done,
              error !== null && !client.usable ? error : undefined,
            )
            if (this.#lanes !== undefined && error === null) {
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
    connect(scope.tenant.id, runsCode(config, values) ? AsyncResource.bind(send) : send)
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
  #open(): Opened | TenancyError {
    if (this.ending) return poolEnded()
    try {
      const scope = this.#tenancy.require()
      const prefix = this.#prefixes.bytesFor(scope.tenant)
      return prefix.target === undefined ? { scope, prefix } : unsupportedPlacement(scope.tenant)
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
    await Promise.all([super.end(), this.#central?.end()])
  }
}

function poolExhausted(tenantId: string, timeoutMs: number | 'never'): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_POOL_EXHAUSTED',
    `No connection was free for tenant ${tenantId} within ${timeoutMs} ms.`,
    { tenantId },
  )
}

function unsupportedPlacement({ id, isolation }: Tenant): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_ISOLATION_UNSUPPORTED',
    `Tenant ${id} is placed in ${isolation === 'schema' ? 'another database' : `a ${isolation} of its own`}, and this pool serves one database.`,
    { tenantId: id },
  )
}

function poolEnded(): TenancyError {
  return new TenancyError('ERR_TENANCY_CLOSED', 'The pool was ended.')
}

interface Opened {
  readonly scope: TenantScope
  readonly prefix: TenantPrefix
}
