import { TENANT_POLICY, type TenantType, tenantCondition } from './expressions.ts'
import type { PolicyFacts, RelationFacts } from './facts.ts'
import type { RowPlan } from './row-plan.ts'

/** Switches row security on for every covered table, for its owner as well, with one policy for everybody and everything, and takes away the rights that no policy bounds. */
export function planPolicies(plan: RowPlan): void {
  for (const relation of plan.covered) {
    const type = plan.tenantTypeOf(relation)
    if (type === undefined) continue
    const { sql, policies, secured, forced, ownerIsTenant } = relation
    if (ownerIsTenant) plan.find('PARTYWALL_ROW_OWNER', sql)
    for (const { name, permissive } of policies)
      if (permissive && name !== TENANT_POLICY)
        plan.find('PARTYWALL_ROW_POLICY_BESIDE', `"${name}" on ${sql}`)
    planPolicy(plan, relation, type)
    if (!secured || !forced)
      plan.add(
        'policy',
        sql,
        secured ? 'row security does not hold for the owner' : 'row security is off',
        `alter table ${sql} ${[...(secured ? [] : ['enable row level security']), ...(forced ? [] : ['force row level security'])].join(', ')}`,
      )
    else if (plan.lookedInto(relation))
      plan.add(
        'force',
        sql,
        'its rows were looked at',
        `alter table ${sql} force row level security`,
      )
    for (const { role, privileges } of relation.dangerousGrants)
      plan.add(
        'grant',
        sql,
        `${role} may ${privileges}, which no policy bounds`,
        `revoke ${privileges} on ${sql} from ${role} cascade`,
      )
  }
  const { anybodyCreates, schemaSql } = plan.facts
  if (anybodyCreates)
    plan.add(
      'grant',
      schemaSql,
      'anybody may create objects in the schema',
      `revoke create on schema ${schemaSql} from public`,
    )
}

function planPolicy(plan: RowPlan, { sql, policies }: RelationFacts, type: TenantType): void {
  const found = policies.find(({ name }) => name === TENANT_POLICY)
  const { role } = plan.options
  const roles = role === undefined ? (['none', 'per-tenant'] as const) : [role]
  if (
    found !== undefined &&
    roles.some((mode) => isOurs(found, tenantCondition(type, mode).printed))
  )
    return
  const condition = tenantCondition(type, role ?? 'none').sql
  plan.add(
    'policy',
    sql,
    found === undefined ? 'no policy' : 'its policy is not the one of its tenant',
    ...(found === undefined ? [] : [`drop policy ${TENANT_POLICY} on ${sql}`]),
    `create policy ${TENANT_POLICY} on ${sql} using (${condition}) with check (${condition})`,
  )
}

function isOurs(policy: PolicyFacts, condition: string): boolean {
  const { permissive, command, everybody, using, check } = policy
  return permissive && command === '*' && everybody && using === condition && check === condition
}
