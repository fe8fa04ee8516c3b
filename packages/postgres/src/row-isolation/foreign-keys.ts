import pg from 'pg'
import { TENANT_COLUMN } from './expressions.ts'
import type { ForeignKeyFacts, ReferentialAction } from './facts.ts'
import type { RowPlan } from './row-plan.ts'

/** Puts the tenant into every foreign key between covered tables. Without it, a row could refer to a row of another tenant, for the server checks references past all policies. */
export function planForeignKeys(plan: RowPlan): void {
  for (const key of plan.facts.foreignKeys) {
    const named = `${key.name} on ${key.fromSql}`
    const from = plan.covers(key.from)
    const to = plan.covers(key.to)
    if ((from || to) && key.triggersDisabled) plan.find('PARTYWALL_ROW_TRIGGERS_DISABLED', named)
    if (from && to) planInner(plan, key, named)
    // Two schemas that are each isolated by rows may refer to each other, with the tenant.
    else if (to && (key.fromInside || !key.pairsTenant))
      plan.find('PARTYWALL_ROW_KEY_FROM_OUTSIDE', named)
    else if (from && !key.toInside && key.toIsolated && !key.pairsTenant)
      plan.find('PARTYWALL_ROW_KEY_TO_OTHER_SCHEMA', named)
  }
}

function planInner(plan: RowPlan, key: ForeignKeyFacts, named: string): void {
  if (key.pairsTenant) return
  const from = plan.relation(key.from)
  const to = plan.relation(key.to)
  if (from === undefined || to === undefined) return
  const types = [from, to].map((relation) => plan.tenantTypeOf(relation))
  if (types.includes(undefined)) return
  if (key.namesTenant) return plan.find('PARTYWALL_ROW_KEY_NAMES_TENANT', named)
  if (key.onUpdate === 'n') return plan.find('PARTYWALL_ROW_KEY_SETS_NULL', named)
  // Integers of different sizes, and texts of either kind, can be compared.
  if (new Set(types.map((type) => FAMILIES[type ?? ''] ?? type)).size > 1)
    return plan.find('PARTYWALL_ROW_KEY_TYPES', named)
  plan.lookInto(from)
  plan.lookInto(to)
  const why = `${key.name} is without the tenant`
  const alter = `alter table ${key.fromSql}`
  plan.add('drop-foreign-key', key.fromSql, why, `${alter} drop constraint ${key.name}`)
  plan.add(
    'foreign-key',
    key.fromSql,
    why,
    `${alter} add constraint ${key.name} ${definitionOf(key)}`,
    ...fullMatch(key),
    ...(key.comment === null
      ? []
      : [
          `comment on constraint ${key.name} on ${key.fromSql} is ${pg.escapeLiteral(key.comment)}`,
        ]),
  )
}

const FAMILIES: Readonly<Record<string, string>> = {
  'character varying': 'text',
  smallint: 'bigint',
  integer: 'bigint',
}

const ACTIONS: Readonly<Record<ReferentialAction, string>> = {
  a: '',
  r: 'restrict',
  c: 'cascade',
  n: 'set null',
  d: 'set default',
}

function definitionOf(key: ForeignKeyFacts): string {
  const { columns, references, toSql, onUpdate, onDelete, deferrable, deferred } = key
  // Of all columns, the tenant among them, unless there is a list.
  const emptied = key.deleteColumns.length > 0 ? key.deleteColumns : columns
  const emptiedSql = onDelete === 'n' || onDelete === 'd' ? ` (${emptied.join(', ')})` : ''
  return [
    `foreign key (${withTenant(columns, key.period)}) references ${toSql} (${withTenant(references, key.period)})`,
    ...(keepsMatchFull(key) ? ['match full'] : []),
    ...(onUpdate === 'a' ? [] : [`on update ${ACTIONS[onUpdate]}`]),
    ...(onDelete === 'a' ? [] : [`on delete ${ACTIONS[onDelete]}${emptiedSql}`]),
    ...(deferrable ? ['deferrable'] : []),
    ...(deferred ? ['initially deferred'] : []),
    ...(key.enforced ? (key.validated ? [] : ['not valid']) : ['not enforced']),
  ].join(' ')
}

function withTenant(columns: readonly string[], period: boolean): string {
  const last = columns.length - 1
  return [
    TENANT_COLUMN,
    ...columns.map((column, index) => (period && index === last ? `period ${column}` : column)),
  ].join(', ')
}

/** MATCH FULL wants all columns NULL or none, and the tenant never is. It may stay where none of the others is either. */
function keepsMatchFull({ match, nullable }: ForeignKeyFacts): boolean {
  return match === 'f' && !nullable
}

/** What MATCH FULL says about the other columns, where it cannot stay. Of a single column it says nothing. */
function fullMatch(key: ForeignKeyFacts): string[] {
  const { match, columns, fromSql, enforced, validated } = key
  if (match !== 'f' || keepsMatchFull(key) || columns.length === 1 || !enforced) return []
  return [
    `alter table ${fromSql} add check (num_nulls(${columns.join(', ')}) in (0, ${columns.length}))${validated ? '' : ' not valid'}`,
  ]
}
