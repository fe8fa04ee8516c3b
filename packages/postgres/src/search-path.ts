import { physicalName, TenancyError, type Tenant } from '@partywall/core'

/** The schema that holds a tenant's tables: `placement.schema`, or the name derived from its id. */
export function schemaOf(tenant: Tenant): string {
  return assertSchemaName(tenant.placement.schema ?? physicalName('schema', tenant.id))
}

/**
 * The search_path of a tenant: its schema, the declared shared schemas, and `pg_temp` last. Without the last, Postgres searches temporary tables *first*
 * (manual, 20.11.1, search_path), and one that another tenant left behind would stand in for the tenant's own.
 */
export function searchPathOf(tenant: Tenant, sharedSchemas: readonly string[]): string {
  const own = schemaOf(tenant)
  const shared = sharedSchemas.filter((schema) => schema !== own)
  return [...[own, ...shared].map(quoteIdentifier), 'pg_temp'].join(', ')
}

/** Quotes an identifier for SQL text. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/**
 * Returns the name if Postgres keeps it whole (1 to 63 bytes), if it is not of the system, and if it holds no quote, backslash or NUL.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function assertSchemaName(name: unknown): string {
  const system = typeof name === 'string' && /^(?:pg_|information_schema$)/.test(name)
  if (
    typeof name === 'string' &&
    name.length > 0 &&
    Buffer.byteLength(name) <= 63 &&
    !/['"\\\0]/.test(name) &&
    !system
  )
    return name
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${JSON.stringify(name)} is no schema name for tenants or shared data.`,
    { hint: 'A schema name has 1 to 63 bytes, no quotes, and does not begin with pg_.' },
  )
}
