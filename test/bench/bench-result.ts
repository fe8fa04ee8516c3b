import { cpus } from 'node:os'

/** One row of `targets.md`, measured. Every figure is a median of ratios taken within one repetition; absolute times of a shared machine mean nothing. */
export interface BenchResult {
  /** The number of the target, `S3` for example. */
  readonly id: string
  readonly measure: string
  readonly value: number
  /** @defaultValue `'ratio'` */
  readonly unit?: string
  readonly parts: Readonly<Record<string, number>>
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

/** What the figures were measured on. */
export function machine(): string {
  return `Node ${process.version}, ${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'}); ratios within one run, medians`
}

/**
 * Runs every variant once in each repetition, in random order, and returns for each the median over the repetitions of its throughput divided by that of `base`.
 */
export async function ratios(
  variants: Readonly<Record<string, () => Promise<number>>>,
  base: string,
  repetitions: number,
): Promise<Record<string, number>> {
  const seen: Record<string, number[]> = {}
  // One round that does not count: connections, plans and the compiler warm up.
  for (let repetition = -1; repetition < repetitions; repetition++) {
    const order = Object.entries(variants).sort(() => Math.random() - 0.5)
    const round: Record<string, number> = {}
    for (const [name, run] of order) round[name] = await run()
    if (repetition >= 0)
      for (const [name, throughput] of Object.entries(round))
        (seen[name] ??= []).push(throughput / (round[base] ?? Number.NaN))
  }
  return Object.fromEntries(Object.entries(seen).map(([name, values]) => [name, median(values)]))
}
