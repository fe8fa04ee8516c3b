import { bindMessage, executeMessage, parseMessage } from './frontend-messages.ts'

/** SQLSTATEs by which the scope statement refuses: each check fails in a way of its own, and none of them can come from elsewhere in it. */
export const REFUSED = {
  /** The session has a path or a tenant of its own: an earlier tenant, or somebody else behind the same pooler, has set it. */
  base: '2201E',
  /** The session holds what an earlier tenant left: such a base, or temporary objects (22P02). */
  session: ['22P02', '2201E'],
  /** The role may not use the schema. Postgres would skip it and let the shared ones answer. */
  privilege: '22012',
  /** Row security does not hold for the role: it is a superuser, or has BYPASSRLS. */
  rowSecurity: '2201F',
} as const

/** What a scope statement sets, besides the search_path. */
export interface ScopeShape {
  readonly role: boolean
  readonly tenantId: boolean
  readonly statementTimeout: boolean
  readonly lockTimeout: boolean
}

/** What one tenant is entered with. */
export interface ScopeValues {
  readonly role?: string | undefined
  readonly path: string
  /** For row security: `app.tenant_id`. */
  readonly tenantId?: string | undefined
  /** Milliseconds. */
  readonly statementTimeoutMs?: number | undefined
  readonly lockTimeoutMs?: number | undefined
  /** Quoted. */
  readonly schema: string
}

/** When a scope statement is used: for the first statement of a checkout, for the first on a session that has had temporary objects and was cleaned, for every other. */
export type ScopeUse = 'first' | 'firstAgain' | 'next'

/** A statement that enters a tenant, prepared on each connection before its first use. */
export interface ScopeStatement {
  /** Empty where the server keeps no statements: behind a pooler. */
  readonly name: string
  /** The first column of its answer that says what was set. */
  readonly column: number
  /** Prepares it, in the extended protocol. */
  readonly parse: Buffer
  /** Prepares it, in the simple protocol. */
  readonly prepare: string
}

/** One way to enter one tenant, for both protocols. */
export interface Prefix {
  readonly statement: ScopeStatement
  /** What the server must say that it set, from the column on that the statement names. */
  readonly set: readonly string[]
  readonly bytes: Buffer
  readonly sql: string
}

// Functions and operators are qualified because the path may still be somebody else's. Every failing expression holds a call that the planner does not evaluate: it would fail before anything is checked.

const HAS_BASE_PATH =
  "pg_catalog.current_setting('search_path') operator(pg_catalog.<>) '' and pg_catalog.current_setting('search_path') operator(pg_catalog.<>) '\"\"'"

/** A transaction that has set it leaves an empty text behind. */
const HAS_BASE_TENANT =
  "pg_catalog.current_setting('app.tenant_id', true) operator(pg_catalog.<>) ''"

/**
 * Raises 2201E (ln of a value that is not positive) if the session has a base: a path other than the empty one that the pool, or behind a pooler the login, gave it (`SET search_path = ''` stores it as `""`), or for row security a tenant.
 */
function baseIsEmpty({ tenantId }: ScopeShape): string {
  const has = tenantId ? `(${HAS_BASE_PATH}) or ${HAS_BASE_TENANT}` : HAS_BASE_PATH
  return `case when ${has} then pg_catalog.ln((0 operator(pg_catalog.*) pg_catalog.pg_backend_pid())::pg_catalog.float8 operator(pg_catalog.-) 1) end`
}

/** Raises 2201F (square root of a negative number) if row security does not hold for the role. Behind the columns that set the role. */
const ROW_SECURITY_HOLDS =
  'case when exists (select from pg_catalog.pg_roles where rolname operator(pg_catalog.=) current_user and (rolsuper or rolbypassrls)) then pg_catalog.sqrt((0 operator(pg_catalog.*) pg_catalog.pg_backend_pid())::pg_catalog.float8 operator(pg_catalog.-) 1) end'

const HAS_TEMPORARY_SCHEMA =
  'pg_catalog.pg_my_temp_schema() operator(pg_catalog.<>) 0::pg_catalog.oid'

const RAISE_TEMPORARY =
  "('temporary objects of schema ' operator(pg_catalog.||) pg_catalog.pg_my_temp_schema()::pg_catalog.text)::pg_catalog.int4"

/** Raises 22P02 if the session has ever had temporary objects. Almost none has, and then this costs one call. */
const NEVER_TEMPORARY = `case when ${HAS_TEMPORARY_SCHEMA} then ${RAISE_TEMPORARY} end`

