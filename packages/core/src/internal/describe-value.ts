const LONGEST = 80

/**
 * Quotes an untrusted value for a message: one line, no control or invisible characters (they could forge a log line), at most
 * 80 characters of it, and only the type of what is no string.
 */
export function describeValue(value: unknown): string {
  if (typeof value === 'string') {
    const short = value.length > LONGEST ? `${value.slice(0, LONGEST)}…` : value
    return JSON.stringify(short).replace(
      /[^\u0020-\u007e…]/g,
      (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
    )
  }
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  // Its description is as untrusted as any text.
  if (typeof value === 'symbol') return 'a symbol'
  return typeof value === 'object' || typeof value === 'function'
    ? `a value of type ${typeof value}`
    : `${String(value)} (${typeof value})`
}
