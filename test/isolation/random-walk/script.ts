import type { SeededRandom } from '@partywall/test-support'
import { STEPS, type StepName } from './steps.ts'

/** One statement, or a few that belong together. */
export interface Step {
  readonly step: StepName
  /** Decides whatever the step leaves open. */
  readonly n: number
}

/** How a client is given back. */
export type Release =
  | 'plainly'
  | 'as broken'
  | 'with an error'
  | 'twice'
  | 'in the middle of statements'
  | 'in the middle of a cursor'

/** How the function of a transaction ends. */
export type Ending = 'returns' | 'throws' | 'returns too early'

/** What one caller does. Tenants go by their number. */
export type Lane =
  | { readonly kind: 'queries'; readonly tenant: number; readonly steps: readonly Step[] }
  | {
      readonly kind: 'burst'
      readonly units: readonly { readonly tenant: number; readonly step: Step }[]
    }
  | {
      readonly kind: 'client'
      readonly tenant: number
      readonly steps: readonly Step[]
      readonly release: Release
    }
  | {
      readonly kind: 'transaction'
      readonly tenant: number
      readonly begin: string
      readonly steps: readonly Step[]
      readonly ending: Ending
    }
  | { readonly kind: 'nobody' | 'homeless'; readonly step: Step; readonly how: number }
  | { readonly kind: 'kill idle' }

/** A few callers at a time, whose steps are taken in turns. */
export interface Sequence {
  readonly lanes: readonly Lane[]
  /** Whose turn it is, again and again; one number for each turn. */
  readonly turns: readonly number[]
}

/** What happens on one pool, from its opening to its end. */
export interface Script {
  readonly max: number
  readonly sequences: readonly Sequence[]
}

const BEGINS = [
  'begin',
  'BEGIN',
  'start transaction',
  'begin isolation level repeatable read',
  'begin isolation level serializable',
  '/* x */ begin transaction read write',
] as const

const TENANTS = 3

function weighted<T>(
  random: SeededRandom,
  table: readonly (readonly [weight: number, value: T])[],
): T {
  let left = random.next() * table.reduce((sum, [weight]) => sum + weight, 0)
  for (const [weight, value] of table) {
    left -= weight
    if (left < 0) return value
  }
  throw new RangeError('The table is empty.')
}

/** @param excluded - steps that the variant does not know. */
export function makeScript(
  random: SeededRandom,
  { max, sequences, excluded }: { max: number; sequences: number; excluded: readonly string[] },
): Script {
  const names = (Object.keys(STEPS) as StepName[]).filter((name) => !excluded.includes(name))
  const table = (where: 'anywhere' | 'client'): [number, StepName][] =>
    names
      .filter((name) => where === 'client' || STEPS[name].where === 'anywhere')
      .map((name) => [STEPS[name].weight, name])
  const [anywhere, onClient] = [table('anywhere'), table('client')]
  const step = (from: [number, StepName][]): Step => ({
    step: weighted(random, from),
    n: random.integer(0, 999),
  })
  const some = (most: number, from: [number, StepName][]): Step[] =>
    Array.from({ length: random.integer(1, most) }, () => step(from))
  const tenant = (): number => random.integer(0, TENANTS - 1)
  const lane = (): Lane =>
    weighted<() => Lane>(random, [
      [40, () => ({ kind: 'queries', tenant: tenant(), steps: some(3, anywhere) })],
      [
        8,
        () => ({
          kind: 'burst',
          units: Array.from({ length: random.integer(2, 6) }, () => ({
            tenant: tenant(),
            step: step(anywhere),
          })),
        }),
      ],
      [
        32,
        () => ({
          kind: 'client',
          tenant: tenant(),
          steps: some(6, onClient),
          release: weighted<Release>(random, [
            [80, 'plainly'],
            [3, 'as broken'],
            [3, 'with an error'],
            [4, 'twice'],
            [5, 'in the middle of statements'],
            [5, 'in the middle of a cursor'],
          ]),
        }),
      ],
      [
        14,
        () => ({
          kind: 'transaction',
          tenant: tenant(),
          begin: random.pick(BEGINS),
          steps: some(5, onClient),
          ending: weighted<Ending>(random, [
            [70, 'returns'],
            [20, 'throws'],
            [10, 'returns too early'],
          ]),
        }),
      ],
      [2, () => ({ kind: 'nobody', step: step(anywhere), how: random.integer(0, 2) })],
      [3, () => ({ kind: 'homeless', step: step(anywhere), how: random.integer(0, 2) })],
      [1, () => ({ kind: 'kill idle' })],
    ])()
  return {
    max,
    sequences: Array.from({ length: sequences }, () => {
      const lanes = Array.from(
        {
          length: weighted(random, [
            [45, 1],
            [35, 2],
            [20, 3],
          ]),
        },
        lane,
      )
      return { lanes, turns: Array.from({ length: 9 }, () => random.integer(0, 999)) }
    }),
  }
}
