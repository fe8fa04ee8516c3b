import { assertKnownKeys, TenancyError } from '@partywall/core'
import type pg from 'pg'
import { withTransaction } from './internal/with-transaction.ts'
import { completePlan } from './row-isolation/build-plan.ts'
import type { RowIsolationRole } from './row-isolation/expressions.ts'
import { CATALOGUE_PATH, readSchemaFacts } from './row-isolation/facts.ts'
import { RowPlan } from './row-isolation/row-plan.ts'
import type { RowIsolationStep } from './row-isolation/statement.ts'
import { assertTableNames } from './row-isolation-plan.ts'
import { assertSchemaName } from './search-path.ts'

export interface RowIsolationCheck {
  readonly schema: string
  /** As in `planRowIsolation`. @defaultValue none */
  readonly sharedTables?: readonly string[] | undefined
  /** The `role` of the pool: its policies are wanted, and no others. Absent: either. */
  readonly role?: RowIsolationRole | undefined
}

/** Without these, statements are slower, or it is about the way to somewhere else. */
const HARMLESS_STEPS: ReadonlySet<RowIsolationStep> = new Set(['index', 'unforce', 'force'])

/**
 * Refuses a schema in which a table that is not shared is not isolated by rows, exactly as `applyRowIsolation` does it: for the start of an application, which may be newer than its database, and after migrations.
 * One query over `pg_catalog`; changes nothing, and keeps nobody from working. An index that is missing is no reason.
 *
 * @param central - a pool outside of every tenant, `pool.central`. Its user need not own anything.
 * @throws {TenancyError} `ERR_TENANCY_ROW_ISOLATION_MISSING`, with the tables and what they lack; `ERR_TENANCY_SCHEMA_MISSING`, `ERR_TENANCY_OPTION_INVALID`.
 */
export async function assertRowIsolation(
  central: pg.Pool,
  check: RowIsolationCheck,
): Promise<void> {
  assertKnownKeys('assertRowIsolation', check, ['schema', 'sharedTables', 'role'])
  const { schema, sharedTables = [], role } = check
  assertTableNames(sharedTables)
  assertSchemaName(schema)
  const facts = await withTransaction(central, async (client) => {
    await client.query(`set transaction read only; ${CATALOGUE_PATH}`)
    return readSchemaFacts(client, schema)
  })
  const { statements, findings } = completePlan(
    new RowPlan(facts, {
      sharedTables,
      role,
      tenantIdForExistingRows: undefined,
      unowned: new Set(),
    }),
  )
  const reasons = new Map<string, string[]>()
  const note = (object: string, why: string): void => {
    const known = reasons.get(object) ?? []
    if (!known.includes(why)) reasons.set(object, [...known, why])
  }
  for (const { step, object, why } of statements) if (!HARMLESS_STEPS.has(step)) note(object, why)
  for (const { severity, object, code } of findings) if (severity === 'error') note(object, code)
  if (reasons.size === 0) return
  const places = [...reasons].map(([object, whys]) => `${object} (${whys.join(', ')})`)
  throw new TenancyError(
    'ERR_TENANCY_ROW_ISOLATION_MISSING',
    `Not isolated by rows: ${places.slice(0, 10).join('; ')}${places.length > 10 ? `; and ${places.length - 10} more` : ''}.`,
  )
}
