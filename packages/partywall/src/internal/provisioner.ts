import {
  ForEachError,
  type PluginHost,
  type Tenancy,
  TenancyError,
  type Tenant,
  type TenantStatus,
} from '@partywall/core'
import {
  assertNoShadowedTables,
  assertNotShared,
  type ClusterOptions,
  createTenantDatabase,
  createTenantRole,
  createTenantSchema,
  type MigrationSet,
  migrateTenant,
  type PostgresTenantStore,
  schemaOf,
  type TenantPool,
} from '@partywall/postgres'
import type { TenantScheduler } from '@partywall/scheduler'
import type pg from 'pg'
import type { TenantConfig } from '../partywall-config.ts'
import type { PartywallServices } from '../plugin-services.ts'
import { seedOnce } from './seed-ledger.ts'
import type { KyselyPeer } from './tenant-kysely.ts'

/** A step of `wall.tenants.create`, in their order. */
export type ProvisioningStep = 'record' | 'schema' | 'migrations' | 'seeds' | 'schedules' | 'status'

export interface ProvisionerParts {
  readonly tenancy: Tenancy
  readonly store: PostgresTenantStore
  /**
   * A pool for provisioning alone. A seed holds a connection while the plugins that it calls take others from `wall.pool`; from one pool, a few tenants that are created at once could wait for each
   * other for ever.
   */
  readonly pool: TenantPool
  /** A plain pool, as the owner of everything. */
  readonly central: pg.Pool
  /** The login of `pool`, where tenants have roles of their own. */
  readonly gate: string | undefined
  readonly clusters: Readonly<Record<string, ClusterOptions>>
  readonly kysely: KyselyPeer
  readonly host: PluginHost<PartywallServices>
  readonly scheduler: TenantScheduler
  /** By `name@version`. */
  readonly migrations: ReadonlyMap<string, MigrationSet>
}

/** Tenants at one time, where all of them are visited. */
const CONCURRENCY = 4
const ANY_LIVE: readonly TenantStatus[] = ['provisioning', 'active', 'suspended', 'archived']

/** Makes a tenant usable, and keeps it so. Every part is safe to repeat and to race. */
export class Provisioner {
  readonly #parts: ProvisionerParts

  constructor(parts: ProvisionerParts) {
    this.#parts = parts
  }

  /** Refuses a record whose schema is a shared one, or whose place is none, before anything is made. @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT`, `ERR_TENANCY_CLUSTER_UNKNOWN`. */
  assertPlace(tenant: Tenant): void {
    const { pool } = this.#parts
    assertNotShared(tenant, pool.sharedSchemas)
    const { cluster } = tenant.placement
    if (cluster !== undefined) pool.centralOf(cluster)
  }

