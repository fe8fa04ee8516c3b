import { isTenantType } from './expressions.ts'
import type { RowPlan } from './row-plan.ts'

/** What is no table of the schema and reaches its rows all the same: views, rules, functions; and what cannot be isolated at all. */
export function planSurroundings(plan: RowPlan): void {
  const { relations, views, rules, definers } = plan.facts
  const reachesCovered = (oids: readonly string[]): boolean => oids.some((oid) => plan.covers(oid))
  for (const { name, kind, sql } of relations)
    if (kind === 'f' && !plan.options.sharedTables.includes(name))
      plan.find('PARTYWALL_ROW_FOREIGN_TABLE', sql)
  planFamilies(plan)
  for (const { sql, inside, materialized, invoker, reads } of views) {
    if (!reachesCovered(reads)) continue
    if (materialized) plan.find('PARTYWALL_ROW_MATERIALIZED_VIEW', sql)
    else if (invoker) continue
    else if (inside)
      plan.add(
        'view',
        sql,
        'the view reads with the rights of its owner',
        `alter view ${sql} set (security_invoker = true)`,
      )
    else plan.find('PARTYWALL_ROW_VIEW_OUTSIDE', sql)
  }
  for (const { name, relations: used } of rules)
    if (reachesCovered(used)) plan.find('PARTYWALL_ROW_RULE', name)
  for (const definer of definers) plan.find('PARTYWALL_ROW_DEFINER_FUNCTION', definer)
  for (const { sql, publications, tenantColumn } of plan.covered)
    if (tenantColumn === null || isTenantType(tenantColumn.type))
      for (const publication of publications)
        plan.find('PARTYWALL_ROW_PUBLICATION', `${publication} of ${sql}`)
}

/** A parent shows the rows of its children under its own policy, and a child by itself has only its own. */
function planFamilies(plan: RowPlan): void {
  for (const { oid, sql, parents } of plan.facts.relations) {
    const covered = plan.covers(oid)
    for (const parent of parents)
      if (plan.covers(parent) !== covered)
        plan.find(
          'PARTYWALL_ROW_FAMILY',
          `${sql}, of ${plan.relation(parent)?.sql ?? 'another schema'}`,
        )
  }
  for (const { sql, childrenOutside } of plan.covered)
    for (const child of childrenOutside) plan.find('PARTYWALL_ROW_FAMILY', `${child}, of ${sql}`)
}
