import pg from 'pg'
import { quoteIdentifier } from '../../search-path.ts'
import type { Statement } from './step.ts'

export const quote = quoteIdentifier
export const literal = pg.escapeLiteral

/** `name=value` of the catalogue, as WITH (...) takes them. */
export function storageOptions(options: readonly string[] | null, prefix = ''): readonly string[] {
  return (options ?? []).map((option) => {
    const at = option.indexOf('=')
    return `${prefix}${quote(option.slice(0, at))} = ${literal(option.slice(at + 1)).trimStart()}`
  })
}

export function withOptions(options: readonly string[]): string {
  return options.length === 0 ? '' : ` with (${options.join(', ')})`
}

/** Runs statements with a tablespace other than the database's own for what they make. */
export function inTablespace(
  tablespace: string | null,
  statements: readonly Statement[],
): readonly Statement[] {
  if (tablespace === null) return statements
  return [
    `set local default_tablespace = ${literal(tablespace)}`,
    ...statements,
    "set local default_tablespace = ''",
  ]
}

/** Takes the beginning of a printed definition off, which names the schema. */
export function withoutHead(definition: string, head: string): string {
  if (definition.startsWith(head)) return definition.slice(head.length)
  throw new Error(`Expected ${JSON.stringify(head)} in front of ${JSON.stringify(definition)}.`)
}
