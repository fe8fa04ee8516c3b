import { escapeGlob } from './glob.ts'
import type { CommandArgument } from './ioredis-internals.ts'

/**
 * What stands before every key of a tenant. Ids hold no `:`, so no tenant's prefix begins another's, and the id and the key can be read back from
 * any wire key: different pairs of tenant and key never meet.
 */
export function wirePrefix(tenantId: string): string {
  return `${tenantId}:`
}

export function addPrefix(prefix: string, key: CommandArgument): CommandArgument {
  return typeof key === 'string' ? prefix + key : Buffer.concat([Buffer.from(prefix), key])
}

/** A pattern for this tenant's keys alone. Ids hold no glob characters today; the escape keeps that from ever mattering. */
export function addPatternPrefix(prefix: string, pattern: CommandArgument): CommandArgument {
  return addPrefix(escapeGlob(prefix), pattern)
}

/** The key without the prefix, in the form that it came in; `undefined` if it is not this tenant's. */
export function stripPrefix(prefix: string, key: unknown): CommandArgument | undefined {
  if (typeof key === 'string') return key.startsWith(prefix) ? key.slice(prefix.length) : undefined
  if (!Buffer.isBuffer(key)) return undefined
  // Prefixes are ASCII, so bytes are characters.
  const own = key.subarray(0, prefix.length).equals(Buffer.from(prefix))
  return own ? key.subarray(prefix.length) : undefined
}
