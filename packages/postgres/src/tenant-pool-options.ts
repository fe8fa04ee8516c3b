import { TenancyError } from '@partywall/core'
import type pg from 'pg'
import {
  type Cluster,
  type ClusterOptions,
  type CredentialsOf,
  type DatabasesOptions,
  type ResolvedDatabases,
  resolveCluster,
  resolveDatabases,
  type TenantLogin,
} from './cluster-options.ts'
import type { TenantRoleMode, TenantTimeout } from './internal/tenant-prefix.ts'
import { assertSchemaName } from './search-path.ts'

/** Options of a `TenantPool`: everything that `pg.Pool` takes, and these. */
export interface TenantPoolOptions extends Omit<pg.PoolConfig, 'Client'> {
  /**
   * Schemas for data that all tenants share, behind the tenant's own in the search_path. A table that exists in one of them and in a tenant is an error at boot and at deploy (`assertNoShadowedTables`).
   * @defaultValue `['public']`
   */
  readonly sharedSchemas?: readonly string[] | undefined
  /** The schema that holds the tables of all tenants with `row` isolation. @defaultValue `'public'` */
  readonly rowSchema?: string | undefined
  /**
   * What stands between the pool and the server. `'transaction'`: a pooler like PgBouncer in transaction mode, where each transaction may come to another session. Nothing is then kept by name, and the login must bring an empty
   * search_path (`alter role ... set search_path = ''`; `createGateRole` does that), because poolers refuse it at the start of a connection. @defaultValue `'none'`
   */
  readonly pooler?: 'none' | 'transaction' | undefined
  /**
   * How long a statement of a tenant may run, in milliseconds, before the server cancels it (57014); a function says it for each tenant, once for each record. Travels with the scope and ends with it.
   * @defaultValue `'none'`: what the server says
   */
  readonly statementTimeoutMs?: TenantTimeout | undefined
  /** How long a statement of a tenant may wait for a lock, in milliseconds (55P03). @defaultValue `'none'`: what the server says */
  readonly lockTimeoutMs?: TenantTimeout | undefined
  /** Connections that one tenant has at a time; its further callers wait for one of its own. @defaultValue one less than `max`, and at least 1: something is always left for the others */
  readonly maxPerTenant?: number | undefined
  /** How long a caller waits for a connection, in milliseconds, before `ERR_TENANCY_POOL_EXHAUSTED`. @defaultValue `connectionTimeoutMillis` where it is set, else `'never'`: no limit */
  readonly checkoutTimeoutMs?: number | 'never' | undefined
  /**
   * Tenants that one connection serves before it is replaced: the memory of a server process grows with every tenant whose tables it has touched, by about 0.2 MB for twelve tables, and does not shrink.
   * @defaultValue `500`
   */
  readonly maxTenantsPerConnection?: number | undefined
  /**
   * `'per-tenant'`: each statement also runs as the tenant's own database role, set in the same round trip, so that the server refuses a qualified name of another tenant (42501). The pool logs in as a gate
   * role that has no privileges itself, see `createGateRole` and `createTenantRole`; `central` needs another user. Recommended in production. @defaultValue `'none'`
   */
  readonly role?: TenantRoleMode | undefined
  /**
   * How many statements each connection keeps prepared, by tenant and text, without being asked: those that come more than once, the least recently used go first. Each costs the server 8 to 12 KiB a
   * connection. `'off'`: none, for a pooler in between that does not keep them. @defaultValue `256`
   */
  readonly preparedStatements?: number | 'off' | undefined
  /**
   * Lets autocommit statements of `pool.query` share connections when all are busy: so many may be under way on one connection, each with a scope and an end of its own. Only statements that have shown to be quick and to leave nothing
   * take part, and none is put behind one that takes its time. Raises throughput where callers outnumber connections; a connection that breaks fails all that are under way on it. Not with `query_timeout`.
   * @defaultValue `'off'`
   */
  readonly pipelineDepth?: number | 'off' | undefined
  /** Other Postgres servers, by the name that `placement.cluster` of tenants' records says. Tenants without one are on the pool's own server. @defaultValue `{}` */
  readonly clusters?: Readonly<Record<string, ClusterOptions>> | undefined
  /** Limits of the connections to all databases but the pool's own, which `max` is for. */
  readonly databases?: DatabasesOptions | undefined
  /**
   * `'per-tenant'`: connections of a tenant are opened as its own login role, and are nobody else's: against SQL that is written to switch roles. They count as a database of their own in `databases`. A function says it for each
   * tenant, once for each record. Needs `credentials`. @defaultValue `'shared'`: the login of the pool, or of the cluster
   */
  readonly login?: TenantLogin | undefined
  /** The password of a tenant with a login of its own, and its user, by default the tenant's role (`tenant-<id>`). Asked at each new connection. */
  readonly credentials?: CredentialsOf | undefined
  /**
   * Connection settings, where they differ from those of the pool, of what needs a session of its own: `listen` and `unsafeSession`. With `pooler: 'transaction'`, the way to the server past the pooler; both are refused without it.
   */
  readonly direct?: pg.PoolConfig | undefined
  /** Sessions of `unsafeSession` at a time, besides the connections of the pool; more wait for their turn. @defaultValue `2` */
  readonly maxUnsafeSessions?: number | undefined
  /** Connection settings of `pool.central` that differ from those of the pool; its `max` is 2 unless set here. */
  readonly central?: pg.PoolConfig | undefined
}

