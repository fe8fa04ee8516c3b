import type { Lane, Script, Sequence, Step } from './script.ts'

/**
 * Looks for a short script that fails like a long one: leaves out sequences, then lanes, then steps, in ever smaller pieces (delta debugging), as long as what is left still fails.
 *
 * @param fails - plays a script anew.
 * @param maxRuns - how often it is played at most.
 */
export async function shrink(
  script: Script,
  fails: (script: Script) => Promise<boolean>,
  maxRuns = 200,
): Promise<Script> {
  let runs = 0
  const holds = async (candidate: Script): Promise<boolean> =>
    runs++ < maxRuns && (await fails(candidate))
  let best = script
  const tryWith = async (sequences: readonly Sequence[]): Promise<boolean> => {
    const candidate = { ...best, sequences }
    if (!(await holds(candidate))) return false
    best = candidate
    return true
  }
  // Behind the one that failed, nothing matters.
  await reduce(best.sequences, (sequences) => tryWith(sequences))
  for (let index = 0; index < best.sequences.length; index++) {
    const replaced = (sequence: Sequence): Sequence[] => best.sequences.with(index, sequence)
    const sequence = (): Sequence => best.sequences[index] as Sequence
    await reduce(sequence().lanes, (lanes) => tryWith(replaced({ ...sequence(), lanes })))
    for (let at = 0; at < sequence().lanes.length; at++) {
      const lane = sequence().lanes[at] as Lane
      if (!('steps' in lane)) continue
      await reduce<Step>(lane.steps, (steps) => {
        const current = sequence().lanes[at] as Lane
        return tryWith(
          replaced({
            ...sequence(),
            lanes: sequence().lanes.with(at, { ...current, steps } as Lane),
          }),
        )
      })
    }
  }
  return best
}

/** Leaves out as much of a list as it can: halves first, then quarters, down to single elements. */
async function reduce<T>(
  list: readonly T[],
  accept: (rest: readonly T[]) => Promise<boolean>,
): Promise<void> {
  let kept = list
  for (let size = Math.ceil(kept.length / 2); size >= 1 && kept.length > 0; ) {
    let dropped = false
    for (let from = 0; from < kept.length; ) {
      const rest = [...kept.slice(0, from), ...kept.slice(from + size)]
      if (await accept(rest)) {
        kept = rest
        dropped = true
      } else from += size
    }
    if (size === 1 && !dropped) return
    size = dropped ? Math.min(size, Math.ceil(kept.length / 2)) : Math.floor(size / 2)
  }
}
