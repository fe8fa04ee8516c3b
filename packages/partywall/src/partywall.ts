import type { TenantCache, TenantRedis } from '@partywall/cache'
import type { PluginHost, Tenancy, TenantScope } from '@partywall/core'
import {
  type TenancyErrorHandlerOptions,
  type TenancyMiddlewareOptions,
  tenancyErrorHandler,
  tenancyMiddleware,
} from '@partywall/express'
import type { TenancyPluginOptions } from '@partywall/fastify'
import type { TenantPool } from '@partywall/postgres'
import type { TenantScheduler } from '@partywall/scheduler'
import type { FastifyPluginCallback } from 'fastify'
import type { Kysely } from 'kysely'
import type { Closers } from './internal/closers.ts'
import { boundTenancyPlugin } from './internal/fastify-plugin.ts'
import { createTenantKysely, type KyselyPeer } from './internal/tenant-kysely.ts'
import type { PartywallServices } from './plugin-services.ts'
import type { TenantManager } from './tenant-manager.ts'

/** @internal What a {@link Partywall} is made of. */
export interface PartywallParts {
  readonly tenancy: Tenancy
  readonly pool: TenantPool
  readonly cache: TenantCache
  readonly redis: TenantRedis | undefined
  readonly scheduler: TenantScheduler
  readonly plugins: PluginHost<PartywallServices>
  readonly tenants: TenantManager
  readonly kysely: KyselyPeer
  readonly closers: Closers
}

/** Everything of a process with tenants. Made by `createPartywall`. */
export class Partywall implements AsyncDisposable {
  readonly tenancy: Tenancy
  /** A `pg.Pool` whose statements run in the tenant of their caller. */
  readonly pool: TenantPool
  readonly cache: TenantCache
  /** An ioredis client whose keys are those of the current tenant; `undefined` without `redis.url`. */
  readonly redis: TenantRedis | undefined
  readonly scheduler: TenantScheduler
  /** Calls actions in the active tenant: `wall.plugins.call('orders', 'create', input)`. */
  readonly plugins: PluginHost<PartywallServices>
  readonly tenants: TenantManager
  readonly #kysely: KyselyPeer
  readonly #closers: Closers
  #db: Kysely<any> | undefined
  #closing: Promise<void> | undefined

  /** @internal */
  constructor({ closers, kysely, ...parts }: PartywallParts) {
    this.tenancy = parts.tenancy
    this.pool = parts.pool
    this.cache = parts.cache
    this.redis = parts.redis
    this.scheduler = parts.scheduler
    this.plugins = parts.plugins
    this.tenants = parts.tenants
    this.#kysely = kysely
    this.#closers = closers
  }

  /**
   * A Kysely on the tables of the current tenant. Give it the type of your tables: `const db: Kysely<Database> = wall.db`.
   *
   * @throws {TenancyError} `ERR_TENANCY_PEER_MISSING` when it is used without the package kysely.
   */
  get db(): Kysely<any> {
    return (this.#db ??= createTenantKysely(this.#kysely, this.pool))
  }

  /** The middleware for Express; see `tenancyMiddleware` of `@partywall/express`. */
  express(options?: TenancyMiddlewareOptions): ReturnType<typeof tenancyMiddleware> {
    return tenancyMiddleware(this.tenancy, options)
  }

  /** The error handler for Express, behind the routes. */
  expressErrorHandler(
    options?: TenancyErrorHandlerOptions,
  ): ReturnType<typeof tenancyErrorHandler> {
    return tenancyErrorHandler(options)
  }

  /** The plugin for Fastify: `await app.register(wall.fastify())`; see `tenancyPlugin` of `@partywall/fastify`. */
  fastify(options: Omit<TenancyPluginOptions, 'tenancy'> = {}): FastifyPluginCallback {
    return boundTenancyPlugin(this.tenancy, options)
  }

  /** Runs `fn` in a tenant, for scripts and tests. Rejects as `tenancy.run` does. */
  run<T>(tenantId: string, fn: (scope: TenantScope) => T): Promise<Awaited<T>> {
    return this.tenancy.run(tenantId, fn)
  }

  /**
   * Stops jobs, ends pools and connections, and shuts an embedded Postgres down, in this order. Everything refuses from then on. Repeating it is harmless.
   *
   * Close the HTTP server before: requests that still run lose their connections.
   *
   * @throws {AggregateError} after everything was tried, if a part of it failed.
   */
  close(): Promise<void> {
    // Outside of every tenant: a handler may close the wall, and connections that all tenants share refuse to be closed by one.
    return (this.#closing ??= this.tenancy.context.outside(() => this.#closers.closeAll()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
