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
 * The tenant that a statement runs in, as a value of the column's type; NULL outside of every tenant. `nullif`, because the setting is `''` and not missing once a transaction that had set it has ended.
 */
export function tenantValue(type: TenantType): Expression {
  const cast = isTextual(type) ? '' : `::${type}`
  const printed = `NULLIF(${PRINTED_SETTING}, ''::text)`
  return {
    sql: `nullif(${SETTING}, '')${cast}`,
    printed: cast === '' ? printed : `(${printed})${cast}`,
  }
}

/** The default of the column: the tenant of the statement. NULL where there is none, which the column refuses. */
export const tenantDefault = tenantValue

/** Refuses a row of no tenant that NOT NULL lets through. Only texts can be empty. */
export function tenantCheck(type: TenantType): Expression | undefined {
  if (!isTextual(type)) return undefined
  const column = type === 'text' ? TENANT_COLUMN : `(${TENANT_COLUMN})::text`
  return { sql: `check (${TENANT_COLUMN} <> '')`, printed: `CHECK ((${column} <> ''::text))` }
}

/**
 * The condition of the policy.
 *
 * In the plain case it is `tenant_id = <tenant of the setting>`. Where more must hold that no row has a say in, the column is compared twice, with a guarded value and with the plain one. The planner sees that
 * all three are equal: it scans by the plain value, whose statistics it knows, and checks that guarded and plain value agree in one "One-Time Filter" above the scan, which is then not even started. As an ordinary
 * condition the guard would be asked for every row, and `EXPLAIN ANALYZE` would count the rows of the other tenant that it removed. The plain value stands last, because the planner takes the last one.
 */
export function tenantCondition(type: TenantType, role: RowIsolationRole): Expression {
  const value = tenantValue(type)
  const column = type === 'character varying' ? `(${TENANT_COLUMN})::text` : TENANT_COLUMN
  const guards = [
    ...(isTextual(type) ? [] : [canonicalGuard(value)]),
    ...(role === 'per-tenant'
      ? [tenantRoleGuard({ sql: SETTING, printed: PRINTED_SETTING }, CURRENT_USER)]
      : []),
  ]
  const [first, second] = guards
  if (first === undefined)
    return {
      sql: `${TENANT_COLUMN} = ${value.sql}`,
      printed: `(${column} = ${value.printed})`,
    }
  const guard =
    second === undefined
      ? first
      : {
          sql: `${first.sql} and (${second.sql})`,
          printed: `(${first.printed} AND ${second.printed})`,
        }
  const nothing = isTextual(type) ? 'NULL::text' : `NULL::${type}`
  return {
    sql: `${TENANT_COLUMN} = case when ${guard.sql} then ${value.sql} end and ${TENANT_COLUMN} = ${value.sql}`,
    printed: `((${column} =\nCASE\n    WHEN ${guard.printed} THEN ${value.printed}\n    ELSE ${nothing}\nEND) AND (${column} = ${value.printed}))`,
  }
}

const CURRENT_USER: Expression = { sql: 'current_user', printed: 'CURRENT_USER' }

/** Two ids must not be one value: `42` and `042` are different tenants and the same integer. */
function canonicalGuard(value: Expression): Expression {
  return {
    sql: `${SETTING} = (${value.sql})::text`,
    printed: `(${PRINTED_SETTING} = (${value.printed})::text)`,
  }
}

/**
 * Whether `user` is the role of the tenant `id`, exactly as `physicalName('role', id)` makes it: `tenant-` and the id, or, where that is longer than 63 bytes, 50 of them, `-` and 12 digits of the id's SHA-256.
 * The first comparison cannot hold for a long id, because no role is that long. The hash is made for long ids alone.
 */
export function tenantRoleGuard(id: Expression, user: Expression): Expression {
  const name = { sql: `'tenant-' || ${id.sql}`, printed: `('tenant-'::text || ${id.printed})` }
  return {
    sql: `${user.sql} = ${name.sql} or length(${id.sql}) > 56 and ${user.sql} = left(${name.sql}, 50) || '-' || left(encode(sha256(convert_to(${id.sql}, 'UTF8')), 'hex'), 12)`,
    printed: `((${user.printed} = ${name.printed}) OR ((length(${id.printed}) > 56) AND (${user.printed} = (("left"(${name.printed}, 50) || '-'::text) || "left"(encode(sha256(convert_to(${id.printed}, 'UTF8'::name)), 'hex'::text), 12)))))`,
  }
}

/** Whether a type of Postgres can hold the tenant. */
export function isTenantType(type: string): type is TenantType {
  return (TENANT_TYPES as readonly string[]).includes(type)
}

function isTextual(type: TenantType): boolean {
  return type === 'text' || type === 'character varying'
}