  /** The database of the tenant, if it has one of its own, and its schema. */
  async #createPlace(tenant: Tenant): Promise<void> {
    const { pool } = this.#parts
    const { cluster } = tenant.placement
    const login = this.#loginOf(tenant)
    if (tenant.isolation === 'database')
      await createTenantDatabase(pool.centralOf(cluster), tenant, {
        connect: login === undefined ? [] : [login],
      })
    await createTenantSchema(pool.centralOf(tenant), tenant)
  }

  /** Who logs in where a tenant is, if that is not who owns everything there. */
  #loginOf({ placement: { cluster } }: Tenant): string | undefined {
    const { gate, clusters } = this.#parts
    if (cluster === undefined) return gate
    const { user, connectionString } = clusters[cluster] ?? {}
    return connectionString === undefined
      ? user
      : decodeURIComponent(new URL(connectionString).username)
  }

  /** Takes a tenant from its record to `status`. */
  async provision(
    tenant: Tenant,
    status: TenantStatus,
    seed: TenantConfig['seed'],
    timed: <T>(step: ProvisioningStep, fn: () => Promise<T>) => Promise<T>,
  ): Promise<Tenant> {
    const { tenancy } = this.#parts
    // The look-up may remember that there was no such tenant.
    tenancy.lookup.invalidate(tenant.id)
    await timed('schema', () => this.#createPlace(tenant))
    await timed('migrations', () => this.enter(tenant.id, () => this.migrate(tenant)))
    await timed('seeds', () => this.enter(tenant.id, () => this.seed(seed)))
    await timed('schedules', () => this.enter(tenant.id, () => this.schedule()))
    const provisioned = await timed('status', () => this.#finish(tenant, status))
    tenancy.lookup.invalidate(tenant.id)
    return provisioned
  }

  /** Another process may have finished first, and an operator may have suspended the tenant since: that stays. */
  async #finish({ id }: Tenant, status: TenantStatus): Promise<Tenant> {
    const { store } = this.#parts
    try {
      return await store.update(id, { status }, { ifStatus: 'provisioning' })
    } catch (error) {
      const found = TenancyError.is(error, 'ERR_TENANCY_TENANT_CHANGED')
        ? await store.findById(id)
        : undefined
      if (found === undefined) throw error
      return found
    }
  }

  /** Applies what is pending of the migrations of a tenant's plugins, in the active tenant. `tenant` is its record, with the release that it is to have. */
  async migrate(tenant: Tenant): Promise<void> {
    const { tenancy, pool, host, migrations } = this.#parts
    await this.#grant(tenant)
    for (const { name, version } of host.pluginsFor(tenant)) {
      const set = migrations.get(`${name}@${version}`)
      if (set !== undefined) await migrateTenant(tenancy, pool, set)
    }
  }

  /** Gives a tenant its role. At every start, because tenants may be older than the gate, and shared tables newer than the tenant. */
  async #grant(tenant: Tenant): Promise<void> {
    const { gate: own, pool } = this.#parts
    const gate = this.#loginOf(tenant)
    // Roles are for all tenants of a pool or for none.
    if (own === undefined || gate === undefined) return
    // Not by pool.central: within a tenant, its use is one that an audit should see.
    const central = this.#parts.tenancy.context.outside(() => this.#centralOf(tenant))
    const { rows } = await central.query<{ name: string }>(
      'select nspname::text as name from pg_catalog.pg_namespace where nspname = any($1)',
      [pool.sharedSchemas],
    )
    const schema = schemaOf(tenant)
    const sharedSchemas = rows.map(({ name }) => name).filter((name) => name !== schema)
    await createTenantRole(central, tenant, { gate, sharedSchemas, ownership: 'tenant' })
  }

  /** As the owner of everything. */
  #centralOf(tenant: Tenant): pg.Pool {
    const { central, pool } = this.#parts
    return isElsewhere(tenant) ? pool.centralOf(tenant) : central
  }

  /** Runs those seeds of the active tenant that have not run: those of its plugins, then its own. */
  async seed(seed?: TenantConfig['seed']): Promise<void> {
    const { tenancy, host } = this.#parts
    await host.seed()
    if (seed === undefined) return
    const { tenant } = tenancy.require()
    await seedOnce(this.#parts, 'tenant', (db) =>
      seed({ tenant, db, plugins: { call: (...args) => host.call(...args) } }),
    )
  }

  /** Declares the schedules of the active tenant's plugins, and takes back those of other versions. */
  async schedule(): Promise<void> {
    const { tenancy, host, scheduler } = this.#parts
    const current = host.schedulesFor(tenancy.require().tenant)
    const wanted = new Set(current.map(({ id }) => id))
    for (const { name, schedules } of host.plugins)
      for (const id of Object.keys(schedules))
        if (!wanted.has(`${name}.${id}`)) await scheduler.remove(`${name}.${id}`)
    for (const { id, name, schedule } of current) {
      const { cron, everyMs, timezone, data } = schedule
      await scheduler.schedule(
        id,
        cron === undefined ? { everyMs } : { cron, timezone },
        name,
        data,
      )
    }
  }

  /** Brings every active tenant but `done` up to date. The first failure stops the rest. */
  async updateAll(done: ReadonlySet<string>): Promise<void> {
    const { tenancy } = this.#parts
    try {
      await tenancy.forEach(
        {},
        async ({ tenant }) => {
          if (done.has(tenant.id)) return
          await this.migrate(tenant)
          await this.seed()
          await this.schedule()
        },
        { concurrency: CONCURRENCY },
      )
    } catch (error) {
      // Of a start that fails, the reason is wanted, and not the list of what succeeded.
      throw error instanceof ForEachError && TenancyError.is(error.cause) ? error.cause : error
    }
  }

  /** Refuses a database in which a table is both shared and a tenant's. @throws {TenancyError} `ERR_TENANCY_SHARED_TABLE_SHADOWED`. */
  async assertNothingShadowed(): Promise<void> {
    const { store, pool, host } = this.#parts
    if (pool.sharedSchemas.length === 0) return
    const schemas: string[] = []
    for await (const tenant of store.list({ status: ANY_LIVE })) {
      assertNotShared(tenant, pool.sharedSchemas)
      // Other databases are looked at by the migrations of their tenants, and not all of them at each start.
      if (isElsewhere(tenant)) continue
      schemas.push(schemaOf(tenant))
    }
    const tables = host.plugins.flatMap(({ requires }) =>
      requires.map((name) => name.split('.')[0] as string),
    )
    await assertNoShadowedTables(pool.central, {
      schemas,
      sharedSchemas: pool.sharedSchemas,
      expected: [...new Set(tables)],
    })
  }

  /** Enters a tenant whatever its state. */
  enter<T>(tenantId: string, fn: () => Promise<T>): Promise<T> {
    return this.#parts.tenancy.run(tenantId, fn, { status: ANY_LIVE })
  }
}

/** Whether a tenant is not in the database that has the registry. */
function isElsewhere({ isolation, placement }: Tenant): boolean {
  return (
    isolation === 'database' || placement.cluster !== undefined || placement.database !== undefined
  )
}
