import { type Family, inheritsInOrder, lateFamilies } from './column-history.ts'
import { addConstraintAction } from './constraint-steps.ts'
import type { ColumnFacts, Fact, SequenceFacts } from './facts.ts'
import type { ClonePlan } from './plan.ts'
import { quote, storageOptions, withOptions } from './sql-text.ts'
import { Rank } from './step.ts'

type Table = Fact<'table'>
type Constraint = Fact<'constraint'>

/** Sequences that are no part of an identity column. */
export function addSequences(plan: ClonePlan): void {
  for (const { id, name, sequence, owned, owner } of plan.facts.of('sequence')) {
    plan.name(id, `sequence ${quote(name)}`)
    if (owned?.type === 'i') {
      plan.alias(owned.table, [id])
      continue
    }
    const unlogged = sequence.persistence === 'u' ? 'unlogged ' : ''
    plan.add({
      id,
      what: `sequence ${name}`,
      rank: Rank.sequence,
      write: [
        `create ${unlogged}sequence ${quote(name)} as ${sequence.type} ${sequenceOptions(sequence)}`,
        // One that belongs to a column follows its table.
        ...(owned === null ? plan.owned('sequence', quote(name), owner) : []),
      ],
    })
    if (owned === null) continue
    const table = plan.facts.of('table').find((found) => found.id === owned.table)
    if (table !== undefined)
      plan.add({
        id: `owned ${id}`,
        what: `sequence ${name}`,
        rank: Rank.owned,
        needs: [id, owned.table],
        write: [
          `alter sequence ${quote(name)} owned by ${quote(table.name)}.${quote(owned.column)}`,
        ],
      })
  }
}

function sequenceOptions({ increment, min, max, start, cache, cycle }: SequenceFacts): string {
  return `increment by ${increment} minvalue ${min} maxvalue ${max} start with ${start} cache ${cache} ${cycle ? 'cycle' : 'no cycle'}`
}

/** Tables with their columns, and how they are related. */
export function addTables(plan: ClonePlan): void {
  const tables = new Map(plan.facts.of('table').map((table) => [table.id, table]))
  const notNulls = Map.groupBy(
    plan.facts.of('constraint').filter(({ contype, table }) => contype === 'n' && table !== null),
    ({ table }) => table ?? '',
  )
  const families = lateFamilies([...tables.values()])
  const late = new Set(families.flatMap((family) => family.tables))
  for (const table of tables.values()) {
    plan.name(table.id, `table ${quote(table.name)}`)
    const parents = (table.parents ?? []).flatMap((id) => tables.get(id) ?? [])
    addTable(plan, table, parents, notNulls.get(table.id) ?? [], late.has(table))
  }
  for (const family of families) addColumnsLater(plan, family, notNulls)
}

function addTable(
  plan: ClonePlan,
  table: Table,
  parents: readonly Table[],
  notNulls: readonly Constraint[],
  late: boolean,
): void {
  const { id, name, partitionBound } = table
  const columns = table.columns ?? []
  const inherits =
    parents.length > 0 && partitionBound === null && (late || inheritsInOrder(table, parents))
  const listed = late ? [] : inherits ? columns.filter(({ local }) => local) : columns
  for (const column of columns) addColumn(plan, table, column, listed.includes(column))

  const inline = late
    ? []
    : notNulls.filter(({ validated, local }) => validated && (local || !inherits))
  plan.alias(
    id,
    notNulls.filter(({ validated }) => validated).map((constraint) => constraint.id),
  )
  for (const constraint of notNulls) {
    plan.name(constraint.id, `constraint ${quote(constraint.name)} on ${quote(name)}`)
    if (!constraint.validated && (constraint.local || !constraint.inherited))
      addConstraintAction(plan, table, constraint)
  }
  plan.add({
    id,
    what: `table ${name}`,
    rank: Rank.table,
    write: (taken) => {
      const items = [
        ...listed.flatMap((column) => columnText(plan, table, column, taken)),
        ...inline.map(
          (constraint) => `constraint ${quote(constraint.name)} ${constraint.definition}`,
        ),
      ]
      const create = [
        `create ${table.persistence === 'u' ? 'unlogged ' : ''}table ${quote(name)}`,
        table.ofType === null
          ? ` (${items.join(', ')})`
          : ` of ${table.ofType}${items.length === 0 ? '' : ` (${items.join(', ')})`}`,
        inherits ? ` inherits (${parents.map((parent) => quote(parent.name)).join(', ')})` : '',
        table.partitionKey === null ? '' : ` partition by ${table.partitionKey}`,
        table.accessMethod === null ? '' : ` using ${quote(table.accessMethod)}`,
        withOptions([
          ...storageOptions(table.options),
          ...storageOptions(table.toastOptions, 'toast.'),
        ]),
        table.tablespace === null ? '' : ` tablespace ${quote(table.tablespace)}`,
      ].join('')
      const actions = late
        ? []
        : [
            ...(inherits ? inheritedColumns(plan, table, parents) : []),
            ...columns.flatMap(columnSettings),
          ]
      return [create, ...actions.map((action) => ({ table: name, action }))]
    },
  })
  if (!inherits && parents.length > 0)
    plan.add({
      id: `attach ${id}`,
      what: `table ${name}`,
      rank: Rank.attach,
      needs: [id, ...parents.map((parent) => parent.id)],
      write: parents.map((parent) =>
        partitionBound === null
          ? { table: name, action: `inherit ${quote(parent.name)}` }
          : `alter table only ${quote(parent.name)} attach partition ${quote(name)} ${partitionBound}`,
      ),
    })
  const owner = plan.owned('table', quote(name), table.owner)
  if (owner.length > 0)
    plan.add({
      id: `owner ${id}`,
      what: `table ${name}`,
      rank: Rank.owned,
      needs: [
        id,
        ...plan.facts
          .of('sequence')
          .filter(({ owned }) => owned?.table === id)
          .map((sequence) => `owned ${sequence.id}`),
      ],
      write: owner,
    })
}

