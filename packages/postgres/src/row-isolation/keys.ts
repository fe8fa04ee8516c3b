import pg from 'pg'
import { TENANT_COLUMN } from './expressions.ts'
import type { KeyFacts, RelationFacts } from './facts.ts'
import type { RowPlan } from './row-plan.ts'

/** Puts the tenant in front of every key, so that a key of one tenant neither clashes with one of another nor tells of it, and gives each table an index that begins with the tenant. */
export function planKeys(plan: RowPlan): void {
  const indexed = new Set<string>()
  for (const key of plan.facts.keys) {
    const relation = plan.relation(key.table)
    if (relation === undefined || !plan.covers(relation.oid) || key.includesTenant) continue
    if (!canBeRebuilt(plan, relation, key)) continue
    plan.add('key', relation.sql, `${nameOf(key)} is without the tenant`, ...rebuild(relation, key))
    if (key.method === 'btree' && !key.partial) indexed.add(relation.oid)
  }
  for (const relation of plan.covered) {
    const { oid, sql, isPartition, hasTenantIndex } = relation
    // A partition has the indexes of its table.
    if (hasTenantIndex || isPartition || indexed.has(oid)) continue
    if (plan.tenantTypeOf(relation) === undefined) continue
    plan.add(
      'index',
      sql,
      'no index begins with the tenant',
      `create index on ${sql} (${TENANT_COLUMN})`,
    )
  }
}

/** As people call it: by the constraint, or by the index where there is none. */
function nameOf({ constraint, indexName }: KeyFacts): string {
  return constraint?.name ?? indexName
}

function canBeRebuilt(plan: RowPlan, relation: RelationFacts, key: KeyFacts): boolean {
  const type = plan.tenantTypeOf(relation)
  if (type === undefined) return false
  if (!key.valid) {
    plan.find('PARTYWALL_ROW_INDEX_INVALID', key.indexSql)
    return false
  }
  const supported =
    key.method === 'btree' || (key.method === 'gist' && plan.facts.gistTypes.includes(type))
  if (!supported) plan.find('PARTYWALL_ROW_EXCLUSION', `${nameOf(key)} on ${relation.sql}`)
  for (const dependent of key.dependents)
    plan.find('PARTYWALL_ROW_DEPENDENT', `${dependent}: ${nameOf(key)} on ${relation.sql}`)
  return supported && key.dependents.length === 0
}

function rebuild(relation: RelationFacts, key: KeyFacts): string[] {
  const { constraint, indexName, indexSql, tablespace, comment } = key
  const alter = `alter table ${relation.sql}`
  const commentOn = (what: string, text: string | null): string[] =>
    text === null ? [] : [`comment on ${what} is ${pg.escapeLiteral(text)}`]
  return [
    ...(constraint === null
      ? [`drop index ${indexSql}`, widenedIndex(key)]
      : [
          `${alter} drop constraint ${constraint.name}, add constraint ${constraint.name} ${widenedConstraint(key)}`,
        ]),
    ...(tablespace === null ? [] : [`alter index ${indexSql} set tablespace ${tablespace}`]),
    ...key.statistics.map(
      ({ column, target }) =>
        `alter index ${indexSql} alter column ${column + 1} set statistics ${target}`,
    ),
    ...(key.clustered ? [`${alter} cluster on ${indexName}`] : []),
    ...(key.replicaIdentity ? [`${alter} replica identity using index ${indexName}`] : []),
    ...(constraint === null
      ? []
      : commentOn(`constraint ${constraint.name} on ${relation.sql}`, constraint.comment)),
    ...commentOn(`index ${indexSql}`, comment),
  ]
}

/** What comes before the first parenthesis is the kind of the constraint, and an index method of the server's: no name that could hold one. */
function widenedConstraint({ constraint, kind, options, definition }: KeyFacts): string {
  const { definition: whole, suffix } = constraint ?? { definition, suffix: '' }
  const body = suffix === '' ? whole : whole.slice(0, -suffix.length)
  const start = body.indexOf('(') + 1
  const tenant = kind === 'exclusion' ? `${TENANT_COLUMN} WITH =` : TENANT_COLUMN
  // Postgres prints the storage parameters of an exclusion constraint, and not those of the others.
  const storage = options === null || kind === 'exclusion' ? '' : ` WITH (${options})`
  return `${body.slice(0, start)}${tenant}, ${body.slice(start)}${storage}${suffix}`
}

/** The names in front of the columns may hold anything, so the exact text is looked for. */
function widenedIndex({ definition, head, newHead, indexSql }: KeyFacts): string {
  if (!definition.startsWith(head))
    throw new Error(`The definition of ${indexSql} does not begin as expected: ${definition}`)
  return `${newHead}${TENANT_COLUMN}, ${definition.slice(head.length)}`
}
