import type { Fact } from './facts.ts'
import { mapSearchPath } from './names-in-text.ts'
import type { ClonePlan } from './plan.ts'
import { literal, quote, withoutHead } from './sql-text.ts'
import { Rank } from './step.ts'

/** Functions, procedures and aggregates. */
export function addRoutines(plan: ClonePlan): void {
  for (const routine of plan.facts.of('routine')) {
    const { id, name, signature, definition, config } = routine
    const identity = `${quote(name)}(${signature})`
    const what = `${KINDS[routine.prokind]} ${name}(${signature})`
    plan.name(id, `routine ${identity}`)
    const path = config?.find((entry) => entry.startsWith('search_path='))
    plan.keep(what, 'definition', routine.sqlBody, routine.arguments)
    if (routine.sqlBody === null && routine.prokind !== 'a') plan.keep(what, 'code', routine.source)
    for (const entry of config ?? [])
      if (entry !== path)
        plan.keep(what, 'definition', literal(entry.slice(entry.indexOf('=') + 1)))
    plan.add({
      id,
      what,
      rank: routine.prokind === 'a' ? Rank.operator : Rank.routine,
      write: [
        definition === null
          ? aggregateText(routine)
          : `create ${routine.prokind === 'p' ? 'procedure' : 'function'} ${quote(name)}${withoutHead(definition, routine.head)}`,
        ...(path === undefined
          ? []
          : [
              `alter routine ${identity} set search_path to ${mapSearchPath(path.slice('search_path='.length), plan.task.source, plan.task.target)}`,
            ]),
        ...plan.owned('routine', identity, routine.owner),
      ],
    })
  }
}

const KINDS = { f: 'function', p: 'procedure', w: 'window function', a: 'aggregate' } as const
const MODIFY: Readonly<Record<string, string>> = {
  r: 'read_only',
  s: 'shareable',
  w: 'read_write',
}
const AGGREGATE_FUNCTIONS = [
  'sfunc',
  'finalfunc',
  'combinefunc',
  'serialfunc',
  'deserialfunc',
  'msfunc',
  'minvfunc',
  'mfinalfunc',
  'stype',
  'mstype',
  'sspace',
  'msspace',
  'sortop',
] as const

function aggregateText(routine: Fact<'routine'>): string {
  const { aggregate, name, parallel } = routine
  if (aggregate === null) throw new Error(`Nothing is known of the aggregate ${name}.`)
  const text = (key: string): string => String(aggregate[key])
  const modify = (key: string): string[] => {
    const word = MODIFY[text(key)]
    return word === undefined ? [] : [`${key} = ${word}`]
  }
  const parts = [
    ...AGGREGATE_FUNCTIONS.filter((key) => aggregate[key] !== null).map(
      (key) => `${key} = ${text(key)}`,
    ),
    ...(aggregate['finalfunc_extra'] === true ? ['finalfunc_extra'] : []),
    ...(aggregate['finalfunc'] === null ? [] : modify('finalfunc_modify')),
    ...(aggregate['mfinalfunc_extra'] === true ? ['mfinalfunc_extra'] : []),
    ...(aggregate['mfinalfunc'] === null ? [] : modify('mfinalfunc_modify')),
    ...['initcond', 'minitcond']
      .filter((key) => aggregate[key] !== null)
      .map((key) => `${key} = ${literal(text(key))}`),
    ...(aggregate['kind'] === 'h' ? ['hypothetical'] : []),
    `parallel = ${parallel}`,
  ]
  return `create aggregate ${quote(name)}(${routine.arguments === '' ? '*' : routine.arguments}) (${parts.join(', ')})`
}

/** Operators, and casts from and to types of the schema. */
export function addOperators(plan: ClonePlan): void {
  for (const operator of plan.facts.of('operator')) {
    const { id, name, left, right, owner } = operator
    const identity = `${name} (${left ?? 'none'}, ${right})`
    plan.name(id, `operator ${identity}`)
    const parts = [
      `function = ${operator.function}`,
      ...(left === null ? [] : [`leftarg = ${left}`]),
      `rightarg = ${right}`,
      ...(['commutator', 'negator', 'restrict', 'join'] as const)
        .filter((key) => operator[key] !== null)
        .map((key) => `${key} = ${operator[key]}`),
      ...(operator.hashes ? ['hashes'] : []),
      ...(operator.merges ? ['merges'] : []),
    ]
    plan.add({
      id,
      what: `operator ${identity}`,
      rank: Rank.operator,
      write: [
        `create operator ${name} (${parts.join(', ')})`,
        ...plan.owned('operator', identity, owner),
      ],
    })
  }
  for (const { id, source, target, method, context, function: routine } of plan.facts.of('cast')) {
    const identity = `(${source} as ${target})`
    plan.name(id, `cast ${identity}`)
    const how = { f: `with function ${routine}`, i: 'with inout', b: 'without function' }[method]
    const when = { e: '', a: ' as assignment', i: ' as implicit' }[context]
    plan.add({
      id,
      what: `cast ${identity}`,
      rank: Rank.cast,
      write: [`create cast ${identity} ${how}${when}`],
    })
  }
}
