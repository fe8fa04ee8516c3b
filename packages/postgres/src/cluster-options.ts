import { assertKnownKeys, TenancyError, type Tenant } from '@partywall/core'
import pg from 'pg'
import { isServerName } from './internal/database-target.ts'

/**
 * How a Postgres server is reached that tenants are placed on by `placement.cluster`: the fields of a `pg.ClientConfig`. What says nothing about where and who (`types`, `keepAlive`, `query_timeout`, ...) is that of the pool
 * unless set here. A `password` that is a function is asked at each new connection.
 */
export interface ClusterOptions
  extends Omit<pg.ClientConfig, 'stream' | 'pipeline' | 'connectionTimeoutMillis'> {
  /** The database of tenants whose records name none, and of `pool.centralOf(cluster)`. @defaultValue `'postgres'` */
  readonly database?: string | undefined
  /**
   * `'citus'`: schemas that `createTenantSchema(pool.centralOf(...), tenant)` makes are distributed (Citus 12 and later, schema-based sharding).
   * @defaultValue `'postgres'`
   */
  readonly engine?: 'postgres' | 'citus' | undefined
  /** What differs for `pool.centralOf`: the user who owns databases and schemas, for example. */
  readonly central?: pg.ClientConfig | undefined
}

/** Limits of the connections to all databases but the pool's own. */
export interface DatabasesOptions {
  /** Connections that are open at a time, over all of those databases. @defaultValue `20` */
  readonly maxConnections?: number | undefined
  /** Connections that are open at a time to one database (and login). @defaultValue `5` */
  readonly maxPerDatabase?: number | undefined
  /** How long a connection stays open that nobody uses, in milliseconds. @defaultValue `10_000` */
  readonly idleTimeoutMs?: number | 'never' | undefined
  /** How long the attempt to connect may take, in milliseconds. @defaultValue `5_000` */
  readonly connectTimeoutMs?: number | undefined
  /** When to stop trying a database or a server that cannot be reached. `'off'`: never. */
  readonly breaker?: BreakerOptions | 'off' | undefined
}

/** After `failures` in a row, callers fail at once for `firstMs`; then one of them tries again, and each further failure doubles the time, up to `longestMs`. */
export interface BreakerOptions {
  /** @defaultValue `5` */
  readonly failures?: number | undefined
  /** @defaultValue `1_000` */
  readonly firstMs?: number | undefined
  /** @defaultValue `30_000` */
  readonly longestMs?: number | undefined
}

/** Whether the connections of tenants are opened as the login of the cluster, or each tenant's as a login role of its own; a function says it for each tenant. */
export type TenantLogin = 'shared' | 'per-tenant' | ((tenant: Tenant) => 'shared' | 'per-tenant')

/** The login of a tenant. Absent `user`: the tenant's role, `physicalName('role', tenant.id)`. */
export interface TenantCredentials {
  readonly user?: string | undefined
  readonly password: string
}

/** Asked at each new connection of a tenant with a login of its own, outside of every tenant. */
export type CredentialsOf = (tenant: Tenant) => TenantCredentials | Promise<TenantCredentials>

/** A server, in fields: nothing of it is ever parsed again. @internal */
export interface Cluster {
  readonly connection: pg.ClientConfig
  readonly central: pg.ClientConfig
}

export interface ResolvedDatabases {
  readonly maxConnections: number
  readonly maxPerDatabase: number
  readonly idleTimeoutMs: number | 'never'
  readonly connectTimeoutMs: number
  readonly breaker: Required<Readonly<Record<keyof BreakerOptions, number>>> | 'off'
}

/** What the connections of another server do not have from the pool's own: where, who, and what only the pool itself needs. */
const OWN = [
  'host',
  'port',
  'user',
  'password',
  'database',
  'connectionString',
  'ssl',
  'sslnegotiation',
  'options',
  'stream',
  'pipeline',
  'Client',
  'onConnect',
  'connectionTimeoutMillis',
] as const

const CLUSTER_KEYS = [
  'host',
  'port',
  'user',
  'password',
  'database',
  'connectionString',
  'ssl',
  'sslnegotiation',
  'options',
  'engine',
  'central',
  'keepAlive',
  'keepAliveInitialDelayMillis',
  'types',
  'statement_timeout',
  'query_timeout',
  'lock_timeout',
  'idle_in_transaction_session_timeout',
  'application_name',
  'fallback_application_name',
  'client_encoding',
  'enableChannelBinding',
]