/** The columns of a family, one after the other and to parents and children alike. */
function addColumnsLater(
  plan: ClonePlan,
  { tables, events }: Family,
  notNulls: ReadonlyMap<string, readonly Constraint[]>,
): void {
  const [first] = tables
  if (first === undefined) return
  plan.complete(
    tables.map(({ id }) => id),
    `columns ${first.id}`,
  )
  plan.add({
    id: `columns ${first.id}`,
    what: `columns of ${tables.map(({ name }) => name).join(', ')}`,
    rank: Rank.attach,
    needs: tables.map(({ id }) => id),
    write: () => [
      ...events.flatMap(({ table, column }) =>
        columnText(plan, table, column, new Set()).map(
          (text) => `alter table ${quote(table.name)} add column ${text}`,
        ),
      ),
      ...tables.flatMap(({ id, name }) =>
        (notNulls.get(id) ?? [])
          .filter(({ validated, local }) => validated && local)
          .map(
            (constraint) =>
              `alter table ${quote(name)} add constraint ${quote(constraint.name)} ${constraint.definition}`,
          ),
      ),
      ...tables.flatMap((table) => {
        const parents = tables.filter(({ id }) => (table.parents ?? []).includes(id))
        return [
          ...inheritedColumns(plan, table, parents),
          ...(table.columns ?? []).flatMap(columnSettings),
        ].map((action) => ({ table: table.name, action }))
      }),
    ],
  })
}

/** What is said of a column in CREATE TABLE. */
function columnText(
  plan: ClonePlan,
  table: Table,
  column: ColumnFacts,
  taken: ReadonlySet<string>,
): readonly string[] {
  const constraints = [
    // From Postgres 18 on they are constraints with names.
    plan.task.serverVersion < 180_000 && column.notNull ? ' not null' : '',
    column.generated === null
      ? ''
      : ` generated always as (${column.default}) ${column.generated === 's' ? 'stored' : 'virtual'}`,
    column.sequence === null ? '' : identityText(column, column.sequence),
    column.defaultId !== null && taken.has(column.defaultId) ? ` default ${column.default}` : '',
  ].join('')
  if (table.ofType !== null)
    return constraints === '' ? [] : [`${quote(column.name)} with options${constraints}`]
  const compression = column.compression === null ? '' : ` compression ${column.compression}`
  const collation = column.collation === null ? '' : ` collate ${column.collation}`
  return [`${quote(column.name)} ${column.type}${compression}${collation}${constraints}`]
}

function identityText(column: ColumnFacts, sequence: SequenceFacts): string {
  const persistence = sequence.persistence === 'u' ? ' unlogged' : ''
  return ` generated ${column.identity === 'a' ? 'always' : 'by default'} as identity (sequence name ${quote(sequence.name)} ${sequenceOptions(sequence)}${persistence})`
}

/** Defaults, which may need what comes later, and generated columns, which may not. */
function addColumn(plan: ClonePlan, table: Table, column: ColumnFacts, listed: boolean): void {
  const { defaultId } = column
  plan.keep(`column ${table.name}.${column.name}`, 'definition', column.default)
  if (defaultId === null) return
  if (column.generated !== null) {
    plan.alias(table.id, [defaultId])
    return
  }
  plan.add({
    id: defaultId,
    what: `default of column ${table.name}.${column.name}`,
    rank: Rank.default,
    needs: [table.id],
    ...(listed ? { within: table.id } : {}),
    write: [
      {
        table: table.name,
        action: `alter column ${quote(column.name)} set default ${column.default}`,
      },
    ],
  })
}

/** Where inherited columns differ from those of the parents. Defaults of their own are set later, by steps of their own. */
function inheritedColumns(plan: ClonePlan, table: Table, parents: readonly Table[]): string[] {
  const ofParents = parents.flatMap(({ columns }) => columns ?? [])
  return (table.columns ?? [])
    .filter(({ local }) => !local)
    .flatMap((column) => {
      const others = ofParents.filter(({ name }) => name === column.name)
      const mustBeNotNull =
        plan.task.serverVersion < 180_000 &&
        column.notNull &&
        // One that does not hand it down is enough where the column came from there first.
        others.some(({ notNull }) => !notNull)
      return [
        ...(mustBeNotNull ? [`alter column ${quote(column.name)} set not null`] : []),
        ...(column.default === null && others.some((other) => other.default !== null)
          ? [`alter column ${quote(column.name)} drop default`]
          : []),
      ]
    })
}

/** What CREATE TABLE does not take on every version. */
export function columnSettings(column: ColumnFacts): string[] {
  const alter = `alter column ${quote(column.name)}`
  return [
    ...(column.storage === null ? [] : [`${alter} set storage ${column.storage}`]),
    ...(column.statistics === null ? [] : [`${alter} set statistics ${column.statistics}`]),
    ...(column.options === null
      ? []
      : [`${alter} set (${storageOptions(column.options).join(', ')})`]),
  ]
}
