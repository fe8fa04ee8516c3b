import { randomInt } from 'node:crypto'

/** A random number generator that gives the same sequence for the same seed. */
export interface SeededRandom {
  readonly seed: number
  /** A number from 0 (included) to 1 (excluded), with 32 bits of randomness. */
  next(): number
  /** A whole number from `min` to `max`, both included. */
  integer(min: number, max: number): number
  /** One element of a non-empty list. */
  pick<T>(list: readonly T[]): T
  /** A shuffled copy (Fisher-Yates). */
  shuffle<T>(list: readonly T[]): T[]
}

let shared: number | undefined

/**
 * The seed of this run: the number in `PARTYWALL_TEST_SEED`, otherwise a random one. Printed once per process, so that a failed
 * run can be repeated exactly.
 */
export function testSeed(): number {
  if (shared !== undefined) return shared
  const given = process.env['PARTYWALL_TEST_SEED']
  const seed = given === undefined ? randomInt(2 ** 32) : Number(given)
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
    throw new Error(
      `PARTYWALL_TEST_SEED must be a whole number from 0 to 4294967295, got "${given}".`,
    )
  process.stdout.write(`PARTYWALL_TEST_SEED=${seed}\n`)
  shared = seed
  return seed
}

/**
 * A generator for test data and interleavings, not for secrets. It is mulberry32, published by Tommy Ettinger into the public
 * domain: a counter that moves by a fixed odd step, mixed by multiplications, with a period of 2^32.
 *
 * @param seed A whole number from 0 to 2^32 - 1; the seed of the run by default, see {@link testSeed}.
 */
export function seededRandom(seed: number = testSeed()): SeededRandom {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const integer = (min: number, max: number): number => min + Math.floor(next() * (max - min + 1))
  return {
    seed,
    next,
    integer,
    pick(list) {
      if (list.length === 0) throw new RangeError('Nothing to pick from: the list is empty.')
      // The index is inside the list; the cast keeps lists of `undefined` usable.
      return list[integer(0, list.length - 1)] as (typeof list)[number]
    },
    shuffle<T>(list: readonly T[]) {
      const copy = [...list]
      for (let last = copy.length - 1; last > 0; last--) {
        const other = integer(0, last)
        const moved = copy[last] as T
        copy[last] = copy[other] as T
        copy[other] = moved
      }
      return copy
    },
  }
}
