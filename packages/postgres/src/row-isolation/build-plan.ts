import { planColumns } from './columns.ts'
import { planForeignKeys } from './foreign-keys.ts'
import { planKeys } from './keys.ts'
import { planPolicies } from './policies.ts'
import type { RowPlan } from './row-plan.ts'
import { planSurroundings } from './surroundings.ts'

/** Compares what is there with what has to be, and writes down the difference. */
export function completePlan(plan: RowPlan): RowPlan {
  planSurroundings(plan)
  planColumns(plan)
  planKeys(plan)
  planForeignKeys(plan)
  // Last, for it is to know which tables were opened.
  planPolicies(plan)
  return plan
}
