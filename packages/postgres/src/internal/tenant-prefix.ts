import { TenancyError, type Tenant } from '@partywall/core'
import { quoteIdentifier, schemaOf, searchPathOf } from '../search-path.ts'
import { bindMessage, executeMessage, parseMessage } from './frontend-messages.ts'

const STATEMENT = '__partywall_scope'

/** SQLSTATE of the failed cast that tells of temporary objects in a session that should have none. */
export const TEMPORARY_OBJECTS_FOUND = '22P02'

/**
 * Enters a tenant for the rest of the implicit transaction. The cast to regnamespace raises 3F000 for a schema that is not there: without it, Postgres would skip the name
 * and let the shared schemas answer. The last column raises if the session holds temporary objects and should not; pg_depend is asked because pg_class has no index by schema, and a
 * session that never had any is not asked at all. Functions and operators are qualified because the path may still be somebody else's.
 */
const SCOPE_SQL = `select pg_catalog.set_config('search_path', $1, true), $2::pg_catalog.regnamespace,
  case when $3::pg_catalog.bool and pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0::pg_catalog.oid and exists (
    select from pg_catalog.pg_depend where refclassid operator(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
      and refobjid operator(pg_catalog.=) pg_catalog.pg_my_temp_schema())
  then ('temporary objects of schema ' operator(pg_catalog.||) pg_catalog.pg_my_temp_schema()::pg_catalog.text)::pg_catalog.int4 end`

/** Prepares the scope statement; sent once per connection, in front of its first use. */
export const PREPARE_SCOPE: Buffer = parseMessage(STATEMENT, SCOPE_SQL)

/** The same for statements in the simple protocol. */
export const PREPARE_SCOPE_SQL: string = `prepare ${STATEMENT} as ${SCOPE_SQL}`

/** What enters a tenant, for both protocols. */
export interface Prefix {
  readonly bytes: Buffer
  readonly sql: string
}

/** What enters a tenant. */
export interface TenantPrefix {
  /** For the first statement of a checkout: refused if the session holds temporary objects, which are then an earlier tenant's. */
  readonly first: Prefix
  /** For every other statement: temporary objects are the tenant's own. */
  readonly next: Prefix
}

/** Makes the bytes that enter a tenant, and keeps them: they are the same for every statement of the tenant. */
export class TenantPrefixes {
  readonly #sharedSchemas: readonly string[]
  // A tenant is immutable; a changed one is another object, and the old one is collected with its bytes.
  readonly #bytes = new WeakMap<Tenant, TenantPrefix>()

  constructor(sharedSchemas: readonly string[]) {
    this.#sharedSchemas = sharedSchemas
  }

  /** @throws {TenancyError} `ERR_TENANCY_ISOLATION_UNSUPPORTED` if the tenant's record asks for another strategy. */
  bytesFor(tenant: Tenant): TenantPrefix {
    const known = this.#bytes.get(tenant)
    if (known !== undefined) return known
    const { cluster, database } = tenant.placement
    if (tenant.isolation !== 'schema' || cluster !== undefined || database !== undefined)
      throw new TenancyError(
        'ERR_TENANCY_ISOLATION_UNSUPPORTED',
        `Tenant ${tenant.id} is placed in ${tenant.isolation === 'schema' ? 'another database' : `a ${tenant.isolation} of its own`}, and this pool serves schemas of one database.`,
        { tenantId: tenant.id },
      )
    const path = searchPathOf(tenant, this.#sharedSchemas)
    const schema = quoteIdentifier(schemaOf(tenant))
    const prefix = (strict: boolean): Prefix => ({
      bytes: Buffer.concat([
        bindMessage(STATEMENT, [path, schema, String(strict)]),
        executeMessage(),
      ]),
      // Schema names hold neither quotes nor backslashes, see assertSchemaName.
      sql: `execute ${STATEMENT}('${path}', '${schema}', '${strict}')`,
    })
    const bytes: TenantPrefix = { first: prefix(true), next: prefix(false) }
    this.#bytes.set(tenant, bytes)
    return bytes
  }
}
