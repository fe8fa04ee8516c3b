import { TenancyError, type Tenant } from '@partywall/core'
import { assertNotShared, quoteIdentifier, schemaOf, searchPathOf } from '../search-path.ts'
import { bindMessage, executeMessage, parseMessage } from './frontend-messages.ts'

/** SQLSTATEs by which the scope statement refuses: each check fails in a way of its own, and none of them can come from elsewhere in it. */
export const REFUSED = {
  /** The session holds what an earlier tenant left: temporary objects (22P02), or a base path that is not empty (2201E). */
  session: ['22P02', '2201E'],
  /** The role may not use the schema. Postgres would skip it and let the shared ones answer. */
  privilege: '22012',
} as const

// Functions and operators are qualified because the path may still be somebody else's. Every failing expression holds a call that the planner does not evaluate: it would fail before anything is checked.

/** Raises 2201E (ln of a value that is not positive) if the base path is not the empty one that the pool gave the session. */
const BASE_PATH_IS_EMPTY =
  "case when pg_catalog.current_setting('search_path') operator(pg_catalog.<>) '' then pg_catalog.ln((0 operator(pg_catalog.*) pg_catalog.pg_backend_pid())::pg_catalog.float8 operator(pg_catalog.-) 1) end"

/**
 * Enters a tenant for the rest of the implicit transaction. The cast to regnamespace raises 3F000 for a schema that is not there: without it, Postgres would skip the name
 * and let the shared schemas answer.
 */
const ENTER = `pg_catalog.set_config('search_path', $1, true), $2::pg_catalog.regnamespace,
  case when not pg_catalog.has_schema_privilege($2::pg_catalog.regnamespace::pg_catalog.oid, 'USAGE') then 1 operator(pg_catalog./) (0 operator(pg_catalog.*) pg_catalog.pg_backend_pid()) end`

const HAS_TEMPORARY_SCHEMA =
  'pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0::pg_catalog.oid'

const RAISE_TEMPORARY =
  "('temporary objects of schema ' operator(pg_catalog.||) pg_catalog.pg_my_temp_schema()::pg_catalog.text)::pg_catalog.int4"

/** A statement that enters a tenant, prepared on each connection before its first use. */
export interface ScopeStatement {
  readonly name: string
  /** Which column of its answer is the path that was set. */
  readonly pathColumn: number
  /** Prepares it, in the extended protocol. */
  readonly parse: Buffer
  /** Prepares it, in the simple protocol. */
  readonly prepare: string
}

function scopeStatement(name: string, pathColumn: number, sql: string): ScopeStatement {
  return { name, pathColumn, parse: parseMessage(name, sql), prepare: `prepare ${name} as ${sql}` }
}

const NEXT = scopeStatement('__partywall_next', 0, `select ${ENTER}`)
/** Raises if the session has ever had temporary objects. Almost none has, and then this costs one call. */
const FIRST = scopeStatement(
  '__partywall_first',
  1,
  `select ${BASE_PATH_IS_EMPTY}, ${ENTER}, case when ${HAS_TEMPORARY_SCHEMA} then ${RAISE_TEMPORARY} end`,
)
/** Raises if the session has temporary objects now. Asks pg_depend, because pg_class has no index by schema. */
const FIRST_AGAIN = scopeStatement(
  '__partywall_first_again',
  1,
  `select ${BASE_PATH_IS_EMPTY}, ${ENTER}, case when ${HAS_TEMPORARY_SCHEMA} and exists (
    select from pg_catalog.pg_depend where refclassid operator(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
      and refobjid operator(pg_catalog.=) pg_catalog.pg_my_temp_schema()) then ${RAISE_TEMPORARY} end`,
)

/** One way to enter one tenant, for both protocols. */
export interface Prefix {
  readonly statement: ScopeStatement
  /** What the server must answer for the path. */
  readonly path: string
  readonly bytes: Buffer
  readonly sql: string
}

/** What enters a tenant. */
export interface TenantPrefix {
  /** For the first statement of a checkout: refused if the session has had temporary objects, which are then an earlier tenant's. */
  readonly first: Prefix
  /** The same on a connection that had some and was cleaned. */
  readonly firstAgain: Prefix
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

  /** @throws {TenancyError} `ERR_TENANCY_ISOLATION_UNSUPPORTED` if the tenant's record asks for another strategy, `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if its schema is a shared one. */
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
    assertNotShared(tenant, this.#sharedSchemas)
    const path = searchPathOf(tenant, this.#sharedSchemas)
    const schema = quoteIdentifier(schemaOf(tenant))
    const prefix = (statement: ScopeStatement): Prefix => ({
      statement,
      path,
      bytes: Buffer.concat([bindMessage(statement.name, [path, schema]), executeMessage()]),
      // Schema names hold neither quotes nor backslashes, see assertSchemaName.
      sql: `execute ${statement.name}('${path}', '${schema}')`,
    })
    const bytes: TenantPrefix = {
      first: prefix(FIRST),
      firstAgain: prefix(FIRST_AGAIN),
      next: prefix(NEXT),
    }
    this.#bytes.set(tenant, bytes)
    return bytes
  }
}
