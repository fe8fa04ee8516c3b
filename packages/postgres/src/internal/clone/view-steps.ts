import type { ClonePlan } from './plan.ts'
import { quote, storageOptions, withOptions } from './sql-text.ts'
import { Rank } from './step.ts'
import { columnSettings } from './table-steps.ts'

/** Views, and materialized ones with what they hold. */
export function addViews(plan: ClonePlan): void {
  for (const view of plan.facts.of('view')) {
    const { id, name } = view
    const materialized = view.relkind === 'm'
    const what = `${materialized ? 'materialized view' : 'view'} ${name}`
    plan.alias(id, [view.rule])
    plan.name(id, `${materialized ? 'materialized view' : 'view'} ${quote(name)}`)
    plan.name(view.rule, `rule "_RETURN" on ${quote(name)}`)
    plan.keep(what, 'definition', view.definition)
    const query = view.definition.replace(/;\s*$/, '')
    const create = materialized
      ? [
          `create materialized view ${quote(name)}`,
          view.accessMethod === null ? '' : ` using ${quote(view.accessMethod)}`,
          withOptions(storageOptions(view.options)),
          view.tablespace === null ? '' : ` tablespace ${quote(view.tablespace)}`,
          ` as ${query} with no data`,
        ]
      : [`create view ${quote(name)}`, withOptions(storageOptions(view.options)), ` as ${query}`]
    plan.add({
      id,
      what,
      rank: Rank.view,
      write: [
        create.join(''),
        ...(materialized ? (view.columns ?? []).flatMap(columnSettings) : []).map((action) => ({
          table: name,
          action,
        })),
        ...plan.owned('table', quote(name), view.owner),
      ],
    })
    for (const column of view.columns ?? []) {
      plan.keep(`column ${name}.${column.name}`, 'definition', column.default)
      if (column.defaultId !== null)
        plan.add({
          id: column.defaultId,
          what: `default of column ${name}.${column.name}`,
          rank: Rank.setting,
          needs: [id],
          write: [
            {
              table: name,
              action: `alter column ${quote(column.name)} set default ${column.default}`,
            },
          ],
        })
    }
    if (materialized && view.populated)
      plan.add({
        id: `refresh ${id}`,
        what,
        rank: Rank.refresh,
        needs: [id],
        runs: true,
        write: [`refresh materialized view ${quote(plan.task.target)}.${quote(name)}`],
      })
  }
}
