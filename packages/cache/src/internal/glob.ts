/** Escapes the characters with a meaning in Redis's glob patterns, and only those. */
export function escapeGlob(literal: string): string {
  return literal.replace(/[\\*?[\]]/g, '\\$&')
}

/**
 * Matches as Redis does (`KEYS` manual page): byte by byte, `?` one byte, `[^a-c]` classes, `\` before a literal, an unclosed class ends with the
 * pattern. A mismatch goes back to the last `*` only, so that no pattern takes more than pattern times text steps.
 */
export function globMatcher(pattern: string): (text: string) => boolean {
  if (/^\*+$/.test(pattern)) return () => true
  const tokens = parse(bytes(pattern))
  return (text) => matches(tokens, bytes(text))
}

type Token = '*' | ((byte: number) => boolean)

// One character per byte. Plain ASCII, the usual case, is that already.
function bytes(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range is ASCII.
  return /^[\x00-\x7f]*$/.test(text) ? text : Buffer.from(text).toString('latin1')
}

function parse(pattern: string): Token[] {
  const tokens: Token[] = []
  for (let index = 0; index < pattern.length; index++) {
    const character = pattern[index]
    if (character === '*') {
      if (tokens.at(-1) !== '*') tokens.push('*')
    } else if (character === '?') tokens.push(() => true)
    else if (character === '[') index = parseClass(pattern, index + 1, tokens)
    else {
      if (character === '\\' && index + 1 < pattern.length) index++
      const literal = pattern.charCodeAt(index)
      tokens.push((byte) => byte === literal)
    }
  }
  return tokens
}

/** Parses a class from the byte after its `[` and returns the index of its last byte. */
function parseClass(pattern: string, start: number, tokens: Token[]): number {
  let index = start
  const negated = pattern[index] === '^'
  if (negated) index++
  const ranges: [number, number][] = []
  for (; index < pattern.length && pattern[index] !== ']'; index++) {
    if (pattern[index] === '\\' && index + 1 < pattern.length) {
      index++
      ranges.push([pattern.charCodeAt(index), pattern.charCodeAt(index)])
    } else if (pattern[index + 1] === '-' && index + 2 < pattern.length) {
      const from = pattern.charCodeAt(index)
      const to = pattern.charCodeAt(index + 2)
      ranges.push(from <= to ? [from, to] : [to, from])
      index += 2
    } else ranges.push([pattern.charCodeAt(index), pattern.charCodeAt(index)])
  }
  tokens.push((byte) => ranges.some(([from, to]) => from <= byte && byte <= to) !== negated)
  return index
}

function matches(tokens: readonly Token[], text: string): boolean {
  let token = 0
  let position = 0
  let starToken = -1
  let starPosition = 0
  while (position < text.length) {
    const current = tokens[token]
    if (current === '*') {
      starToken = token++
      starPosition = position
    } else if (current?.(text.charCodeAt(position)) === true) {
      token++
      position++
    } else if (starToken >= 0) {
      token = starToken + 1
      position = ++starPosition
    } else return false
  }
  while (tokens[token] === '*') token++
  return token === tokens.length
}