/** Raises 22P02 if the session has temporary objects now. Asks pg_depend, because pg_class has no index by schema. */
const NOT_TEMPORARY_NOW = `case when ${HAS_TEMPORARY_SCHEMA} and exists (
    select from pg_catalog.pg_depend where refclassid operator(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
      and refobjid operator(pg_catalog.=) pg_catalog.pg_my_temp_schema()) then ${RAISE_TEMPORARY} end`

/** The settings of a shape, in the order of their columns. What the server answers for times is written another way than what was asked ("5s"), so they stand behind what is compared. */
function settingsOf(shape: ScopeShape): string[] {
  return [
    // The role comes first: whether the schema may be used is then asked of it.
    ...(shape.role ? ['role'] : []),
    'search_path',
    ...(shape.tenantId ? ['app.tenant_id'] : []),
    ...(shape.statementTimeout ? ['statement_timeout'] : []),
    ...(shape.lockTimeout ? ['lock_timeout'] : []),
  ]
}

/**
 * Enters a tenant for the rest of the implicit transaction. The cast to regnamespace raises 3F000 for a schema that is not there: without it, Postgres would skip the name and let the shared schemas answer.
 *
 * @param placeholder - the parameter or the literal that stands for the value of this number.
 */
function scopeSql(
  use: ScopeUse,
  shape: ScopeShape,
  placeholder: (index: number) => string,
): string {
  const settings = settingsOf(shape)
  const schema = `${placeholder(settings.length)}::pg_catalog.regnamespace`
  const columns = [
    ...settings.map(
      (setting, index) => `pg_catalog.set_config('${setting}', ${placeholder(index)}, true)`,
    ),
    schema,
    `case when not pg_catalog.has_schema_privilege(${schema}::pg_catalog.oid, 'USAGE') then 1 operator(pg_catalog./) (0 operator(pg_catalog.*) pg_catalog.pg_backend_pid()) end`,
  ]
  if (use !== 'next') {
    columns.unshift(baseIsEmpty(shape))
    columns.push(use === 'first' ? NEVER_TEMPORARY : NOT_TEMPORARY_NOW)
    if (shape.tenantId) columns.push(ROW_SECURITY_HOLDS)
  }
  return `select ${columns.join(', ')}`
}

const SHORT: Readonly<Record<ScopeUse, string>> = {
  first: 'first',
  firstAgain: 'first_again',
  next: 'next',
}
const statements = new Map<string, ScopeStatement>()

function namedStatement(use: ScopeUse, shape: ScopeShape): ScopeStatement {
  const suffix = settingsOf(shape)
    .map((setting) => `_${setting.replace('app.', '').slice(0, 4)}`)
    .join('')
  const name = `__partywall_${SHORT[use]}${suffix}`
  let statement = statements.get(name)
  if (statement === undefined) {
    const sql = scopeSql(use, shape, (index) => `$${index + 1}`)
    statement = {
      name,
      column: use === 'next' ? 0 : 1,
      parse: parseMessage(name, sql),
      prepare: `prepare ${name} as ${sql}`,
    }
    statements.set(name, statement)
  }
  return statement
}

/**
 * What enters a tenant, for one use.
 *
 * @param named - whether the server keeps statements between transactions; behind a pooler it does not, and the scope is parsed each time.
 */
export function scopePrefix(use: ScopeUse, values: ScopeValues, named: boolean): Prefix {
  const { role, path, tenantId, statementTimeoutMs, lockTimeoutMs, schema } = values
  const shape: ScopeShape = {
    role: role !== undefined,
    tenantId: tenantId !== undefined,
    statementTimeout: statementTimeoutMs !== undefined,
    lockTimeout: lockTimeoutMs !== undefined,
  }
  const compared = [role, path, tenantId].filter((value) => value !== undefined)
  const parameters = [
    ...compared,
    ...[statementTimeoutMs, lockTimeoutMs]
      .filter((value) => value !== undefined)
      .map((value) => `${value}`),
    schema,
  ]
  // Names of schemas and roles, ids and numbers hold neither quotes nor backslashes, see assertSchemaName.
  const literals = parameters.map((parameter) => `'${parameter}'`)
  if (named) {
    const statement = namedStatement(use, shape)
    return {
      statement,
      set: compared,
      bytes: Buffer.concat([bindMessage(statement.name, parameters), executeMessage()]),
      sql: `execute ${statement.name}(${literals.join(', ')})`,
    }
  }
  const sql = scopeSql(use, shape, (index) => `$${index + 1}`)
  const inline = scopeSql(use, shape, (index) => `${literals[index]}::pg_catalog.text`)
  const parse = parseMessage('', sql)
  return {
    statement: { name: '', column: use === 'next' ? 0 : 1, parse, prepare: '' },
    set: compared,
    bytes: Buffer.concat([parse, bindMessage('', parameters), executeMessage()]),
    sql: inline,
  }
}
