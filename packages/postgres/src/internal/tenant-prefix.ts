import { physicalName, TenancyError, type Tenant } from '@partywall/core'
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
  /** The first column of its answer that says what was set. */
  readonly column: number
  /** Prepares it, in the extended protocol. */
  readonly parse: Buffer
  /** Prepares it, in the simple protocol. */
  readonly prepare: string
}

interface ScopeStatements {
  readonly next: ScopeStatement
  readonly first: ScopeStatement
  readonly firstAgain: ScopeStatement
}

/** @param enter - the columns that enter, of which the first ones say what was set. */
function scopeStatements(suffix: string, enter: string): ScopeStatements {
  const statement = (use: string, column: number, columns: string): ScopeStatement => {
    const name = `__partywall_${use}${suffix}`
    const sql = `select ${columns}`
    return { name, column, parse: parseMessage(name, sql), prepare: `prepare ${name} as ${sql}` }
  }
  return {
    next: statement('next', 0, enter),
    // Raises if the session has ever had temporary objects. Almost none has, and then this costs one call.
    first: statement(
      'first',
      1,
      `${BASE_PATH_IS_EMPTY}, ${enter}, case when ${HAS_TEMPORARY_SCHEMA} then ${RAISE_TEMPORARY} end`,
    ),
    // Raises if the session has temporary objects now. Asks pg_depend, because pg_class has no index by schema.
    firstAgain: statement(
      'first_again',
      1,
      `${BASE_PATH_IS_EMPTY}, ${enter}, case when ${HAS_TEMPORARY_SCHEMA} and exists (
    select from pg_catalog.pg_depend where refclassid operator(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
      and refobjid operator(pg_catalog.=) pg_catalog.pg_my_temp_schema()) then ${RAISE_TEMPORARY} end`,
    ),
  }
}

const BY_PATH = scopeStatements('', ENTER)
/** The role comes first: whether the schema may be used is then asked of it. */
const BY_ROLE = scopeStatements('_role', `pg_catalog.set_config('role', $3, true), ${ENTER}`)

/** One way to enter one tenant, for both protocols. */
export interface Prefix {
  readonly statement: ScopeStatement
  /** What the server must say that it set, from the column on that the statement names. */
  readonly set: readonly string[]
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

/** Whether each tenant has a database role of its own that its statements run as. */
export type TenantRoleMode = 'none' | 'per-tenant'

/** Makes the bytes that enter a tenant, and keeps them: they are the same for every statement of the tenant. */
export class TenantPrefixes {
  readonly #sharedSchemas: readonly string[]
  // A tenant is immutable; a changed one is another object, and the old one is collected with its bytes.
  readonly #bytes = new WeakMap<Tenant, TenantPrefix>()

  readonly #role: TenantRoleMode

  constructor(sharedSchemas: readonly string[], role: TenantRoleMode) {
    this.#sharedSchemas = sharedSchemas
    this.#role = role
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
    const role = this.#role === 'per-tenant' ? [physicalName('role', tenant.id)] : []
    const parameters = [path, schema, ...role]
    const prefix = (statement: ScopeStatement): Prefix => ({
      statement,
      set: [...role, path],
      bytes: Buffer.concat([bindMessage(statement.name, parameters), executeMessage()]),
      // Names of schemas and roles hold neither quotes nor backslashes, see assertSchemaName.
      sql: `execute ${statement.name}(${parameters.map((parameter) => `'${parameter}'`).join(', ')})`,
    })
    const { first, firstAgain, next } = role.length === 0 ? BY_PATH : BY_ROLE
    const bytes: TenantPrefix = {
      first: prefix(first),
      firstAgain: prefix(firstAgain),
      next: prefix(next),
    }
    this.#bytes.set(tenant, bytes)
    return bytes
  }
}