/**
 * @param own - the settings of the pool itself.
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function resolveCluster(name: string, options: ClusterOptions, own: pg.PoolConfig): Cluster {
  const what = `clusters.${name}`
  assertKnownKeys(what, options, CLUSTER_KEYS)
  const { engine = 'postgres', central = {}, ...given } = options
  if (engine !== 'postgres' && engine !== 'citus')
    throw invalid(`engine of ${what} must be 'postgres' or 'citus', got ${String(engine)}.`)
  const inherited: Record<string, unknown> = { ...own }
  for (const key of OWN) delete inherited[key]
  const connection = serverOf(what, { ...inherited, ...given })
  if (/\bsearch_path\b/.test(connection.options ?? ''))
    throw invalid(
      `options of ${what} cannot set search_path: the base path of a connection is empty, so that nothing is found without a tenant.`,
    )
  const privileged = serverOf(what, { ...connection, ...central })
  return {
    connection,
    central:
      engine === 'postgres'
        ? privileged
        : {
            ...privileged,
            options: `${privileged.options ?? ''} -c citus.enable_schema_based_sharding=on`.trim(),
          },
  }
}

/** Settings of a named server. What is missing must not be filled in from the environment, which speaks of the pool's own: its password would be sent to another server. */
function serverOf(what: string, given: pg.ClientConfig): pg.ClientConfig {
  const fields = fieldsOf(given)
  const { host, port = 5432, user, database = 'postgres', password } = fields
  if (typeof host !== 'string' || host === '') throw invalid(`${what} must name a host.`)
  if (!isServerName(user)) throw invalid(`${what} must name a user of 1 to 63 bytes.`)
  if (!isServerName(database)) throw invalid(`database of ${what} is no name of a database.`)
  if (!(Number.isInteger(port) && port > 0 && port < 65_536))
    throw invalid(`port of ${what} must be a whole number from 1 to 65535, got ${String(port)}.`)
  // pg takes an empty value for a missing one, and a missing one from the environment.
  return {
    ...fields,
    host,
    port,
    user,
    database,
    password: password || (() => ''),
  }
}

/** The parameters that pg makes of a connection string. */
interface ConnectionParameters {
  readonly [name: string]: unknown
}

/** Settings without a connection string: in pg it overrides every field, the database too. */
export function fieldsOf(config: pg.ClientConfig): pg.ClientConfig {
  const { connectionString, ...fields } = config
  if (connectionString === undefined) return fields
  const { connectionParameters: parsed } = new pg.Client({
    ...fields,
    connectionString,
  }) as unknown as { readonly connectionParameters: ConnectionParameters }
  const named: Record<string, unknown> = {}
  for (const key of PARSED) if (parsed[key] !== undefined) named[key] = parsed[key]
  // A URL without a password has an empty one, which is none.
  return { ...fields, ...named, password: (parsed['password'] as string) || fields.password }
}

const PARSED = [
  'host',
  'port',
  'user',
  'database',
  'ssl',
  'sslnegotiation',
  'options',
  'client_encoding',
  'application_name',
  'fallback_application_name',
  'statement_timeout',
  'lock_timeout',
  'idle_in_transaction_session_timeout',
  'query_timeout',
]

/** @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function resolveDatabases(options: DatabasesOptions = {}): ResolvedDatabases {
  const keys = ['maxConnections', 'maxPerDatabase', 'idleTimeoutMs', 'connectTimeoutMs', 'breaker']
  assertKnownKeys('databases', options, keys)
  const {
    maxConnections = 20,
    maxPerDatabase = 5,
    idleTimeoutMs = 10_000,
    connectTimeoutMs = 5_000,
    breaker = {},
  } = options
  if (breaker !== 'off')
    assertKnownKeys('databases.breaker', breaker, ['failures', 'firstMs', 'longestMs'])
  const { failures = 5, firstMs = 1_000, longestMs = 30_000 } = breaker === 'off' ? {} : breaker
  return {
    maxConnections: whole('maxConnections', maxConnections),
    maxPerDatabase: whole('maxPerDatabase', maxPerDatabase),
    idleTimeoutMs: idleTimeoutMs === 'never' ? 'never' : whole('idleTimeoutMs', idleTimeoutMs),
    connectTimeoutMs: whole('connectTimeoutMs', connectTimeoutMs),
    breaker:
      breaker === 'off'
        ? 'off'
        : {
            failures: whole('breaker.failures', failures),
            firstMs: whole('breaker.firstMs', firstMs),
            longestMs: whole('breaker.longestMs', longestMs),
          },
  }
}

function whole(option: string, value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) return value
  throw invalid(`databases.${option} must be a whole number of at least 1, got ${String(value)}.`)
}

function invalid(message: string): TenancyError {
  return new TenancyError('ERR_TENANCY_OPTION_INVALID', message)
}
