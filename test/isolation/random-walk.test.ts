import { seededRandom, testSeed } from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { makeScript, type Script } from './random-walk/script.ts'
import { shrink } from './random-walk/shrink.ts'
import { walk } from './random-walk/walker.ts'
import {
  createVariantWorld,
  type PoolVariant,
  VARIANTS,
  type VariantWorld,
} from './variant-world.ts'

/** What decides over a change walks a shorter way, and the same one each time; everybody else's run walks a new one. */
const IN_CI = Boolean(process.env['CI'])
/** Sequences over all variants together; each has one to three callers with up to six steps each. */
const SEQUENCES = Number(process.env['PARTYWALL_WALK_SEQUENCES'] ?? (IN_CI ? 2_000 : 10_000))
/** Plays one pool again, exactly: `<variant> <seed>`, as a failure prints it. */
const ONE = process.env['PARTYWALL_WALK']
/** Plays a script that a failure printed: `<variant> <script>`. */
const SCRIPT = process.env['PARTYWALL_WALK_SCRIPT']
/** Sequences that one pool sees, one after the other. */
const ON_ONE_POOL = 40
/** Pools at a time: while one waits for the server, others go on. */
const AT_A_TIME = 3

type VariantName = keyof typeof VARIANTS
const NAMES = Object.keys(VARIANTS) as VariantName[]
/** Half of it on the variant that everybody has; the others share the rest. */
const sequencesOf = (name: VariantName): number =>
  Math.ceil(name === 'schema' ? SEQUENCES / 2 : SEQUENCES / 2 / (NAMES.length - 1))

function scriptOf(name: VariantName, seed: number): Script {
  const random = seededRandom(seed)
  const { poolSizes, isolation }: PoolVariant = VARIANTS[name]
  return makeScript(random, {
    max: random.pick(poolSizes),
    sequences: ON_ONE_POOL,
    // Postgres refuses it under row security.
    excluded: isolation === 'row' ? ['write copy'] : [],
  })
}

describe.each(NAMES)('D1 D2 D3 D4 D5 a random walk: %s', (name) => {
  let world: VariantWorld
  beforeAll(async () => {
    world = await createVariantWorld(VARIANTS[name])
  })
  afterAll(() => world[Symbol.asyncDispose]())

  const failureOf = (script: Script): Promise<Error | undefined> =>
    walk(world, script).then(
      () => undefined,
      (error: Error) => error,
    )

  async function play(seed: number): Promise<void> {
    const script = scriptOf(name, seed)
    const failure = await failureOf(script)
    if (failure === undefined) return
    const short = await shrink(
      script,
      async (candidate) => (await failureOf(candidate)) !== undefined,
    )
    const last = await failureOf(short)
    throw new Error(
      `${failure.message}
again:      PARTYWALL_WALK='${name} ${seed}'
in short:   ${last?.message ?? 'does not fail alone'}
short again: PARTYWALL_WALK_SCRIPT='${name} ${JSON.stringify(short)}'`,
      { cause: failure },
    )
  }

  // oxlint-disable vitest/no-conditional-tests, vitest/expect-expect -- a walk that was asked for by name is the only one; a mismatch is thrown
  if (ONE !== undefined || SCRIPT !== undefined) {
    const [variant, ...rest] = (ONE ?? SCRIPT ?? '').split(' ')
    it.runIf(variant === name)('D1 played again', async () => {
      if (ONE !== undefined) await play(Number(rest[0]))
      else {
        const failure = await failureOf(JSON.parse(rest.join(' ')) as Script)
        if (failure !== undefined) throw failure
      }
    })
    return
  }

  it(`D1 D2 D3 D4 D5 ${sequencesOf(name)} sequences: every statement meets its own tenant, and nothing of one reaches another`, async () => {
    const pools = Math.ceil(sequencesOf(name) / ON_ONE_POOL)
    const seeds = seededRandom(((IN_CI ? 1 : testSeed()) + NAMES.indexOf(name)) % 2 ** 32)
    const queue = Array.from({ length: pools }, () => seeds.integer(0, 2 ** 32 - 1))
    const begun = performance.now()
    await Promise.all(
      Array.from({ length: AT_A_TIME }, async () => {
        for (let seed = queue.pop(); seed !== undefined; seed = queue.pop()) await play(seed)
      }),
    )
    process.stdout.write(
      `random walk, ${name}: ${pools * ON_ONE_POOL} sequences in ${Math.round(performance.now() - begun)} ms\n`,
    )
    expect(queue).toEqual([])
  }, 600_000)
})
