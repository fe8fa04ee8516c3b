import type { ColumnFacts, SchemaFacts } from './facts.ts'
import type { ClonePlan } from './plan.ts'
import { literal, quote } from './sql-text.ts'
import { Rank } from './step.ts'

/** The rows, and how far the sequences have counted. Everything in these statements is qualified. */
export function addRows(plan: ClonePlan): void {
  const { facts, task } = plan
  const source = quote(task.source)
  const target = quote(task.target)
  const converted = typesToConvert(facts, target)
  // Citus has no tables that inherit, and its own way with partitions.
  const only = task.engine === 'citus' ? '' : 'only '
  const value = ({ name, typeId }: ColumnFacts): string => {
    const type = converted.get(typeId)
    return type === undefined ? `t.${quote(name)}` : throughText(`t.${quote(name)}`, type)
  }
  for (const { id, name, relkind, columns } of facts.of('table')) {
    if (relkind === 'p' || !task.hasRows(id)) continue
    const stored = (columns ?? []).filter(({ generated }) => generated === null)
    const list =
      stored.length === 0 ? '' : ` (${stored.map((column) => quote(column.name)).join(', ')})`
    plan.add({
      id: `rows ${id}`,
      what: `rows of ${name}`,
      rank: Rank.rows,
      needs: [id],
      runs: true,
      write: [
        `insert into ${target}.${quote(name)}${list} overriding system value select ${stored.map(value).join(', ')} from ${only}${source}.${quote(name)} t`,
      ],
    })
  }
  for (const { id, name, owned } of facts.of('sequence')) {
    if (!task.allRows && !usersOf(plan, id, owned?.table).some((table) => task.hasRows(table)))
      continue
    plan.add({
      id: `state ${id}`,
      what: `sequence ${name}`,
      rank: Rank.state,
      needs: [plan.step(id)],
      runs: true,
      write: [
        `select pg_catalog.setval(${literal(`${target}.${quote(name)}`)}, s.last_value, s.is_called) from ${source}.${quote(name)} s`,
      ],
    })
  }
}

/** The tables that take numbers from a sequence: the one that it belongs to, and those with a default that uses it. */
function usersOf({ facts }: ClonePlan, sequence: string, owner: string | undefined): string[] {
  const users = new Set(facts.edges.filter(([, to]) => to === sequence).map(([from]) => from))
  const tables = facts
    .of('table')
    .filter(({ columns }) => (columns ?? []).some(({ defaultId }) => users.has(defaultId ?? '')))
  return [...(owner === undefined ? [] : [owner]), ...tables.map(({ id }) => id)]
}

/**
 * A value of a type of the one schema as a value of the same type of the other: by its text, as a dump would do it. Not by a cast to text, which a schema can replace with one of its own; its casts from text
 * are not made yet.
 */
function throughText(value: string, type: string): string {
  return `(case when pg_catalog.num_nulls(${value}) operator(pg_catalog.=) 0 then pg_catalog.format('%s', ${value}) end)::${type}`
}

/** Types whose values do not fit into the same type of another schema, and what these are called there: enums, composites, ranges, their arrays, and domains over any of them. Other domains convert by themselves. */
function typesToConvert(facts: SchemaFacts, schema: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  const domains = facts.of('type').filter(({ typtype }) => typtype === 'd')
  for (const type of facts.of('type')) {
    const name = `${schema}.${quote(type.name)}`
    found.set(type.array, `${name}[]`)
    if (type.typtype !== 'd') found.set(type.id, name)
    if (type.multirange === null || type.range === null) continue
    found.set(type.multirange, `${schema}.${quote(type.range.multirange)}`)
    found.set(type.multirangeArray ?? '', `${schema}.${quote(type.range.multirange)}[]`)
  }
  const relations = new Map(
    [...facts.of('table'), ...facts.of('view')].map(({ id, name }) => [id, name]),
  )
  for (const { id, array, relation } of facts.of('row type')) {
    const name = `${schema}.${quote(relations.get(relation) ?? '')}`
    found.set(id, name)
    found.set(array, `${name}[]`)
  }
  for (let before = -1; before !== found.size; ) {
    before = found.size
    for (const { id, baseId, name } of domains)
      if (found.has(baseId)) found.set(id, `${schema}.${quote(name)}`)
  }
  return found
}
