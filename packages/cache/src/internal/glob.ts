/** Escapes the characters with a meaning in Redis's glob patterns, and only those. */
export function escapeGlob(literal: string): string {
  return literal.replace(/[\\*?[\]]/g, '\\$&')
}

/**
 * Matches as Redis does (`KEYS` manual page): byte by byte, `?` one byte, `[^a-c]` classes, `\` before a literal, an unclosed class ends with the
 * pattern. What stands between two `*` is searched for once and never gone back behind: text without wildcards by the engine's own search, the rest in one pass
 * over the text, 32 positions of the pattern at a time.
 */
export function globMatcher(pattern: string): (text: string) => boolean {
  if (/^\*+$/.test(pattern)) return () => true
  const [first = [], ...rest] = parse(bytes(pattern))
  const last = rest.pop()
  if (last === undefined)
    return (text) => {
      const subject = bytes(text)
      return subject.length === first.length && matchesAt(first, subject, 0)
    }
  const searches = rest.filter((part) => part.length > 0).map(searchFor)
  return (text) => {
    const subject = bytes(text)
    const end = subject.length - last.length
    if (end < first.length || !matchesAt(first, subject, 0) || !matchesAt(last, subject, end))
      return false
    let position = first.length
    for (const search of searches) {
      // The first place is as good as any: what it leaves for the next parts is the most.
      position = search(subject, position)
      if (position === -1) return false
    }
    return position <= end
  }
}

/** One byte of a pattern: a literal, or a test. */
type Token = number | ((byte: number) => boolean)
/** What stands between two `*`. */
type Part = Token[]
/** The index behind the first match from `start` on, or -1. */
type Search = (text: string, start: number) => number

// One character per byte. Plain ASCII, the usual case, is that already.
function bytes(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range is ASCII.
  return /^[\x00-\x7f]*$/.test(text) ? text : Buffer.from(text).toString('latin1')
}

function parse(pattern: string): Part[] {
  let part: Part = []
  const parts = [part]
  for (let index = 0; index < pattern.length; index++) {
    const character = pattern[index]
    if (character === '*') parts.push((part = []))
    else if (character === '?') part.push(() => true)
    else if (character === '[') index = parseClass(pattern, index + 1, part)
    else {
      if (character === '\\' && index + 1 < pattern.length) index++
      part.push(pattern.charCodeAt(index))
    }
  }
  return parts
}

/** Parses a class from the byte after its `[` and returns the index of its last byte. */
function parseClass(pattern: string, start: number, part: Part): number {
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
  part.push((byte) => ranges.some(([from, to]) => from <= byte && byte <= to) !== negated)
  return index
}

function accepts(token: Token, byte: number): boolean {
  return typeof token === 'number' ? token === byte : token(byte)
}

function matchesAt(part: Part, text: string, start: number): boolean {
  return part.every((token, index) => accepts(token, text.charCodeAt(start + index)))
}

function searchFor(part: Part): Search {
  if (!part.every((token) => typeof token === 'number')) return bitSearch(part)
  const literal = String.fromCharCode(...part)
  return (text, start) => {
    const found = text.indexOf(literal, start)
    return found === -1 ? -1 : found + literal.length
  }
}

/**
 * The shift-and search of Baeza-Yates and Gonnet: bit `n` of the state tells whether the first `n + 1` tokens match what ends here. Each byte of the text
 * takes one step for 32 tokens, whatever matched before.
 */
function bitSearch(part: Part): Search {
  const words = Math.ceil(part.length / 32)
  // For each byte, which tokens accept it.
  const masks = new Int32Array(256 * words)
  for (const [index, token] of part.entries())
    for (let byte = 0; byte < 256; byte++)
      if (accepts(token, byte)) {
        const word = byte * words + (index >>> 5)
        masks[word] = (masks[word] as number) | (1 << (index & 31))
      }
  const last = 1 << ((part.length - 1) & 31)
  return (text, start) => {
    const state = new Int32Array(words)
    for (let position = start; position < text.length; position++) {
      const mask = text.charCodeAt(position) * words
      let carry = 1
      for (let word = 0; word < words; word++) {
        const before = state[word] as number
        state[word] = ((before << 1) | carry) & (masks[mask + word] as number)
        carry = before >>> 31
      }
      if (((state[words - 1] as number) & last) !== 0) return position + 1
    }
    return -1
  }
}