export interface ResolvedTenantPoolOptions {
  readonly pool: pg.PoolConfig
  readonly central: pg.PoolConfig
  /** `undefined`: there is no way past the pooler. */
  readonly direct: pg.PoolConfig | undefined
  readonly maxUnsafeSessions: number
  readonly sharedSchemas: readonly string[]
  readonly preparedStatements: number | 'off'
  readonly role: TenantRoleMode
  readonly maxPerTenant: number
  readonly checkoutTimeoutMs: number | 'never'
  readonly maxTenantsPerConnection: number
  readonly pipelineDepth: number | 'off'
  readonly rowSchema: string
  readonly pooled: boolean
  readonly statementTimeoutMs: TenantTimeout
  readonly lockTimeoutMs: TenantTimeout
  readonly clusters: ReadonlyMap<string, Cluster>
  readonly databases: ResolvedDatabases
  readonly login: TenantLogin
  readonly credentials: CredentialsOf | undefined
}

/**
 * Checks the options and splits them into those of the two pools.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function resolveTenantPoolOptions(
  options: TenantPoolOptions = {},
): ResolvedTenantPoolOptions {
  const {
    sharedSchemas = ['public'],
    preparedStatements = 256,
    role = 'none',
    maxPerTenant = Math.max(1, (options.max ?? 10) - 1),
    checkoutTimeoutMs = options.connectionTimeoutMillis || 'never',
    maxTenantsPerConnection = 500,
    pipelineDepth = 'off',
    rowSchema = 'public',
    pooler = 'none',
    statementTimeoutMs = 'none',
    lockTimeoutMs = 'none',
    central = {},
    clusters = {},
    databases,
    login = 'shared',
    credentials,
    direct,
    maxUnsafeSessions = 2,
    ...pool
  } = options
  if (!Array.isArray(sharedSchemas))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'sharedSchemas must be a list of schema names.',
    )
  if (preparedStatements !== 'off') atLeastOne('preparedStatements', preparedStatements)
  if (role !== 'none' && role !== 'per-tenant')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `role must be 'none' or 'per-tenant', got ${String(role)}.`,
    )
  if (pooler !== 'none' && pooler !== 'transaction')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `pooler must be 'none' or 'transaction', got ${String(pooler)}.`,
    )
  if (pipelineDepth !== 'off' && pool.query_timeout !== undefined)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'query_timeout gives a connection up, and with pipelineDepth others are under way on it. Use statementTimeoutMs.',
    )
  if ('Client' in pool)
    throw new TenancyError('ERR_TENANCY_OPTION_INVALID', 'A TenantPool brings its own Client.')
  if ((pool as { pipeline?: boolean }).pipeline === true)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'pipeline mode sends statements before the scope of the one in front of them is known to hold.',
    )
  if (/\bsearch_path\b/.test(pool.options ?? ''))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'options cannot set search_path: the base path of the pool is empty, so that nothing is found without a tenant.',
    )
  if (login !== 'shared' && login !== 'per-tenant' && typeof login !== 'function')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `login must be 'shared', 'per-tenant' or a function, got ${String(login)}.`,
    )
  if (login !== 'shared' && typeof credentials !== 'function')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'login per tenant needs credentials, a function that answers { password } for a tenant.',
    )
  // pg lets a connection string win over single members, so these would lead to where the string does: to the pooler.
  if (
    direct !== undefined &&
    pool.connectionString !== undefined &&
    direct.connectionString === undefined
  )
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'direct needs a connectionString of its own, because the pool has one.',
    )
  return {
    pool,
    direct: direct === undefined && pooler === 'transaction' ? undefined : { ...pool, ...direct },
    maxUnsafeSessions: atLeastOne('maxUnsafeSessions', maxUnsafeSessions),
    central: { ...pool, max: 2, onConnect: undefined, ...central },
    sharedSchemas: sharedSchemas.map(assertSchemaName),
    preparedStatements,
    role,
    maxPerTenant: atLeastOne('maxPerTenant', maxPerTenant),
    checkoutTimeoutMs:
      checkoutTimeoutMs === 'never' ? 'never' : atLeastOne('checkoutTimeoutMs', checkoutTimeoutMs),
    maxTenantsPerConnection: atLeastOne('maxTenantsPerConnection', maxTenantsPerConnection),
    pipelineDepth: pipelineDepth === 'off' ? 'off' : atLeastOne('pipelineDepth', pipelineDepth),
    rowSchema: assertSchemaName(rowSchema),
    pooled: pooler === 'transaction',
    statementTimeoutMs: timeout('statementTimeoutMs', statementTimeoutMs),
    lockTimeoutMs: timeout('lockTimeoutMs', lockTimeoutMs),
    clusters: new Map(
      Object.entries(clusters).map(([name, cluster]) => [
        name,
        resolveCluster(name, cluster, pool),
      ]),
    ),
    databases: resolveDatabases(databases),
    login,
    credentials,
  }
}

function timeout(option: string, value: unknown): TenantTimeout {
  return value === 'none' || typeof value === 'function'
    ? (value as TenantTimeout)
    : atLeastOne(option, value)
}

function atLeastOne(option: string, value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) return value
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} must be a whole number of at least 1, got ${String(value)}.`,
  )
}
