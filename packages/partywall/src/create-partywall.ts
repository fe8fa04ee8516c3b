import {
  assertRedisReachable,
  createTenantCache,
  memoryDriver as memoryCacheDriver,
  redisDriver,
  TenantRedis,
} from '@partywall/cache'
import {
  createPluginHost,
  createTenancy,
  fallback,
  memoryTenantStore,
  type Plugin,
  type PluginHost,
  type Tenancy,
  TenancyError,
  type TenantInput,
  type TenantScope,
} from '@partywall/core'
import {
  loadMigrations,
  type MigrationSet,
  PostgresTenantStore,
  TenantPool,
} from '@partywall/postgres'
import { createTenantScheduler, memoryDriver as memorySchedulerDriver } from '@partywall/scheduler'
import { startEmbeddedPostgres } from './embedded-postgres.ts'
import { Closers } from './internal/closers.ts'
import { connectDatabase } from './internal/connect-database.ts'
import { embeddedGate } from './internal/gate.ts'
import { loadPeer } from './internal/load-peer.ts'
import { guardPooler } from './internal/pooler-guard.ts'
import { Provisioner } from './internal/provisioner.ts'
import { seedOnce } from './internal/seed-ledger.ts'
import { createTenantKysely, type KyselyPeer } from './internal/tenant-kysely.ts'
import { Partywall } from './partywall.ts'
import {
  type PartywallConfig,
  type ResolvedPartywallConfig,
  resolvePartywallConfig,
  type TenantConfig,
} from './partywall-config.ts'
import { PluginCache } from './plugin-cache.ts'
import { PluginScheduler } from './plugin-scheduler.ts'
import { definePlugin, type PartywallServices } from './plugin-services.ts'
import { TenantManager } from './tenant-manager.ts'

/** How long a tenant that another process has suspended is still served where nobody tells of it, in two halves. */
const UNWATCHED = { maxAgeMs: 5_000, staleWhileRevalidateMs: 5_000 }

type PluginExtras = Pick<PartywallServices, 'db' | 'pool' | 'cache' | 'scheduler'>

/**
 * Starts everything that an application with tenants needs, from one configuration: database, cache, scheduler, plugins, tenants.
 *
 * The configuration is checked before anything is started; if anything fails after that, what was started is closed before the rejection. When it resolves, the tenants of the configuration exist,
 * and every active tenant has the migrations, seeds and schedules of its plugins.
 *
 * @throws {TenancyError} by rejection: `ERR_TENANCY_OPTION_INVALID`, `ERR_TENANCY_PLUGIN_*`, `ERR_TENANCY_PEER_MISSING`, `ERR_TENANCY_DATABASE_UNAVAILABLE`, `ERR_TENANCY_REDIS_UNAVAILABLE`,
 * `ERR_TENANCY_POOLER_UNSAFE`, `ERR_TENANCY_MIGRATION_*`, `ERR_TENANCY_SHARED_TABLE_SHADOWED`, and whatever `tenants.create` rejects with.
 */
export async function createPartywall(config: PartywallConfig = {}): Promise<Partywall> {
  const resolved = resolvePartywallConfig(config)
  await rehearse(resolved)
  const migrations = await migrationSets(resolved.plugins)
  const kysely = await loadPeer('kysely', 'db', () => import('kysely'))
  const closers = new Closers()
  try {
    return await start(resolved, migrations, kysely, closers)
  } catch (error) {
    // What could not be closed matters less than why.
    await closers.closeAll().catch(() => undefined)
    throw error
  }
}

