import { namesInPath, quoteIdentifier } from '../../search-path.ts'
import type { KeptText } from './plan.ts'

/**
 * Finds texts that name a schema: in bodies of functions, which the server keeps as they were written, and in literals of the definitions that it prints. A copy of such a text still leads to the first schema.
 *
 * A schema's name is also a word, the name of a table or an alias, so it counts where it can hardly be anything else: in front of a dot and one of the schema's own objects, or of a dot behind which the text goes on
 * at run time; as a whole literal; and in a search_path.
 */
export function findNames(
  schema: string,
  objects: ReadonlySet<string>,
  texts: readonly KeptText[],
): string[] {
  const escaped = schema.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&')
  const name = `(?<![\\p{L}\\p{N}_$])"?${escaped}"?(?![\\p{L}\\p{N}_$])`
  const qualified = new RegExp(
    String.raw`${name}\s*\.\s*(?:"(?<quoted>[^"]+)"|(?<plain>[\p{L}_][\p{L}\p{N}_$]*))?`,
    'giu',
  )
  const whole = new RegExp(`^\\s*${name}\\s*$`, 'iu')
  const inPath = new RegExp(`search_path[^;]*?${name}`, 'iu')
  const names = (text: string): boolean =>
    inPath.test(text) ||
    [...text.matchAll(qualified)].some(({ groups }) => {
      const object = groups?.['quoted'] ?? groups?.['plain']?.toLowerCase()
      return object === undefined || objects.has(object)
    })
  const found = texts.filter(({ kind, text }) => {
    const literals = literalsIn(text)
    return (
      literals.some((literal) => whole.test(literal)) ||
      (kind === 'code' ? [text] : literals).some(names)
    )
  })
  return [...new Set(found.map(({ what }) => what))]
}

// Quoted names, dollar quotes, comments and E'' are told apart from plain literals; what is inside of a dollar quote is code again.
const TOKENS =
  /(?<name>"(?:[^"]|"")*")|(?:\b[eE]'(?<escaped>(?:[^'\\]|\\[\s\S]|'')*)'|'(?<plain>(?:[^']|'')*)')|\$(?<tag>[\p{L}_]*)\$(?<dollar>[\s\S]*?)\$\k<tag>\$|(?<comment>--[^\n]*|\/\*[\s\S]*?\*\/)/gu

function literalsIn(sql: string): string[] {
  return [...sql.matchAll(TOKENS)].flatMap(({ groups }) => {
    const literal = groups?.['plain'] ?? groups?.['escaped']
    const inner = groups?.['dollar']
    return literal !== undefined
      ? [literal.replaceAll("''", "'")]
      : inner === undefined
        ? []
        : [inner, ...literalsIn(inner)]
  })
}

/** Puts one schema in the place of another in a search_path, as the server keeps it. */
export function mapSearchPath(path: string, from: string, to: string): string {
  const names = namesInPath(path).map((name) => quoteIdentifier(name === from ? to : name))
  return names.length === 0 ? "''" : names.join(', ')
}
