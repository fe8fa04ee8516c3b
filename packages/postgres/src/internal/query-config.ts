/** More than one statement, or one that a semicolon makes look like more. The extended protocol takes one. */
export const MANY_STATEMENTS = /;\s*\S/

/** What a statement may hold to share a connection: nothing that works on the connection itself, and nothing that needs more than one batch. */
const SHAREABLE: ReadonlySet<string> = new Set(['text', 'values', 'rowMode', 'types', 'binary'])

/** The text of a query that is one statement in one batch, or `undefined`. */
export function sharedText(config: unknown): string | undefined {
  if (typeof config === 'string') return MANY_STATEMENTS.test(config) ? undefined : config
  if (typeof config !== 'object' || config === null) return undefined
  for (const key in config)
    if (!SHAREABLE.has(key) && (config as Record<string, unknown>)[key] !== undefined)
      return undefined
  const { text } = config as { text?: unknown }
  return typeof text === 'string' && !MANY_STATEMENTS.test(text) ? text : undefined
}

/** Whether writing the parameters down may run code: `toPostgres`, `toJSON`, getters. */
export function runsCode(config: unknown, values: unknown): boolean {
  const given = values ?? (config as { values?: unknown } | null)?.values
  return (
    given !== undefined &&
    (!Array.isArray(given) || given.some((value) => typeof value === 'object' && value !== null))
  )
}
