import type { Fact } from './facts.ts'
import type { ClonePlan } from './plan.ts'
import { literal, quote } from './sql-text.ts'
import { Rank } from './step.ts'

/** Types, with collations and what text search is made of. */
export function addTypes(plan: ClonePlan): void {
  const source = quote(plan.task.source)
  for (const { id, name, owner } of plan.facts.of('collation')) {
    plan.name(id, `collation ${quote(name)}`)
    plan.add({
      id,
      what: `collation ${name}`,
      rank: Rank.type,
      write: [
        `create collation ${quote(name)} from ${source}.${quote(name)}`,
        ...plan.owned('collation', quote(name), owner),
      ],
    })
  }
  for (const { id, name, owner, template, options } of plan.facts.of('dictionary')) {
    plan.name(id, `text search dictionary ${quote(name)}`)
    plan.keep(`text search dictionary ${name}`, 'definition', options)
    plan.add({
      id,
      what: `text search dictionary ${name}`,
      rank: Rank.type,
      write: [
        `create text search dictionary ${quote(name)} (template = ${template}${options === null ? '' : `, ${options}`})`,
        ...plan.owned('text search dictionary', quote(name), owner),
      ],
    })
  }
  for (const { id, name, owner, parser, mappings } of plan.facts.of('text search')) {
    plan.name(id, `text search configuration ${quote(name)}`)
    plan.add({
      id,
      what: `text search configuration ${name}`,
      rank: Rank.type,
      write: [
        `create text search configuration ${quote(name)} (parser = ${parser})`,
        ...(mappings ?? []).map(
          ([token, dictionaries]) =>
            `alter text search configuration ${quote(name)} add mapping for ${quote(token)} with ${dictionaries}`,
        ),
        ...plan.owned('text search configuration', quote(name), owner),
      ],
    })
  }
  for (const type of plan.facts.of('type')) addType(plan, type)
  for (const { id, array, relation } of plan.facts.of('row type')) plan.alias(relation, [id, array])
}

function addType(plan: ClonePlan, type: Fact<'type'>): void {
  const { id, name } = type
  plan.name(id, `type ${quote(name)}`)
  // Its columns are those of a relation.
  if (type.relation !== null) plan.name(type.relation, `type ${quote(name)}`)
  plan.alias(id, [
    type.array,
    type.multirange,
    type.multirangeArray,
    type.relation,
    ...(type.constructors ?? []),
  ])
  const parts = new Map(
    plan.facts
      .of('constraint')
      .filter(({ domain }) => domain === id)
      .map((constraint) => [constraint.id, constraint]),
  )
  plan.keep(`type ${name}`, 'definition', type.default)
  plan.add({
    id,
    what: `type ${name}`,
    rank: Rank.type,
    write: (taken) => [
      `create ${type.typtype === 'd' ? 'domain' : 'type'} ${quote(name)} as ${typeText(
        type,
        [...parts.values()].filter((constraint) => taken.has(constraint.id)),
        [...parts.values()].some(({ contype }) => contype === 'n'),
      )}`,
      ...plan.owned('type', quote(name), type.owner),
    ],
  })
  for (const constraint of parts.values()) {
    plan.name(constraint.id, `constraint ${quote(constraint.name)} on domain ${quote(name)}`)
    plan.keep(`constraint ${constraint.name} on ${name}`, 'definition', constraint.definition)
    plan.add({
      id: constraint.id,
      what: `constraint ${constraint.name} of ${name}`,
      rank: constraint.validated ? Rank.default : Rank.constraint,
      needs: [id],
      ...(constraint.validated ? { within: id } : {}),
      write: [
        `alter domain ${quote(name)} add constraint ${quote(constraint.name)} ${constraint.definition}`,
      ],
    })
  }
}

function typeText(
  type: Fact<'type'>,
  constraints: readonly Fact<'constraint'>[],
  named: boolean,
): string {
  const collate = (collation: string | null): string =>
    collation === null ? '' : ` collate ${collation}`
  switch (type.typtype) {
    case 'e':
      return `enum (${(type.labels ?? []).map((label) => literal(label)).join(', ')})`
    case 'c':
      return `(${(type.attributes ?? [])
        .map(({ name, type: of, collation }) => `${quote(name)} ${of}${collate(collation)}`)
        .join(', ')})`
    case 'r': {
      const range = type.range
      if (range === null) throw new Error(`Nothing is known of the range ${type.name}.`)
      const parts = [
        `subtype = ${range.subtype}`,
        ...(range.opclass === null ? [] : [`subtype_opclass = ${range.opclass}`]),
        ...(range.collation === null ? [] : [`collation = ${range.collation}`]),
        ...(range.canonical === null ? [] : [`canonical = ${range.canonical}`]),
        ...(range.diff === null ? [] : [`subtype_diff = ${range.diff}`]),
        `multirange_type_name = ${quote(range.multirange)}`,
      ]
      return `range (${parts.join(', ')})`
    }
    default:
      return [
        `${type.base}${collate(type.collation)}`,
        type.default === null ? '' : ` default ${type.default}`,
        // From Postgres 17 on it is a constraint with a name.
        type.notNull && !named ? ' not null' : '',
        ...constraints.map(
          (constraint) => ` constraint ${quote(constraint.name)} ${constraint.definition}`,
        ),
      ].join('')
  }
}
