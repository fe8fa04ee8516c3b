/** Whether the policies hold the tenant of the setting against the role that asks. As the option `role` of the pool. */
export type RowIsolationRole = 'none' | 'per-tenant'

/** The types that the column of the tenant may have. */
export const TENANT_TYPES = [
  'text',
  'character varying',
  'uuid',
  'smallint',
  'integer',
  'bigint',
] as const

export type TenantType = (typeof TENANT_TYPES)[number]

/** What the policies, the defaults and the checks are called, and the column that they are about. */
export const TENANT_COLUMN = 'tenant_id'
export const TENANT_POLICY = 'partywall_tenant'
export const TENANT_CHECK = 'partywall_tenant_id_check'

/** An expression as it is written, and as Postgres prints it (`pg_get_expr`, with `pg_catalog` alone in the search_path), by which it is known again. */
export interface Expression {
  readonly sql: string
  readonly printed: string
}

const SETTING = "current_setting('app.tenant_id', true)"
const PRINTED_SETTING = "current_setting('app.tenant_id'::text, true)"

/**
 * The tenant that a statement runs in, as a value of the column's type; NULL outside of every tenant, which the column refuses as its default. `nullif`, because the setting is `''` and not missing once a transaction that had set it has ended.
 */
export function tenantValue(type: TenantType): Expression {
  const cast = isTextual(type) ? '' : `::${type}`
  const printed = `NULLIF(${PRINTED_SETTING}, ''::text)`
  return {
    sql: `nullif(${SETTING}, '')${cast}`,
    printed: cast === '' ? printed : `(${printed})${cast}`,
  }
}

/** Refuses a row of no tenant that NOT NULL lets through. Only texts can be empty. */
export function tenantCheck(type: TenantType): Expression | undefined {
  if (!isTextual(type)) return undefined
  const column = type === 'text' ? TENANT_COLUMN : `(${TENANT_COLUMN})::text`
  return { sql: `check (${TENANT_COLUMN} <> '')`, printed: `CHECK ((${column} <> ''::text))` }
}

/**
 * The condition of the policy: the tenant of the row is that of the setting, and, with roles, that of the role that asks.
 *
 * The first part is a plain equality, so that it is the condition of an index, keeps the order of the keys behind the tenant, and is estimated by the statistics of this tenant.
 *
 * The second part asks the row, and not the setting. Whatever compares role and setting, no row has a say in it, so that Postgres asks it once, or replaces the setting in it by what the caller writes
 * (`where tenant_id = current_setting(...)`): a statement that changes the setting while it runs has then been let in as one tenant, and reads as another (row D12, docs/design/row-policies.md).
 */
export function tenantCondition(type: TenantType, role: RowIsolationRole): Expression {
  const value = tenantValue(type)
  const text = asText(type)
  const column = type === 'character varying' ? text.printed : TENANT_COLUMN
  const equality = (sql: string, printed: string): Expression => ({
    sql: `${TENANT_COLUMN} = ${sql}`,
    // A CASE is printed on a line of its own.
    printed: `(${column} =${printed.startsWith('\n') ? '' : ' '}${printed})`,
  })
  if (role === 'per-tenant') {
    const isTenants = equality(value.sql, value.printed)
    const isRoles = tenantRoleGuard(text, CURRENT_USER)
    return {
      sql: `${isTenants.sql} and ${isRoles.sql}`,
      printed: `(${isTenants.printed} AND ${isRoles.printed})`,
    }
  }
  if (isTextual(type)) return equality(value.sql, value.printed)
  // Two ids must not be one value: `42` and `042` are different tenants and the same integer.
  return equality(
    `case when ${SETTING} = (${value.sql})::text then ${value.sql} end`,
    `\nCASE\n    WHEN (${PRINTED_SETTING} = (${value.printed})::text) THEN ${value.printed}\n    ELSE NULL::${type}\nEND`,
  )
}

/** The tenant of a row as its id. */
function asText(type: TenantType): Expression {
  return type === 'text'
    ? { sql: TENANT_COLUMN, printed: TENANT_COLUMN }
    : { sql: `${TENANT_COLUMN}::text`, printed: `(${TENANT_COLUMN})::text` }
}

const CURRENT_USER: Expression = { sql: 'current_user', printed: 'CURRENT_USER' }

/**
 * Whether `user` is the role of the tenant `id`, exactly as `physicalName('role', id)` makes it: `tenant-` and the id, or, where that is longer than 63 bytes, 50 of them, `-` and 12 digits of the id's SHA-256.
 *
 * The tenant of a role with a short name is taken from it once for each statement, as a sub-select; a row then costs one comparison. A long id needs its hash, for each row. It is put as `is not null`, which the planner takes
 * to be true of nearly every row; of an equality with a function it would expect one row in two hundred.
 */
export function tenantRoleGuard(id: Expression, user: Expression): Expression {
  const long = { sql: `'tenant-' || ${id.sql}`, printed: `('tenant-'::text || ${id.printed})` }
  return {
    sql: `case when ${id.sql} = (select substring(${user.sql} from '^tenant-(.*)$')) then true when length(${id.sql}) > 56 and ${user.sql} = left(${long.sql}, 50) || '-' || left(encode(sha256(convert_to(${id.sql}, 'UTF8')), 'hex'), 12) then true end is not null`,
    printed: `(\nCASE\n    WHEN (${id.printed} = ( SELECT "substring"((${user.printed})::text, '^tenant-(.*)$'::text) AS "substring")) THEN true\n    WHEN ((length(${id.printed}) > 56) AND (${user.printed} = (("left"(${long.printed}, 50) || '-'::text) || "left"(encode(sha256(convert_to(${id.printed}, 'UTF8'::name)), 'hex'::text), 12)))) THEN true\n    ELSE NULL::boolean\nEND IS NOT NULL)`,
  }
}

/** Whether a type of Postgres can hold the tenant. */
export function isTenantType(type: string): type is TenantType {
  return (TENANT_TYPES as readonly string[]).includes(type)
}

function isTextual(type: TenantType): boolean {
  return type === 'text' || type === 'character varying'
}
