import { inheritsInOrder, lateFamilies } from './column-history.ts'
import { findNames } from './names-in-text.ts'
import type { ClonePlan } from './plan.ts'

/** Says what of a schema a clone would have to leave out or change, as people read it. */
export function findRefusals(plan: ClonePlan): string[] {
  const { facts, task } = plan
  const tables = new Map(facts.of('table').map((table) => [table.id, table]))
  const late = new Set(lateFamilies([...tables.values()]).flatMap((family) => family.tables))
  const reordered = [...tables.values()].filter((table) => {
    const parents = (table.parents ?? []).flatMap((id) => tables.get(id) ?? [])
    return (
      table.partitionBound === null &&
      parents.length > 0 &&
      !late.has(table) &&
      !inheritsInOrder(table, parents) &&
      !(table.columns ?? []).every(({ local }) => local)
    )
  })
  const hidden = [...tables.values()].filter((table) => table.hidden && task.hasRows(table.id))
  return [
    ...hidden.map(
      ({ name }) => `table ${task.source}.${name} (its row policies hide rows from ${task.user})`,
    ),
    ...facts.obstacles.map(({ name, reason }) => `${name} (${reason})`),
    ...reordered.map(
      ({ name }) =>
        `table ${task.source}.${name} (the order of its columns is none that its parents and it can have got them in)`,
    ),
    ...(task.engine === 'citus' ? citusRefusals(plan) : []),
  ]
}

/** What Citus does not distribute, or distributes without a word and then does not run. */
function citusRefusals({ facts, task }: ClonePlan): string[] {
  const tables = new Map(facts.of('table').map((table) => [table.id, table]))
  const named = (id: string): string =>
    tables.get(id)?.name ?? facts.of('view').find((view) => view.id === id)?.name ?? ''
  const related = [...tables.values()].filter(
    ({ parents, partitionBound }) => (parents ?? []).length > 0 && partitionBound === null,
  )
  const nested = [...tables.values()].filter(
    ({ partitionKey, partitionBound }) => partitionKey !== null && partitionBound !== null,
  )
  return [
    ...related.map(({ name }) => `table ${task.source}.${name} (inherits, which Citus refuses)`),
    ...nested.map(
      ({ name }) => `table ${task.source}.${name} (partitions in partitions, which Citus refuses)`,
    ),
    ...(['trigger', 'rule'] as const).flatMap((kind) =>
      facts
        .of(kind)
        .filter(({ table }) => tables.has(table))
        .map(
          ({ name, table }) =>
            `${kind} ${name} on ${task.source}.${named(table)} (which Citus does not run on distributed tables)`,
        ),
    ),
  ]
}

const NAMED_KINDS = [
  'table',
  'view',
  'sequence',
  'index',
  'routine',
  'type',
  'operator',
  'collation',
  'dictionary',
  'text search',
  'statistics',
] as const

/** Texts that name the source. */
export function findNamings(plan: ClonePlan): string[] {
  const { facts, task } = plan
  const objects = new Set(NAMED_KINDS.flatMap((kind) => facts.of(kind).map(({ name }) => name)))
  return findNames(task.source, objects, plan.texts)
}

/**
 * The locks that a clone takes, at most. Of the source, one for each table and view, and where rows are read, for each index and TOAST table with its index; of the target, one for each of all of these and for each
 * object of any other kind that is given an owner or a comment, or that another one refers to; and those on the server's own catalogues.
 */
export function countLocks({ facts, task }: ClonePlan): number {
  const tables = facts.of('table')
  const stored = [...tables, ...facts.of('view')]
  const indexes = Map.groupBy(facts.of('index'), ({ table }) => table)
  const parts = (of: readonly { readonly id: string; readonly toasted: boolean }[]): number =>
    of.reduce((sum, { id, toasted }) => sum + (indexes.get(id)?.length ?? 0) + (toasted ? 2 : 0), 0)
  const sequences = facts.of('sequence').length
  // Nothing ever refers to a not-null constraint, and Postgres 18 has one for every such column.
  const constraints = facts.of('constraint').filter(({ contype }) => contype !== 'n').length
  const others = OTHER_KINDS.reduce((sum, kind) => sum + facts.of(kind).length, constraints)
  const source = stored.length + parts(tables.filter(({ id }) => task.hasRows(id))) + sequences
  return source + stored.length + parts(stored) + sequences + others + CATALOGUE_LOCKS
}

const OTHER_KINDS = [
  'type',
  'routine',
  'operator',
  'collation',
  'dictionary',
  'text search',
  'statistics',
  'cast',
  'trigger',
  'rule',
  'policy',
] as const

/** Catalogues and their indexes, 136 of which were seen on Postgres 15 and 18. */
const CATALOGUE_LOCKS = 200
