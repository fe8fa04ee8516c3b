import { physicalName, TenancyError, type Tenant } from '@partywall/core'

/** A place other than the pool's own database as the pool's own user. */
export interface DatabaseTarget {
  /** The same for the same place. */
  readonly key: string
  /** The name of a cluster; `undefined` for the pool's own. */
  readonly cluster: string | undefined
  /** The name of a database; `undefined` for the cluster's own. */
  readonly database: string | undefined
  /** The tenant's own login; `undefined` for that of the cluster. */
  readonly login: string | undefined
}

/**
 * Where a tenant's record says that its data is; `undefined` for the pool's own database. A tenant with `database` isolation has one of its own, called by its physical name unless the record says otherwise.
 *
 * @param ownLogin - connections are opened as the tenant's own login role, and are then nobody else's.
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` for a name that cannot be that of a database.
 */
export function targetOf(tenant: Tenant, ownLogin = false): DatabaseTarget | undefined {
  const { cluster } = tenant.placement
  const database =
    tenant.placement.database ??
    (tenant.isolation === 'database' ? physicalName('database', tenant.id) : undefined)
  const login = ownLogin ? physicalName('role', tenant.id) : undefined
  if (cluster === undefined && database === undefined && login === undefined) return undefined
  if (database !== undefined) assertDatabaseName(database, tenant)
  // Undefined becomes null in JSON, which no name is.
  return { key: JSON.stringify([cluster, database, login]), cluster, database, login }
}

/**
 * The name travels in the startup message, whose fields end at NUL: one in a name would begin a field of its own, `options` for example. Postgres cuts longer names to 63 bytes, and they would be another database's.
 */
function assertDatabaseName(name: string, tenant: Tenant): void {
  if (isServerName(name)) return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `placement.database of tenant ${tenant.id} is no name of a database.`,
    { tenantId: tenant.id, hint: 'A database name has 1 to 63 bytes and no NUL.' },
  )
}

/** Whether Postgres keeps a name of a database or role whole, and a startup message carries it as it is. */
export function isServerName(name: unknown): name is string {
  return (
    typeof name === 'string' &&
    name.length > 0 &&
    Buffer.byteLength(name) <= 63 &&
    !name.includes('\0')
  )
}
