import type { Right, Rights, RightsKind } from './facts.ts'
import type { ClonePlan } from './plan.ts'
import { quote } from './sql-text.ts'

/** An object with rights. */
export interface GrantObject {
  /** Whose step makes it. */
  readonly id: string
  readonly kind: RightsKind
  readonly name: string
  readonly column?: string | undefined
  readonly rights: Rights
}

/** Everything that can have rights. */
export function listGrants({ facts, task }: ClonePlan): GrantObject[] {
  const tables = [...facts.of('table'), ...facts.of('view')]
  const names = new Map(tables.map(({ id, name }) => [id, quote(name)]))
  return [
    ...facts.of('schema').map((rights) => ({
      // It is there before any step.
      id: task.target,
      kind: 'schema' as const,
      name: quote(task.target),
      rights,
    })),
    ...tables.map((rights) => ({
      id: rights.id,
      kind: 'table' as const,
      name: quote(rights.name),
      rights,
    })),
    ...facts.of('sequence').map((rights) => ({
      id: rights.id,
      kind: 'sequence' as const,
      name: quote(rights.name),
      rights,
    })),
    ...facts.of('routine').map((rights) => ({
      id: rights.id,
      kind: 'routine' as const,
      name: `${quote(rights.name)}(${rights.signature})`,
      rights,
    })),
    ...facts.of('type').map((rights) => ({
      id: rights.id,
      kind: 'type' as const,
      name: quote(rights.name),
      rights,
    })),
    ...facts.of('column rights').map((rights) => ({
      id: rights.id,
      kind: 'table' as const,
      name: names.get(rights.id) ?? '',
      column: rights.column,
      rights,
    })),
  ]
}

/** Turns rights into statements; objects that get the same share one. Rights that others passed on come last, each by itself and as the role that did it: it has to have them first. */
export function grantStatements(plan: ClonePlan, objects: readonly GrantObject[]): string[] {
  const { user } = plan.task
  const shared = new Map<string, string[]>()
  const passedOn: string[] = []
  for (const object of objects) {
    const owner = plan.task.role(object.rights.owner)
    const { gone, given } = difference(plan, object)
    const changes = [
      ...runs(gone).map((rights) => ({ change: 'revoke' as const, rights })),
      ...runs(given).map((rights) => ({ change: 'grant' as const, rights })),
    ]
    for (const { change, rights } of changes) {
      const [first] = rights
      if (first === undefined) continue
      const [before, after] = grantText(object, change, rights)
      // What the owner gives comes from the owner, whoever of those that may act as the owner says it.
      if (first.grantor === owner) {
        const key = JSON.stringify([before, after, object.column === undefined ? '' : object.name])
        shared.set(key, [...(shared.get(key) ?? []), object.name])
      } else
        passedOn.push(
          `set local role ${quote(first.grantor)}`,
          `${before} ${object.name} ${after}`,
          `set local role ${quote(user)}`,
        )
    }
  }
  const statements = [...shared].map(([key, names]) => {
    const [before, after] = JSON.parse(key) as [string, string]
    return `${before} ${names.join(', ')} ${after}`
  })
  return [...statements, ...passedOn]
}

/** What stands before and behind the names of the objects. */
function grantText(
  { kind, column }: GrantObject,
  change: 'grant' | 'revoke',
  rights: readonly Right[],
): [before: string, after: string] {
  const [first] = rights
  const of = column === undefined ? '' : ` (${quote(column)})`
  const grantee = typeof first?.grantee === 'string' ? quote(first.grantee) : 'public'
  return [
    `${change} ${rights.map(({ right }) => `${right}${of}`).join(', ')} on ${kind}`,
    change === 'revoke'
      ? `from ${grantee}`
      : `to ${grantee}${first?.grantable === true ? ' with grant option' : ''}`,
  ]
}

/** What is there and must go, and what is missing, in the order in which it was given: who passes a right on has got it before. */
function difference(
  plan: ClonePlan,
  { kind, column, rights: { owner, rights } }: GrantObject,
): { readonly gone: readonly Right[]; readonly given: readonly Right[] } {
  const { role, user } = plan.task
  const initial = plan.facts.of('initial rights').find((found) => found.kind === kind)
  const builtIn = column === undefined ? (initial?.builtIn ?? []) : []
  const here = column === undefined ? (initial?.here ?? builtIn) : []
  // With the owner, the rights that the maker had by being it change hands.
  const owned = (rights: readonly Right[], to: string): Right[] =>
    rights.map((right) => ({
      ...right,
      grantee: right.grantee === user ? to : right.grantee,
      grantor: right.grantor === user ? to : right.grantor,
    }))
  const wanted = (rights ?? owned(builtIn, owner)).map((right) => ({
    ...right,
    grantee: right.grantee === null ? null : role(right.grantee),
    grantor: role(right.grantor),
  }))
  const there = owned(here, role(owner))
  const keyOf = ({ grantee, grantor, right, grantable }: Right): string =>
    JSON.stringify([grantee, grantor, right, grantable])
  const wantedKeys = new Set(wanted.map(keyOf))
  const thereKeys = new Set(there.map(keyOf))
  return {
    gone: there.filter((right) => !wantedKeys.has(keyOf(right))),
    given: wanted.filter((right) => !thereKeys.has(keyOf(right))),
  }
}

/** Neighbours that one statement can change together. */
function runs(rights: readonly Right[]): Right[][] {
  const found: Right[][] = []
  for (const right of rights) {
    const [last] = found.at(-1) ?? []
    if (
      last !== undefined &&
      last.grantee === right.grantee &&
      last.grantor === right.grantor &&
      last.grantable === right.grantable
    )
      found.at(-1)?.push(right)
    else found.push([right])
  }
  return found
}

/** What new objects in the schema will be given. Last, so that nothing of the clone is. */
export function defaultPrivilegeStatements(plan: ClonePlan): string[] {
  return plan.facts.of('default privileges').flatMap(({ objects, owner, rights }) =>
    runs(rights).map((run) => {
      const grantee = run[0]?.grantee
      const to =
        grantee === null || grantee === undefined ? 'public' : quote(plan.task.role(grantee))
      return `alter default privileges for role ${quote(plan.task.role(owner))} in schema ${quote(plan.task.target)} grant ${run
        .map(({ right }) => right)
        .join(
          ', ',
        )} on ${objects} to ${to}${run[0]?.grantable === true ? ' with grant option' : ''}`
    }),
  )
}

/** Every role that has something to do with the schema. */
export function rolesOf(plan: ClonePlan): { owners: Set<string>; all: Set<string> } {
  const { facts } = plan
  const owners = new Set<string>()
  const all = new Set<string>()
  for (const kind of [
    'schema',
    'table',
    'view',
    'sequence',
    'routine',
    'type',
    'collation',
    'dictionary',
    'text search',
    'operator',
    'statistics',
    'default privileges',
  ] as const)
    for (const { owner } of facts.of(kind)) owners.add(owner)
  for (const kind of [
    'schema',
    'table',
    'view',
    'sequence',
    'routine',
    'type',
    'column rights',
    'default privileges',
  ] as const)
    for (const { rights } of facts.of(kind))
      for (const { grantee, grantor } of rights ?? [])
        for (const role of [grantee, grantor]) if (role !== null) all.add(role)
  for (const { roles } of facts.of('policy'))
    for (const role of roles) if (role !== null) all.add(role)
  return { owners, all: all.union(owners) }
}
