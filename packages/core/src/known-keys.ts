import { TenancyError, type TenancyErrorCode } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'

/**
 * Refuses what is no options object, and members that it does not know, and names the nearest known one. A misspelt option that is
 * silently ignored is a guard that its author believes in and that is not there.
 *
 * @throws {TenancyError} `code`, by default `ERR_TENANCY_OPTION_INVALID`.
 */
export function assertKnownKeys(
  what: string,
  value: object,
  known: readonly string[],
  code: TenancyErrorCode = 'ERR_TENANCY_OPTION_INVALID',
): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TenancyError(code, `${what} takes an object, got ${describeValue(value)}.`, {
      hint: `Known members: ${known.join(', ')}.`,
    })
  for (const key of Object.keys(value)) {
    if (known.includes(key)) continue
    const nearest = nearestName(key, known)
    throw new TenancyError(
      code,
      `${describeValue(key)} is no member of ${what}.${nearest === undefined ? '' : ` Did you mean "${nearest}"?`}`,
      { hint: `Known members: ${known.join(', ')}.` },
    )
  }
}

// Names come from requests too, and the edit distance takes the product of both lengths.
const LONGEST_NAME = 100

/** The candidate with the smallest edit distance to `name`, if it is near enough to be what was meant. None for names of more than 100 characters. */
export function nearestName(name: string, candidates: readonly string[]): string | undefined {
  if (name.length > LONGEST_NAME) return undefined
  let best: string | undefined
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1
  for (const candidate of candidates) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const substitution = (previous[column - 1] ?? 0) + (a[row - 1] === b[column - 1] ? 0 : 1)
      current.push(
        Math.min((previous[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1, substitution),
      )
    }
    previous = current
  }
  return previous[b.length] ?? a.length
}
