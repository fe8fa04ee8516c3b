import type { EventEmitter } from 'node:events'
import { TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import type {
  Cluster,
  CredentialsOf,
  ResolvedDatabases,
  TenantCredentials,
} from '../cluster-options.ts'
import { CircuitBreaker } from './circuit-breaker.ts'
import {
  credentialsUnavailable,
  databaseAvoided,
  databaseUnavailable,
  serverAnswered,
  serverSilent,
} from './connect-error.ts'
import {
  DatabasePool,
  type DatabaseSettings,
  type LendCallback,
  type Waiter,
} from './database-pool.ts'
import { type DatabaseTarget, isServerName } from './database-target.ts'
import type { ConnectionLimits } from './scoped-connection.ts'

/** A server and how it is reached now. */
interface Server {
  cluster: Cluster
  /** Grows with each change of the settings. */
  generation: number
  /** Attempts to connect that are under way. */
  connecting: number
}

export interface DatabasePoolsParts {
  /** The pool's own server. */
  readonly own: Cluster
  readonly clusters: ReadonlyMap<string, Cluster>
  readonly limits: ResolvedDatabases
  readonly connectionLimits: ConnectionLimits
  readonly credentials: CredentialsOf | undefined
  /** What `pg.Pool` takes about keeping connections. */
  readonly options: pg.PoolConfig
  readonly outside: <T>(fn: () => T) => T
  /** Hears what happens to connections, in the events of `pg.Pool`. */
  readonly events: EventEmitter
}

/** The connections to all databases but the pool's own. */
export interface DatabaseCounts {
  /** Places with connections or callers. */
  readonly databases: number
  /** Connections, from the attempt to open one until its socket has closed. */
  readonly total: number
  readonly idle: number
  /** Callers who wait for one. */
  readonly waiting: number
}

/** The part of the fleet that attempts to reach one server may take: one that does not answer must leave room for the others. */
const CONNECTING_SHARE = 4

/**
 * Pools of tenants that are not in the pool's own database: one for each target, made at its first use and forgotten with its last connection. The number of connections is bounded for each and over all of them.
 *
 * A caller gets an idle connection of the target, or a new one, or one for which the least recently used idle connection of another target is closed; or waits. Targets take turns, and within a target the first comes first.
 */
export class DatabasePools {
  readonly #parts: DatabasePoolsParts
  readonly #servers = new Map<string | undefined, Server>()
  /** By key, the least recently used first. */
  readonly #pools = new Map<string, DatabasePool>()
  /** Those with callers who wait, in the order of their turns. */
  readonly #turns = new Set<DatabasePool>()
  /** Idle connections that are being closed to make room. */
  readonly #closing = new Set<object>()
  #aboutToClose = 0
  readonly #breaker: CircuitBreaker
  #ending = false
  #ended: (() => void) | undefined

  constructor(parts: DatabasePoolsParts) {
    this.#parts = parts
    this.#breaker = new CircuitBreaker(parts.limits.breaker)
    this.#servers.set(undefined, { cluster: parts.own, generation: 0, connecting: 0 })
    for (const [name, cluster] of parts.clusters) this.setCluster(name, cluster)
  }

  get counts(): DatabaseCounts {
    const pools = [...this.#pools.values()]
    return {
      databases: pools.length,
      total: this.#total,
      idle: pools.reduce((sum, { idle }) => sum + idle, 0),
      waiting: pools.reduce((sum, { waiting }) => sum + waiting.size, 0),
    }
  }

  /** @throws {TenancyError} `ERR_TENANCY_CLUSTER_UNKNOWN`. */
  clusterOf(name: string | undefined, tenant?: Tenant): Cluster {
    return this.#server(name, tenant).cluster
  }

  /** Adds a cluster, or gives it other settings: connections are opened with them from now on, idle ones are closed, and those in use end when they are given back. */
  setCluster(name: string, cluster: Cluster): void {
    const server = this.#servers.get(name)
    if (server === undefined) {
      this.#servers.set(name, { cluster, generation: 0, connecting: 0 })
      return
    }
    server.cluster = cluster
    server.generation++
    this.#breaker.succeeded(serverPlace(name))
    for (const pool of this.#pools.values()) {
      if (pool.target.cluster !== name) continue
      this.#breaker.succeeded(pool.target.key)
      for (let idle = pool.idle; idle > 0; idle--) this.#closeIdle(pool)
    }
    this.#serve()
  }

  /** Asks for a connection of a target. Returns the function that gives up waiting, which calls back with an error; harmless once there was an answer. */
  connect(target: DatabaseTarget, tenant: Tenant, callback: LendCallback): () => void {
    const waiter: Waiter = { tenant, callback, over: false }
    try {
      this.#server(target.cluster, tenant)
    } catch (error) {
      this.#refuse(waiter, error as Error)
      return () => undefined
    }
    const pool = this.#pools.get(target.key) ?? this.#create(target)
    pool.waiting.add(waiter)
    this.#turns.add(pool)
    this.#serve()
    return () => {
      if (!pool.waiting.delete(waiter)) return
      this.#refuse(waiter, new Error('The caller did not wait any longer.'))
      this.#settle(pool)
    }
  }

  /** Refuses who waits, and closes every connection once it is given back. Resolves when the last one has closed. */
  async end(): Promise<void> {
    // The caller is told by the pool itself that it ends it twice.
    if (this.#ending) return
    this.#ending = true
    for (const pool of Array.from(this.#pools.values())) {
      for (const waiter of pool.waiting)
        this.#refuse(waiter, new TenancyError('ERR_TENANCY_CLOSED', 'The pool was ended.'))
      pool.waiting.clear()
      void pool.pool.end()
      this.#settle(pool)
    }
    this.#turns.clear()
    await new Promise<void>((resolve) => {
      this.#ended = resolve
      this.#tellEnd()
    })
  }

  get #total(): number {
    let total = 0
    for (const pool of this.#pools.values()) total += pool.open
    return total
  }

  #server(name: string | undefined, tenant: Tenant | undefined): Server {
    const server = this.#servers.get(name)
    if (server !== undefined) return server
    throw new TenancyError(
      'ERR_TENANCY_CLUSTER_UNKNOWN',
      tenant === undefined
        ? `There is no cluster ${JSON.stringify(name)}.`
        : `Tenant ${tenant.id} is placed on the cluster ${JSON.stringify(name)}, which the pool does not have.`,
      { tenantId: tenant?.id },
    )
  }

  #create(target: DatabaseTarget): DatabasePool {
    const { connectionLimits, limits, options, outside, events } = this.#parts
    const pool = new DatabasePool({
      target,
      limits: connectionLimits,
      options: {
        ...options,
        max: limits.maxPerDatabase,
        min: 0,
        idleTimeoutMillis: limits.idleTimeoutMs === 'never' ? 0 : limits.idleTimeoutMs,
        connectionTimeoutMillis: limits.connectTimeoutMs,
      },
      outside,
      onEnd: (ended) => {
        this.#settle(ended)
        this.#serve()
      },
    })
    // Of lending and giving back this class tells itself: not every one of the member's is for a caller.
    pool.pool.on('connect', (client) => events.emit('connect', client))
    pool.pool.on('remove', (client) => events.emit('remove', client))
    pool.pool.on('error', (error, client) => events.emit('error', error, client))
    this.#pools.set(target.key, pool)
    return pool
  }

  /** Forgets a pool that has nothing left; its next caller makes another one. */
  #settle(pool: DatabasePool): void {
    if (pool.waiting.size === 0) this.#turns.delete(pool)
    if (pool.open === 0 && pool.waiting.size === 0 && pool.pool.totalCount === 0)
      this.#pools.delete(pool.target.key)
    this.#tellEnd()
  }

  #tellEnd(): void {
    if (this.#ended !== undefined && this.#total === 0) this.#ended()
  }

  /** Serves one caller of each target in turn, until nobody can be served. */
  #serve(): void {
    if (this.#ending) return
    this.#parts.outside(() => {
      let served = true
      while (served) {
        served = false
        // Connections that will be closed soon, each for one who waits.
        let coming = this.#closing.size + this.#aboutToClose
        for (const pool of Array.from(this.#turns)) {
          const [waiter] = pool.waiting
          if (waiter === undefined) continue
          const outcome = this.#serveOne(pool, waiter, coming)
          if (outcome === 'served') {
            served = true
            pool.waiting.delete(waiter)
            // To the end of the row.
            this.#turns.delete(pool)
            if (pool.waiting.size > 0) this.#turns.add(pool)
          } else if (outcome === 'awaits room') coming--
        }
      }
    })
  }

  #serveOne(
    pool: DatabasePool,
    waiter: Waiter,
    coming: number,
  ): 'served' | 'awaits room' | 'awaits its own' {
    const { maxConnections, maxPerDatabase } = this.#parts.limits
    if (pool.idle > 0) {
      pool.take((...answer) => this.#lend(pool, waiter, ...answer))
      return 'served'
    }
    const { target } = pool
    const server = this.#server(target.cluster, waiter.tenant)
    const place = serverPlace(target.cluster)
    if (!pool.live && !(this.#breaker.allows(place) && this.#breaker.allows(target.key))) {
      const cause = this.#breaker.causeOf(target.key) ?? this.#breaker.causeOf(place)
      this.#refuse(waiter, databaseAvoided(waiter.tenant, cause))
      return 'served'
    }
    if (pool.open >= maxPerDatabase) return 'awaits its own'
    if (server.connecting >= Math.max(1, Math.floor(maxConnections / CONNECTING_SHARE)))
      return 'awaits its own'
    if (this.#total < maxConnections) {
      void this.#open(pool, server, waiter)
      return 'served'
    }
    if (coming <= 0) this.#makeRoom(pool)
    return 'awaits room'
  }

  /** Closes an idle connection of the target that was used least recently. Whoever has one keeps it. */
  #makeRoom(forPool: DatabasePool): void {
    for (const pool of this.#pools.values())
      if (pool !== forPool && pool.idle > 0) return this.#closeIdle(pool)
  }

  /** pg.Pool closes no connection that is idle, only one that is given back. */
  #closeIdle(pool: DatabasePool): void {
    this.#aboutToClose++
    pool.take((_error, client, done) => {
      this.#aboutToClose--
      if (client === undefined) return
      this.#closing.add(client)
      client.once('end', () => this.#closing.delete(client))
      done(true)
    })
  }

  async #open(pool: DatabasePool, server: Server, waiter: Waiter): Promise<void> {
    const { target } = pool
    const place = serverPlace(target.cluster)
    const { generation } = server
    pool.reserved++
    server.connecting++
    this.#breaker.begin(place)
    this.#breaker.begin(target.key)
    const answered: LendCallback = (error, client, done) => {
      server.connecting--
      if (client === undefined) {
        const current = server.generation === generation
        this.#failed(pool, waiter, error, current)
        this.#settle(pool)
      } else {
        this.#breaker.succeeded(place)
        this.#breaker.succeeded(target.key)
        this.#lend(pool, waiter, error, client, done)
      }
      this.#serve()
    }
    let settings: DatabaseSettings
    try {
      settings = { config: await this.settingsFor(target, waiter.tenant), generation }
    } catch (error) {
      pool.reserved--
      const cause = TenancyError.is(error) ? error : credentialsUnavailable(waiter.tenant, error)
      return answered(cause, undefined, () => undefined)
    }
    if (!this.#ending) return pool.openWith(settings, answered)
    pool.reserved--
    answered(
      new TenancyError('ERR_TENANCY_CLOSED', 'The pool was ended.'),
      undefined,
      () => undefined,
    )
  }

  #configOf({ cluster }: Server, { database }: DatabaseTarget): pg.ClientConfig {
    return database === undefined ? cluster.connection : { ...cluster.connection, database }
  }

  /** The settings of a connection to a target that is not one of the fleet. Rejects as a checkout does where there are none. */
  async settingsFor(target: DatabaseTarget, tenant: Tenant): Promise<pg.ClientConfig> {
    const server = this.#server(target.cluster, tenant)
    return target.login === undefined
      ? this.#configOf(server, target)
      : this.#configWithLogin(server, target, target.login, tenant)
  }

  async #configWithLogin(
    server: Server,
    target: DatabaseTarget,
    login: string,
    tenant: Tenant,
  ): Promise<pg.ClientConfig> {
    const { credentials, limits } = this.#parts
    const config = this.#configOf(server, target)
    const answer: Partial<TenantCredentials> | undefined = await inTime(
      limits.connectTimeoutMs,
      async () => await credentials?.(tenant),
    )
    const { user = login, password } = answer ?? {}
    if (!isServerName(user) || typeof password !== 'string')
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `credentials gave no user and password for tenant ${tenant.id}.`,
        { tenantId: tenant.id },
      )
    // An empty one would be looked up in the environment.
    return { ...config, user, password: password || (() => '') }
  }

  /** @param current - the settings of the attempt are still those of the cluster. */
  #failed(pool: DatabasePool, waiter: Waiter, cause: unknown, current: boolean): void {
    const { key, cluster } = pool.target
    const place = serverPlace(cluster)
    if (!current && !this.#ending) {
      this.#breaker.ended(place)
      this.#breaker.ended(key)
      pool.waiting.add(waiter)
      this.#turns.add(pool)
      return
    }
    if (serverSilent(cause)) this.#breaker.failed(place, cause)
    else if (serverAnswered(cause)) this.#breaker.succeeded(place)
    else this.#breaker.ended(place)
    this.#breaker.failed(key, cause)
    this.#refuse(waiter, TenancyError.is(cause) ? cause : databaseUnavailable(waiter.tenant, cause))
  }

  #lend(
    pool: DatabasePool,
    waiter: Waiter,
    error: Error | undefined,
    client: pg.PoolClient | undefined,
    done: (release?: Error | boolean) => void,
  ): void {
    if (client === undefined) return this.#refuse(waiter, databaseUnavailable(waiter.tenant, error))
    const { events } = this.#parts
    this.#touch(pool)
    events.emit('acquire', client)
    waiter.over = true
    waiter.callback(undefined, client, (reason) => {
      this.#touch(pool)
      const stale = pool.generationOf(client) !== this.#servers.get(pool.target.cluster)?.generation
      done(reason || stale || undefined)
      events.emit('release', reason, client)
      this.#serve()
    })
  }

  #refuse(waiter: Waiter, error: Error): void {
    if (waiter.over) return
    waiter.over = true
    process.nextTick(() => waiter.callback(error, undefined, () => undefined))
  }

  /** The one that was used last stands last. */
  #touch(pool: DatabasePool): void {
    if (this.#pools.delete(pool.target.key)) this.#pools.set(pool.target.key, pool)
  }
}

/** A server as a place of its own for the breaker; the key of a database is a JSON list. */
function serverPlace(cluster: string | undefined): string {
  return JSON.stringify({ cluster })
}

/** Rejects after a time. What was asked goes on, and nobody listens. */
async function inTime<T>(ms: number, fn: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  try {
    return await Promise.race([
      fn(),
      new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => reject(new Error(`No credentials within ${ms} ms.`)), ms)
      }),
    ])
  } finally {
    clearTimeout(timer)
  }
}
