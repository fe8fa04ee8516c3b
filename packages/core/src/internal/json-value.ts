const DEEPEST = 64

/**
 * Copies a JSON value: plain objects, arrays, strings, finite numbers, booleans, `null`. Members that are `undefined` are left out, as JSON does.
 *
 * @throws {TypeError} for anything else, for a cycle, and beyond 64 levels.
 */
export function copyJson(value: unknown, depth = 0): unknown {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number' && Number.isFinite(value)) return value
  if (typeof value !== 'object' || depth >= DEEPEST) throw new TypeError('no JSON value')
  if (Array.isArray(value)) return value.map((member) => copyJson(member, depth + 1))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) throw new TypeError('no plain object')
  // fromEntries defines members, so that one called `__proto__` is a member and sets no prototype.
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .map(([key, member]) => [key, copyJson(member, depth + 1)]),
  )
}
