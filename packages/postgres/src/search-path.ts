import { physicalName, TenancyError, type Tenant } from '@partywall/core'

/** How the schemas of a pool are called. */
export interface SchemaNames {
  /** The schemas that stand behind the tenant's own in its search_path. */
  readonly sharedSchemas: readonly string[]
  /** The schema that holds the tables of all tenants with `row` isolation. @defaultValue `'public'` */
  readonly rowSchema?: string | undefined
}

/**
 * The schema that holds a tenant's tables: `placement.schema`, or by isolation: the name derived from the id (`schema`), `public` of the tenant's own database (`database`), the common `rowSchema` (`row`).
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` for a name that Postgres would not keep.
 */
export function schemaOf(
  { id, isolation, placement }: Tenant,
  { rowSchema = 'public' }: Partial<SchemaNames> = {},
): string {
  if (placement.schema !== undefined) return assertSchemaName(placement.schema)
  if (isolation === 'schema') return assertSchemaName(physicalName('schema', id))
  return isolation === 'row' ? assertSchemaName(rowSchema) : 'public'
}

/**
 * The search_path of a tenant: its schema, the declared shared schemas, and `pg_temp` last. Without the last, Postgres searches temporary tables *first*
 * (manual, 20.11.1, search_path), and one that another tenant left behind would stand in for the tenant's own.
 */
export function searchPathOf(tenant: Tenant, names: SchemaNames): string {
  const own = schemaOf(tenant, names)
  return [...new Set([own, ...names.sharedSchemas].map(quoteIdentifier)), 'pg_temp'].join(', ')
}

/**
 * Refuses a tenant with a schema of its own that is declared as shared: every other tenant would read and write it. Rows of all tenants may stand in a shared schema, and so may what has a database to itself.
 *
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT`.
 */
export function assertNotShared(tenant: Tenant, sharedSchemas: readonly string[]): void {
  if (tenant.isolation !== 'schema') return
  const schema = schemaOf(tenant)
  if (!sharedSchemas.includes(schema)) return
  throw new TenancyError(
    'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
    `The schema "${schema}" of tenant ${tenant.id} is a shared one.`,
    {
      tenantId: tenant.id,
      hint: 'Take it out of sharedSchemas, or give the tenant a schema of its own.',
    },
  )
}

/** The names of a search_path as the server keeps it, quoted or not. */
export function namesInPath(path: string): string[] {
  return [...path.matchAll(/"((?:[^"]|"")*)"|([^,"\s]+)/g)].map(
    ([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain?.toLowerCase() ?? '',
  )
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
