import type { ConstraintFacts, Fact } from './facts.ts'
import type { ClonePlan } from './plan.ts'
import { inTablespace, quote, storageOptions } from './sql-text.ts'
import { Rank, type Statement } from './step.ts'

type Table = Fact<'table'>
type Constraint = Fact<'constraint'>

/** Constraints of tables, behind the rows, and those of domains that are not part of the type. */
export function addConstraints(plan: ClonePlan): void {
  const tables = new Map(plan.facts.of('table').map((table) => [table.id, table]))
  const constraints = new Map(
    plan.facts.of('constraint').map((constraint) => [constraint.id, constraint]),
  )
  const children = new Map<string, string[]>()
  for (const table of tables.values())
    for (const parent of table.parents ?? [])
      children.set(parent, [...(children.get(parent) ?? []), table.id])
  const named = new Map(
    [...constraints.values()].map((constraint) => [
      `${constraint.table} ${constraint.name}`,
      constraint,
    ]),
  )
  for (const constraint of constraints.values()) {
    const table = tables.get(constraint.table ?? '')
    if (table === undefined || constraint.contype === 'n') continue
    plan.name(constraint.id, `constraint ${quote(constraint.name)} on ${quote(table.name)}`)
    plan.keep(`constraint ${constraint.name} on ${table.name}`, 'definition', constraint.definition)
    const parent = constraints.get(constraint.parent ?? '')
    switch (constraint.contype) {
      case 'c':
        addCheck(plan, table, constraint, {
          children: (children.get(table.id) ?? []).flatMap(
            (child) => named.get(`${child} ${constraint.name}`) ?? [],
          ),
          parents: (table.parents ?? []).flatMap(
            (above) => named.get(`${above} ${constraint.name}`) ?? [],
          ),
        })
        break
      case 'f':
        addForeignKey(plan, table, constraint, parent)
        break
      default:
        plan.alias(constraint.id, [constraint.index])
        addConstraintAction(plan, table, constraint)
        if (parent !== undefined)
          plan.add({
            id: `attach ${constraint.id}`,
            what: `constraint ${constraint.name} on ${table.name}`,
            rank: Rank.attachIndex,
            needs: [constraint.id, parent.id],
            write: [`alter index ${quote(parent.name)} attach partition ${quote(constraint.name)}`],
          })
    }
  }
}

/** ALTER TABLE ... ADD CONSTRAINT, for this table alone. */
export function addConstraintAction(plan: ClonePlan, table: Table, constraint: Constraint): void {
  const add = {
    table: table.name,
    action: `add constraint ${quote(constraint.name)} ${constraint.definition}`,
  }
  const options = storageOptions(constraint.indexOptions)
  plan.add({
    id: constraint.id,
    what: `constraint ${constraint.name} on ${table.name}`,
    rank: Rank.constraint,
    needs: [table.id, `rows ${table.id}`],
    write: [
      ...inTablespace(constraint.tablespace, [add]),
      ...(options.length > 0 && ['p', 'u', 'x'].includes(constraint.contype)
        ? [`alter index ${quote(constraint.name)} set (${options.join(', ')})`]
        : []),
    ],
  })
}

/** A check comes down from the parents, unless the table has it of its own as well. */
function addCheck(
  plan: ClonePlan,
  table: Table,
  constraint: Constraint,
  relatives: { readonly children: readonly Constraint[]; readonly parents: readonly Constraint[] },
): void {
  const what = `constraint ${constraint.name} on ${table.name}`
  const [above] = relatives.parents.filter(() => constraint.inherited)
  if (constraint.local || above === undefined) {
    plan.add({
      id: constraint.id,
      what,
      rank: Rank.constraint,
      needs: [
        table.id,
        `rows ${table.id}`,
        // Those that children have of their own are there before it comes down to them, and all rows are.
        ...relatives.children.flatMap(({ id, local, table: child }) => [
          `attach ${child}`,
          `rows ${child}`,
          ...(local ? [id] : []),
        ]),
      ],
      write: [
        relatives.children.length === 0
          ? addAction(table, constraint)
          : `alter table ${quote(table.name)} ${addAction(table, constraint).action}`,
      ],
    })
    return
  }
  plan.alias(above.id, [constraint.id])
  if (constraint.validated && !above.validated)
    plan.add({
      id: `validate ${constraint.id}`,
      what,
      rank: Rank.setting,
      needs: [above.id],
      write: [{ table: table.name, action: `validate constraint ${quote(constraint.name)}` }],
    })
}

function addAction(table: Table, constraint: ConstraintFacts): Extract<Statement, object> {
  return {
    table: table.name,
    action: `add constraint ${quote(constraint.name)} ${constraint.definition}`,
  }
}

/** A foreign key of a partitioned table comes down to its partitions, which keep one of their own that is like it: so one of another name is made first. */
function addForeignKey(
  plan: ClonePlan,
  table: Table,
  constraint: Constraint,
  parent: Constraint | undefined,
): void {
  const ofPartition = parent !== undefined && parent.table !== constraint.table
  if (parent !== undefined && !(ofPartition && parent.name !== constraint.name)) {
    plan.alias(parent.id, [constraint.id])
    return
  }
  const siblings = plan.facts
    .of('constraint')
    .filter((other) => other.parent === constraint.id && other.name !== constraint.name)
    .filter((other) => other.table !== constraint.table)
  const add = addAction(table, constraint)
  plan.add({
    id: constraint.id,
    what: `foreign key ${constraint.name} on ${table.name}`,
    rank: Rank.foreignKey,
    ...(parent === undefined ? {} : { without: parent.id }),
    needs: [
      table.id,
      `rows ${table.id}`,
      ...(constraint.references === null
        ? []
        : [constraint.references, `rows ${constraint.references}`]),
      ...siblings.map(({ id }) => id),
    ],
    // ONLY is refused on partitioned tables.
    write: [table.relkind === 'p' ? `alter table ${quote(table.name)} ${add.action}` : add],
  })
}
