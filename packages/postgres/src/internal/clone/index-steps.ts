import type { ClonePlan } from './plan.ts'
import { inTablespace, quote, withoutHead } from './sql-text.ts'
import { Rank, type Statement } from './step.ts'

/** Indexes that are no part of a constraint, and what is said about any index. */
export function addIndexes(plan: ClonePlan): void {
  const tables = new Map(
    [...plan.facts.of('table'), ...plan.facts.of('view')].map((table) => [table.id, table]),
  )
  const names = new Map(plan.facts.of('index').map(({ id, name }) => [id, name]))
  for (const index of plan.facts.of('index')) {
    const { id, name } = index
    plan.name(id, `index ${quote(name)}`)
    const table = tables.get(index.table)
    if (table === undefined) continue
    const settings = (index.statistics ?? []).map(
      ([column, target]) =>
        `alter index ${quote(name)} alter column ${column} set statistics ${target}`,
    )
    if (index.constraint !== null) {
      if (settings.length > 0)
        plan.add({
          id: `settings ${id}`,
          what: `index ${name}`,
          rank: Rank.setting,
          needs: [index.constraint],
          write: settings,
        })
      continue
    }
    plan.keep(`index ${name}`, 'definition', index.definition)
    const head = `create ${index.unique ? 'unique ' : ''}index ${quote(name)} on ${index.partitioned ? 'only ' : ''}${quote(table.name)}`
    plan.add({
      id,
      what: `index ${name}`,
      rank: table.relkind === 'm' ? Rank.viewIndex : Rank.index,
      needs: [index.table, `rows ${index.table}`, `refresh ${index.table}`],
      write: [
        ...inTablespace(index.tablespace, [head + withoutHead(index.definition, index.head)]),
        ...settings,
      ],
    })
    const parent = names.get(index.parent ?? '')
    if (parent !== undefined && index.parent !== null)
      plan.add({
        id: `attach ${id}`,
        what: `index ${name}`,
        rank: Rank.attachIndex,
        needs: [id, index.parent],
        write: [`alter index ${quote(parent)} attach partition ${quote(name)}`],
      })
  }
  for (const table of tables.values()) {
    const actions = [
      ...(table.clusterIndex === null ? [] : [`cluster on ${quote(table.clusterIndex)}`]),
      ...('replicaIdentity' in table ? replicaIdentity(table) : []),
    ]
    if (actions.length > 0)
      plan.add({
        id: `settings ${table.id}`,
        what: `table ${table.name}`,
        rank: Rank.setting,
        needs: plan.facts
          .of('index')
          .filter((index) => index.table === table.id)
          .map((index) => index.id),
        write: actions.map((action) => ({ table: table.name, action })),
      })
  }
}

function replicaIdentity({
  replicaIdentity: kind,
  replicaIndex,
}: {
  readonly replicaIdentity: 'd' | 'n' | 'f' | 'i'
  readonly replicaIndex: string | null
}): string[] {
  if (kind === 'f') return ['replica identity full']
  // An index that was dropped leaves a table without any.
  if (kind === 'n' || (kind === 'i' && replicaIndex === null)) return ['replica identity nothing']
  return kind === 'i' && replicaIndex !== null
    ? [`replica identity using index ${quote(replicaIndex)}`]
    : []
}

/** Extended statistics. */
export function addStatistics(plan: ClonePlan): void {
  const tables = new Map(
    [...plan.facts.of('table'), ...plan.facts.of('view')].map(({ id, name }) => [id, name]),
  )
  const KINDS: Readonly<Record<string, string>> = { d: 'ndistinct', f: 'dependencies', m: 'mcv' }
  for (const { id, name, table, kinds, columns, target, owner } of plan.facts.of('statistics')) {
    plan.name(id, `statistics ${quote(name)}`)
    plan.keep(`statistics ${name}`, 'definition', columns)
    const listed = kinds.flatMap((kind) => KINDS[kind] ?? [])
    const write: Statement[] = [
      `create statistics ${quote(name)}${listed.length === 0 ? '' : ` (${listed.join(', ')})`} on ${columns} from ${quote(tables.get(table) ?? '')}`,
      ...(target === null ? [] : [`alter statistics ${quote(name)} set statistics ${target}`]),
      ...plan.owned('statistics', quote(name), owner),
    ]
    plan.add({ id, what: `statistics ${name}`, rank: Rank.setting, needs: [table], write })
  }
}
