import type { ClonePlan } from './plan.ts'
import { quote } from './sql-text.ts'
import { Rank } from './step.ts'

const FIRING = { O: '', D: 'disable', A: 'enable always', R: 'enable replica' } as const

/** Triggers, rules and policies: last, so that nothing that a clone does sets them off. */
export function addTriggers(plan: ClonePlan): void {
  const tables = new Map(
    [...plan.facts.of('table'), ...plan.facts.of('view')].map(({ id, name }) => [id, name]),
  )
  for (const { id, name, table, definition, enabled, parent } of plan.facts.of('trigger')) {
    const on = tables.get(table) ?? ''
    plan.name(id, `trigger ${quote(name)} on ${quote(on)}`)
    plan.keep(`trigger ${name} on ${on}`, 'definition', definition)
    const firing = { table: on, action: `${FIRING[enabled]} trigger ${quote(name)}` }
    plan.add({
      id,
      what: `trigger ${name} on ${on}`,
      rank: Rank.trigger,
      needs: [table, `rows ${table}`, `attach ${table}`],
      // Those of partitions come down from the partitioned table; only whether they fire is their own.
      write: [...(parent ? [] : [definition]), ...(enabled === 'O' ? [] : [firing])],
    })
  }
  for (const { id, name, table, definition, enabled } of plan.facts.of('rule')) {
    const on = tables.get(table) ?? ''
    plan.name(id, `rule ${quote(name)} on ${quote(on)}`)
    plan.keep(`rule ${name} on ${on}`, 'definition', definition)
    plan.add({
      id,
      what: `rule ${name} on ${on}`,
      rank: Rank.trigger,
      needs: [table, `rows ${table}`],
      write: [
        definition.replace(/;\s*$/, ''),
        ...(enabled === 'O'
          ? []
          : [`alter table ${quote(on)} ${FIRING[enabled]} rule ${quote(name)}`]),
      ],
    })
  }
  addPolicies(plan, tables)
}

function addPolicies(plan: ClonePlan, tables: ReadonlyMap<string, string>): void {
  for (const policy of plan.facts.of('policy')) {
    const on = tables.get(policy.table) ?? ''
    const { id, name } = policy
    plan.name(id, `policy ${quote(name)} on ${quote(on)}`)
    plan.keep(`policy ${name} on ${on}`, 'definition', policy.using, policy.check)
    const roles = policy.roles.map((role) =>
      role === null ? 'public' : quote(plan.task.role(role)),
    )
    plan.add({
      id,
      what: `policy ${name} on ${on}`,
      rank: Rank.trigger,
      needs: [policy.table, `rows ${policy.table}`],
      write: [
        [
          `create policy ${quote(name)} on ${quote(on)} as ${policy.permissive ? 'permissive' : 'restrictive'} for ${policy.command} to ${roles.join(', ')}`,
          policy.using === null ? '' : ` using (${policy.using})`,
          policy.check === null ? '' : ` with check (${policy.check})`,
        ].join(''),
      ],
    })
  }
  for (const table of plan.facts.of('table')) {
    const actions = [
      ...(table.rowSecurity ? ['enable row level security'] : []),
      ...(table.forceRowSecurity ? ['force row level security'] : []),
    ]
    if (actions.length > 0)
      plan.add({
        id: `row security ${table.id}`,
        what: `table ${table.name}`,
        rank: Rank.trigger,
        needs: [table.id, `rows ${table.id}`],
        write: actions.map((action) => ({ table: table.name, action })),
      })
  }
}
