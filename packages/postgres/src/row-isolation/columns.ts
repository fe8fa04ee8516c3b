import pg from 'pg'
import {
  TENANT_CHECK,
  TENANT_COLUMN,
  type TenantType,
  tenantCheck,
  tenantValue,
} from './expressions.ts'
import type { RelationFacts, TenantColumnFacts } from './facts.ts'
import type { RowPlan } from './row-plan.ts'

type Need = 'column' | 'not-null' | 'default' | 'check'

/** Gives every covered table the column of the tenant, filled, NOT NULL, with its default and its check. What a parent gets, its children get from it. */
export function planColumns(plan: RowPlan): void {
  for (const relation of plan.covered) {
    const type = plan.tenantTypeOf(relation)
    if (type === undefined) {
      plan.find('PARTYWALL_ROW_TENANT_COLUMN', relation.sql)
      continue
    }
    if (relation.isTyped && relation.tenantColumn === null) {
      plan.find('PARTYWALL_ROW_TYPED_TABLE', relation.sql)
      continue
    }
    const inherited = new Set(
      plan.ancestorsOf(relation).flatMap((ancestor) => {
        const needs = needsOf(plan, ancestor)
        return needs.includes('column') ? [...needs, 'default', 'check'] : needs
      }),
    )
    const own = needsOf(plan, relation).filter((need) => !inherited.has(need))
    const owner = plan.options.tenantIdForExistingRows
    const hasUnowned = plan.options.unowned.has(relation.oid)
    if (hasUnowned && owner === undefined) plan.find('PARTYWALL_ROW_EXISTING_ROWS', relation.sql)
    if (owner !== undefined && relation.tenantColumn !== null)
      if (hasUnowned || (isDoubtful(plan, relation) && isHidden(plan, relation)))
        fill(plan, relation, type, owner)
    for (const need of own) meet(plan, relation, type, need)
  }
}

/** Tables whose rows may be nobody's, with the question that tells. A table whose rows the reader cannot see is not asked: NOT NULL, when it is set, looks at all of them. */
export function questionsAboutRows(plan: RowPlan): { oid: string; sql: string }[] {
  return plan.covered.flatMap((relation) => {
    const { oid, sql, tenantColumn } = relation
    const type = plan.tenantTypeOf(relation)
    if (type === undefined || !isDoubtful(plan, relation) || isHidden(plan, relation)) return []
    const condition = tenantColumn === null ? 'true' : unownedRow(type)
    return [{ oid, sql: `exists (select from only ${sql} where ${condition})` }]
  })
}

/** Nothing keeps it from having rows of no tenant. A partitioned table has none of its own. */
function isDoubtful(plan: RowPlan, relation: RelationFacts): boolean {
  return relation.kind === 'r' && needsOf(plan, relation).some((need) => need !== 'default')
}

/** Its policy hides its rows from whoever plans this. */
function isHidden(plan: RowPlan, { secured, forced }: RelationFacts): boolean {
  return secured && forced && !plan.facts.readerIsExempt
}

function needsOf(plan: RowPlan, relation: RelationFacts): Need[] {
  const type = plan.tenantTypeOf(relation)
  if (type === undefined) return []
  const { tenantColumn } = relation
  if (tenantColumn === null) return ['column', 'default', ...checkNeeds(type)]
  return [
    ...(tenantColumn.notNull ? [] : ['not-null' as const]),
    ...(tenantColumn.default === tenantValue(type).printed ? [] : ['default' as const]),
    ...checkNeeds(type, tenantColumn),
  ]
}

function checkNeeds(type: TenantType, column?: TenantColumnFacts): Need[] {
  const check = tenantCheck(type)
  return check === undefined || column?.checks.includes(check.printed) === true ? [] : ['check']
}

function unownedRow(type: TenantType): string {
  const empty = tenantCheck(type) === undefined ? '' : ` or ${TENANT_COLUMN} = ''`
  return `${TENANT_COLUMN} is null${empty}`
}

function meet(plan: RowPlan, relation: RelationFacts, type: TenantType, need: Need): void {
  const { sql, hasTenantCheck } = relation
  const alter = `alter table ${sql}`
  const owner = plan.options.tenantIdForExistingRows
  switch (need) {
    case 'column':
      // A constant default fills the rows that are there without writing them. Without one, NOT NULL refuses a table that has any.
      plan.add(
        'column',
        sql,
        'no tenant',
        `${alter} add column ${TENANT_COLUMN} ${type} not null${owner === undefined ? '' : ` default ${pg.escapeLiteral(owner)}`}`,
      )
      break
    case 'not-null':
      plan.add(
        'column',
        sql,
        'rows may have no tenant',
        `${alter} alter column ${TENANT_COLUMN} set not null`,
      )
      break
    case 'default':
      plan.add(
        'column',
        sql,
        'the tenant is not filled in',
        `${alter} alter column ${TENANT_COLUMN} set default ${tenantValue(type).sql}`,
      )
      break
    case 'check':
      plan.add(
        'column',
        sql,
        'rows may be of an empty tenant',
        ...(hasTenantCheck ? [`${alter} drop constraint ${TENANT_CHECK}`] : []),
        `${alter} add constraint ${TENANT_CHECK} ${tenantCheck(type)?.sql}`,
      )
  }
}

/** Gives rows that are nobody's to the tenant that was named. Triggers of the application keep out of it, and are then as they were. */
function fill(plan: RowPlan, relation: RelationFacts, type: TenantType, owner: string): void {
  const { sql, updateTriggers } = relation
  plan.lookInto(relation)
  plan.add(
    'column',
    sql,
    'rows of no tenant',
    ...updateTriggers.map(({ name }) => `alter table ${sql} disable trigger ${name}`),
    `update only ${sql} set ${TENANT_COLUMN} = ${pg.escapeLiteral(owner)} where ${unownedRow(type)}`,
    // Checks that wait for the end of the transaction would keep the table from being altered.
    'set constraints all immediate',
    ...updateTriggers.map(
      ({ name, enabled }) =>
        `alter table ${sql} enable ${enabled === 'A' ? 'always ' : ''}trigger ${name}`,
    ),
  )
}
