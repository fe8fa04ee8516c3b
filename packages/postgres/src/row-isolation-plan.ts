import { assertKnownKeys, assertTenantId, nearestName, TenancyError } from '@partywall/core'
import type pg from 'pg'
import { withTransaction } from './internal/with-transaction.ts'
import { completePlan } from './row-isolation/build-plan.ts'
import { questionsAboutRows } from './row-isolation/columns.ts'
import type { RowIsolationRole } from './row-isolation/expressions.ts'
import { CATALOGUE_PATH, readSchemaFacts, type SchemaFacts } from './row-isolation/facts.ts'
import type { RowIsolationFinding } from './row-isolation/findings.ts'
import { RowPlan } from './row-isolation/row-plan.ts'
import type { RowIsolationStatement } from './row-isolation/statement.ts'
import { assertSchemaName } from './search-path.ts'

export interface RowIsolationOptions {
  /** The schema of the tables. */
  readonly schema: string
  /** Tables of the schema that all tenants share; partitions are shared with their table. @defaultValue none */
  readonly sharedTables?: readonly string[] | undefined
  /** The `role` of the pool. With `'per-tenant'`, a policy also holds against SQL that changes the setting: it wants the role of that tenant. @defaultValue `'none'` */
  readonly role?: RowIsolationRole | undefined
  /** Whose the rows are that have no tenant yet. Absent: a table that has such rows is refused. */
  readonly tenantIdForExistingRows?: string | undefined
}

export type ResolvedRowIsolationOptions = Readonly<{
  schema: string
  sharedTables: readonly string[]
  role: RowIsolationRole
  tenantIdForExistingRows: string | undefined
}>

/** What has to be done to isolate the tables of a schema, and what only its owner can decide. */
export interface RowIsolationPlan {
  readonly options: ResolvedRowIsolationOptions
  /** The tables that are isolated, or will be, as SQL names them. */
  readonly tables: readonly string[]
  /** In the order in which they run, in one transaction. Empty: nothing is to be done. */
  readonly statements: readonly RowIsolationStatement[]
  /** Errors first. A plan with an error is not applied. */
  readonly findings: readonly RowIsolationFinding[]
}

/**
 * Compares the tables of a schema with what row isolation asks of them, and returns the statements that make up the difference: docs/reference/row-isolation.md says which and why.
 *
 * Reads `pg_catalog` in one query, and of tables that may have rows without a tenant whether there is one. Changes nothing; may be repeated at any time. Where all is as it should be, there are no statements;
 * after a table was added, they are about that table; what was changed by hand, they put right.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user owns the tables.
 * @throws {TenancyError} `ERR_TENANCY_SCHEMA_MISSING`; `ERR_TENANCY_ISOLATION_UNSUPPORTED` before PostgreSQL 15; `ERR_TENANCY_OPTION_INVALID`, also for a shared table that does not exist.
 */
export async function planRowIsolation(
  central: pg.Pool,
  options: RowIsolationOptions,
): Promise<RowIsolationPlan> {
  const resolved = resolveRowIsolationOptions(options)
  return withTransaction(central, async (client) => {
    await client.query('set transaction isolation level repeatable read, read only')
    return readPlan(client, resolved)
  })
}

/** @internal @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`, `ERR_TENANCY_IDENTIFIER_INVALID`. */
export function resolveRowIsolationOptions(
  options: RowIsolationOptions,
): ResolvedRowIsolationOptions {
  assertKnownKeys('row isolation', options, [
    'schema',
    'sharedTables',
    'role',
    'tenantIdForExistingRows',
  ])
  const { schema, sharedTables = [], role = 'none', tenantIdForExistingRows } = options
  assertTableNames(sharedTables)
  if (role !== 'none' && role !== 'per-tenant')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `role must be 'none' or 'per-tenant', got ${String(role)}.`,
    )
  if (tenantIdForExistingRows !== undefined) assertTenantId(tenantIdForExistingRows)
  return Object.freeze({
    schema: assertSchemaName(schema),
    sharedTables: Object.freeze([...sharedTables]),
    role,
    tenantIdForExistingRows,
  })
}

/** @internal @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function assertTableNames(sharedTables: readonly string[]): void {
  if (Array.isArray(sharedTables) && sharedTables.every((name) => typeof name === 'string')) return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    'sharedTables must be a list of names of tables, without their schema.',
  )
}

/** @internal Plans inside of a transaction, whose search_path is `pg_catalog` from then on. */
export async function readPlan(
  client: pg.PoolClient,
  options: ResolvedRowIsolationOptions,
): Promise<RowIsolationPlan> {
  // A table that would hide rows from its owner is an error instead: nothing is to be decided by what a policy shows.
  await client.query(`${CATALOGUE_PATH}; set local row_security to off`)
  const facts = await readSchemaFacts(client, options.schema)
  assertSharedTablesExist(facts, options)
  const unowned = await readUnownedRows(
    client,
    questionsAboutRows(new RowPlan(facts, { ...options, unowned: new Set() })),
  )
  const plan = completePlan(new RowPlan(facts, { ...options, unowned }))
  return Object.freeze({
    options,
    tables: plan.covered.map(({ sql }) => sql).sort(),
    statements: plan.statements,
    findings: plan.findings,
  })
}

/** A misspelt name would hand the rows of a shared table to tenants. */
function assertSharedTablesExist(
  { relations, schemaSql }: SchemaFacts,
  { sharedTables }: ResolvedRowIsolationOptions,
): void {
  const names = relations.map(({ name }) => name)
  for (const name of sharedTables) {
    if (names.includes(name)) continue
    const nearest = nearestName(name, names)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `sharedTables: there is no table ${JSON.stringify(name)} in ${schemaSql}.${nearest === undefined ? '' : ` Did you mean "${nearest}"?`}`,
    )
  }
}

async function readUnownedRows(
  client: pg.PoolClient,
  questions: readonly { readonly oid: string; readonly sql: string }[],
): Promise<ReadonlySet<string>> {
  if (questions.length === 0) return new Set()
  const { rows } = await client.query<{ found: readonly boolean[] }>(
    `select array[${questions.map(({ sql }) => sql).join(', ')}] as found`,
  )
  const found = rows[0]?.found ?? []
  return new Set(questions.flatMap(({ oid }, index) => (found[index] === true ? [oid] : [])))
}