async function start(
  config: ResolvedPartywallConfig,
  migrations: ReadonlyMap<string, MigrationSet>,
  kysely: KyselyPeer,
  closers: Closers,
): Promise<Partywall> {
  const { redisUrl, sharedSchemas, max, clusters, databases, defaultTenant } = config
  if (redisUrl !== undefined) {
    const ioredis = await loadPeer('ioredis', 'redis.url', () => import('ioredis'))
    if (TenancyError.is(ioredis)) throw ioredis
    await assertRedisReachable(redisUrl)
  }
  const connectionString = config.databaseUrl ?? (await embedded(config.dataDir, closers))
  const storePool = await connectDatabase(connectionString)
  closers.add('The pool of the tenant registry', () => storePool.end())
  const gate =
    config.databaseUrl === undefined ? await embeddedGate(storePool, connectionString) : config.gate
  const { pooler } = config
  const login =
    gate === undefined
      ? { connectionString, pooler }
      : {
          connectionString: gate.url,
          pooler,
          role: 'per-tenant' as const,
          central: { connectionString },
        }
  // Nothing stands before a server that was started here.
  const watch =
    config.databaseUrl === undefined
      ? 'listen'
      : await guardPooler({
          login: { ...login, clusters },
          clusters: Object.keys(clusters),
          registry: storePool,
          registryApart: gate !== undefined,
        })
  const store = new PostgresTenantStore(storePool, { watch })
  await store.migrate()

  const tenancy = createTenancy({
    store,
    ...tenancyOptions(config),
    ...(watch === 'off' ? { lookup: UNWATCHED } : {}),
  })
  closers.add('The tenancy', () => tenancy.close())
  await tenancy.ready()

  const redis =
    redisUrl === undefined
      ? undefined
      : new TenantRedis(tenancy, redisUrl, {
          // A server that stops while the application runs: a request gets an error after the first failed attempt to reconnect, not after twenty.
          maxRetriesPerRequest: 1,
        })
  if (redis !== undefined) {
    // Commands reject with it; without a listener, ioredis prints every attempt to connect.
    redis.on('error', () => undefined)
    closers.add('Redis', () => (redis.status === 'ready' ? redis.quit() : redis.disconnect()))
  }
  const pool = new TenantPool(tenancy, { ...login, max, sharedSchemas, clusters, databases })
  closers.add('The pool', () => pool.end())
  const provisioningPool = new TenantPool(tenancy, {
    ...login,
    max: 4,
    sharedSchemas,
    clusters,
    databases: { ...databases, maxConnections: 4, idleTimeoutMs: 2_000 },
    // Needed at the start and now and then.
    idleTimeoutMillis: 2_000,
  })
  closers.add('The pool for provisioning', () => provisioningPool.end())
  const cache = createTenantCache(tenancy, {
    driver: redis === undefined ? memoryCacheDriver() : redisDriver(redis),
  })
  const scheduler = createTenantScheduler(tenancy, { driver: memorySchedulerDriver() })
  closers.add('The scheduler', () => scheduler.close())

  const host = createHost(tenancy, config, {
    servicesOf: (plugin) => ({
      db: createTenantKysely(kysely, pool),
      pool,
      cache: new PluginCache(cache, plugin),
      scheduler: new PluginScheduler(scheduler, plugin),
    }),
    seedOnce: (name, seed) =>
      seedOnce({ tenancy, pool: provisioningPool, kysely }, name, (db) => seed({ db })),
  })
  for (const { name, run } of host.jobs()) scheduler.define(name, run)

  const provisioner = new Provisioner({
    tenancy,
    store,
    pool: provisioningPool,
    central: storePool,
    gate: gate?.role,
    clusters,
    kysely,
    host,
    scheduler,
    migrations,
  })
  const tenants = new TenantManager(tenancy, store, provisioner, defaultTenant)
  // Before and after: what is known beforehand must not be half applied when it is found.
  await provisioner.assertNothingShadowed()
  const provisioned = await tenants.ensure(config.tenants)
  await assertDefaultTenant(tenants, defaultTenant)
  await provisioner.updateAll(provisioned)
  await provisioner.assertNothingShadowed()
  await scheduler.start()
  return new Partywall({
    tenancy,
    pool,
    cache,
    redis,
    scheduler,
    plugins: host,
    tenants,
    kysely,
    closers,
  })
}

function tenancyOptions({ resolve, defaultTenant, authorize, reveal }: ResolvedPartywallConfig) {
  const sources = defaultTenant === undefined ? resolve : [...resolve, fallback(defaultTenant)]
  return { resolve: sources, authorize, reveal }
}

/** Lets the parts check their options, on a store in memory and without connecting: everything that is wrong is told before a server is started. */
async function rehearse(config: ResolvedPartywallConfig): Promise<void> {
  const options = tenancyOptions(config)
  // An authorize function, so that the warning about a missing one comes once.
  const tenancy = createTenancy({
    store: memoryTenantStore(config.tenants.map((tenant) => recordOf(tenant))),
    ...options,
    authorize: options.authorize ?? (() => false),
  })
  try {
    createPluginHost(tenancy, { plugins: config.plugins, services: () => ({}) as PluginExtras })
    const { sharedSchemas, clusters, databases } = config
    await new TenantPool(tenancy, { sharedSchemas, clusters, databases }).end()
  } finally {
    await tenancy.close()
  }
}

/** A tenant of the configuration without what is not part of its record. */
function recordOf(tenant: TenantConfig): TenantInput {
  const record = { ...tenant }
  delete record.seed
  return record
}

async function embedded(dataDir: string, closers: Closers): Promise<string> {
  const server = await startEmbeddedPostgres({ dataDir })
  closers.add('The embedded Postgres', () => server.stop())
  return server.url
}

async function migrationSets(
  plugins: readonly Plugin<PartywallServices>[],
): Promise<ReadonlyMap<string, MigrationSet>> {
  const sets = new Map<string, MigrationSet>()
  // Also without migrations: what the plugin requires is checked all the same.
  for (const { name, version, migrations, requires } of plugins)
    if (migrations !== undefined || requires.length > 0)
      sets.set(`${name}@${version}`, {
        name,
        migrations: migrations === undefined ? [] : await loadMigrations(migrations),
        requires,
      })
  return sets
}

function createHost(
  tenancy: Tenancy,
  { plugins, log }: ResolvedPartywallConfig,
  parts: {
    servicesOf(plugin: string): PluginExtras
    seedOnce(name: string, seed: (own: Pick<PartywallServices, 'db'>) => unknown): Promise<boolean>
  },
): PluginHost<PartywallServices> {
  const services = new Map<string, PluginExtras>()
  for (const { name } of plugins)
    if (!services.has(name)) services.set(name, Object.freeze(parts.servicesOf(name)))
  return createPluginHost<PartywallServices>(tenancy, {
    plugins: plugins.map((plugin) => {
      const { seed } = plugin
      if (seed === undefined) return plugin
      return definePlugin({
        ...plugin,
        seed: (given) =>
          parts.seedOnce(`plugin ${plugin.name}`, (own) => seed({ ...given, ...own })),
      })
    }),
    services: (_scope: TenantScope, { name }) => services.get(name) as PluginExtras,
    log,
  })
}

async function assertDefaultTenant(
  tenants: TenantManager,
  defaultTenant: string | undefined,
): Promise<void> {
  if (defaultTenant === undefined) return
  const found = await tenants.get(defaultTenant)
  if (found !== undefined && found.status !== 'deleted') return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `The default tenant ${defaultTenant} does not exist.`,
    { hint: `List it in tenants: [{ id: '${defaultTenant}' }].` },
  )
}
