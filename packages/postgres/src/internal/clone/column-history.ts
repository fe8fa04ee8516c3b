import type { ColumnFacts, Fact } from './facts.ts'

type Table = Fact<'table'>

/** A column that a table got for itself, and handed down to its children. */
export interface ColumnEvent {
  readonly table: Table
  readonly column: ColumnFacts
}

/** Tables that inherit from each other, and the order in which they can have got their columns. */
export interface Family {
  readonly tables: readonly Table[]
  readonly events: readonly ColumnEvent[]
}

/** Whether INHERITS gives the table its columns in the order that they have, those of the parents first; or whether it had them all before it became a child. */
export function inheritsInOrder(table: Table, parents: readonly Table[]): boolean {
  const inherited = new Set(parents.flatMap(({ columns }) => columns ?? []).map(({ name }) => name))
  const own = (table.columns ?? []).filter(({ name }) => !inherited.has(name))
  const expected = [...inherited, ...own.map(({ name }) => name)]
  return (table.columns ?? []).every(({ name }, at) => name === expected[at])
}

/**
 * The families in which a parent got columns when there were children already: CREATE TABLE alone cannot give the children their columns in the order that they have. Adding every column to empty tables in this
 * order can. Families whose columns fit into no one order are left out.
 */
export function lateFamilies(tables: readonly Table[]): Family[] {
  const byId = new Map(tables.map((table) => [table.id, table]))
  const parentsOf = (table: Table): Table[] =>
    table.partitionBound === null ? (table.parents ?? []).flatMap((id) => byId.get(id) ?? []) : []
  const family = new Map<string, Set<Table>>()
  for (const table of tables)
    for (const parent of parentsOf(table)) {
      const one = new Set([
        ...(family.get(table.id) ?? [table]),
        ...(family.get(parent.id) ?? [parent]),
      ])
      for (const { id } of one) family.set(id, one)
    }
  return [...new Set(family.values())].flatMap((members) => {
    const late = [...members].some(
      (table) =>
        parentsOf(table).length > 0 &&
        !inheritsInOrder(table, parentsOf(table)) &&
        !(table.columns ?? []).every(({ local }) => local),
    )
    const events = late ? history([...members], parentsOf) : undefined
    return events === undefined
      ? []
      : [{ tables: tables.filter((table) => members.has(table)), events }]
  })
}

/** One order of all columns that is that of every table, or `undefined` if there is none. */
function history(
  tables: readonly Table[],
  parentsOf: (table: Table) => readonly Table[],
): ColumnEvent[] | undefined {
  const events = new Map<string, ColumnEvent>()
  const before = new Map<string, Set<string>>()
  const key = (table: Table, name: string): string => JSON.stringify([table.id, name])
  /** The events that brought a column to a table: its own, or those of its parents. */
  const origins = (table: Table, name: string): string[] => {
    const column = (table.columns ?? []).find((found) => found.name === name)
    if (column === undefined) return []
    return column.local
      ? [key(table, name)]
      : parentsOf(table).flatMap((parent) => origins(parent, name))
  }
  for (const table of tables) {
    let last: string | undefined
    for (const column of table.columns ?? []) {
      const own = key(table, column.name)
      if (column.local) {
        events.set(own, { table, column })
        before.set(own, before.get(own) ?? new Set())
        // A column that a child had before its parent got one of the name.
        for (const parent of parentsOf(table))
          for (const origin of origins(parent, column.name)) add(before, own, origin)
      }
      const [first] = origins(table, column.name)
      if (first === undefined) return undefined
      if (last !== undefined && last !== first) add(before, last, first)
      last = first
    }
  }
  const order: ColumnEvent[] = []
  const left = new Map(events)
  while (left.size > 0) {
    const next = [...left].find(([id]) =>
      [...(before.get(id) ?? [])].every((earlier) => !left.has(earlier)),
    )
    if (next === undefined) return undefined
    left.delete(next[0])
    order.push(next[1])
  }
  return order
}

function add(before: Map<string, Set<string>>, earlier: string, later: string): void {
  before.set(later, (before.get(later) ?? new Set()).add(earlier))
}
