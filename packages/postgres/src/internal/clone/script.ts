import { addConstraints } from './constraint-steps.ts'
import type { SchemaFacts } from './facts.ts'
import { addIndexes, addStatistics } from './index-steps.ts'
import { ClonePlan, type CloneTask } from './plan.ts'
import { defaultPrivilegeStatements, grantStatements, listGrants } from './rights.ts'
import { addOperators, addRoutines } from './routine-steps.ts'
import { addRows } from './row-steps.ts'
import { literal, quote } from './sql-text.ts'
import { inOrder, type OrderedStep, Rank } from './step.ts'
import { addSequences, addTables } from './table-steps.ts'
import { addTriggers } from './trigger-steps.ts'
import { addTypes } from './type-steps.ts'
import { addViews } from './view-steps.ts'

/** The two paths of a clone. */
export interface ClonePaths {
  /** What definitions are printed and read under: `pg_catalog` stands behind the schema, so that a name that both have needs no schema in front. */
  readonly definitions: string
  /** What functions run under: the tenant's own. */
  readonly tenant: string
}

/** Looks at the facts of a schema and says what a clone does, in no order yet. */
export function planClone(facts: SchemaFacts, task: CloneTask): ClonePlan {
  const plan = new ClonePlan(facts, task)
  addTypes(plan)
  addSequences(plan)
  addTables(plan)
  addRoutines(plan)
  addOperators(plan)
  addViews(plan)
  addConstraints(plan)
  addIndexes(plan)
  addStatistics(plan)
  addTriggers(plan)
  addRows(plan)
  return plan
}

/**
 * The text of a clone, in the order in which it can run. Rows come when the tables are there and nothing else is: no constraint, no index, no trigger, no rule, no policy.
 *
 * @throws {CircleError} if objects need each other in a circle.
 */
export function cloneScript(plan: ClonePlan, paths: ClonePaths): string {
  const { facts, task } = plan
  const ordered = inOrder(plan.connected())
  const rows = ordered.findIndex(({ step }) => step.rank >= Rank.rows)
  const first = rows === -1 ? ordered : ordered.slice(0, rows)
  const rest = rows === -1 ? [] : ordered.slice(rows)
  const made = new Set([task.target, ...first.map(({ step }) => step.id)])
  const grants = Map.groupBy(listGrants(plan), ({ id }) => made.has(plan.step(id)))
  const [schema] = facts.of('schema')
  return [
    ...SETTINGS,
    `set local search_path = ${paths.definitions}`,
    ...stepStatements(first, paths),
    // Before functions of the schema run, be it as the owners of tables, their rights are in place.
    ...grantStatements(plan, grants.get(true) ?? []),
    ...stepStatements(rest, paths),
    ...grantStatements(plan, grants.get(false) ?? []),
    ...commentStatements(plan),
    ...(schema === undefined ? [] : plan.owned('schema', quote(task.target), schema.owner)),
    ...defaultPrivilegeStatements(plan),
  ].join(';\n')
}

const SETTINGS = [
  // A notice for every column that is merged would be most of the traffic.
  'set local client_min_messages = warning',
  // A body may speak of what comes later.
  'set local check_function_bodies = off',
  "set local default_tablespace = ''",
  'set local default_table_access_method = heap',
  // Rows that a policy hides must be an error, and no gap.
  'set local row_security = off',
  'set local synchronize_seqscans = off',
  // Values that go through text come back as they were.
  'set local extra_float_digits = 3',
  "set local datestyle = 'ISO'",
  "set local intervalstyle = 'postgres'",
  "set local bytea_output = 'hex'",
  'set local xmloption = content',
]

/** Statements with the path that each of them needs. Neighbours on one table become one statement, and one scan. Ends under the path of definitions. */
function stepStatements(steps: readonly OrderedStep[], paths: ClonePaths): string[] {
  const texts: string[] = []
  let path = paths.definitions
  let table: string | undefined
  const follow = (next: string): void => {
    if (next === path) return
    texts.push(`set local search_path = ${next}`)
    path = next
    table = undefined
  }
  for (const { step, taken } of steps) {
    follow(step.runs === true ? paths.tenant : paths.definitions)
    for (const statement of step.write(taken)) {
      if (typeof statement === 'string') {
        texts.push(statement)
        table = undefined
      } else if (table === statement.table) {
        texts.push(`${texts.pop() ?? ''}, ${statement.action}`)
      } else {
        texts.push(`alter table only ${quote(statement.table)} ${statement.action}`)
        table = statement.table
      }
    }
  }
  follow(paths.definitions)
  return texts
}

function commentStatements(plan: ClonePlan): string[] {
  return plan.facts.of('comment').map(({ on, column, text }) => {
    const name = plan.nameOf(on)
    if (name === undefined) throw new Error(`There is a comment on ${on}, and no name for that.`)
    // `table "orders"` and its columns.
    const owner = name.slice(name.indexOf('"'))
    const object = column === null ? name : `column ${owner}.${quote(column)}`
    return `comment on ${object} is ${literal(text)}`
  })
}
