import { TenancyError } from '@partywall/core'

/**
 * Turns a value into JSON text, and refuses what JSON would change without a word: functions, symbols, bigints, NaN and the infinities, holes and
 * `undefined` in arrays, maps, sets, binary data, promises, cycles. `undefined` members of objects are left out and `toJSON`
 * (of a Date, for example) is honoured, as everywhere else.
 *
 * @throws {TenancyError} `ERR_TENANCY_CACHE_VALUE_INVALID`.
 */
export function encodeCacheValue(key: string, value: unknown): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value, refuseWhatJsonLoses)
  } catch (cause) {
    throw invalid(
      key,
      cause instanceof Error ? cause.message : 'it cannot be turned into JSON',
      cause,
    )
  }
  if (text === undefined) throw invalid(key, 'undefined means that there is no entry; use delete()')
  return text
}

/** A fresh copy of a cached value, so that no caller can change what another one gets. */
export function decodeCacheValue(key: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw invalid(key, 'the stored text is not JSON; something else writes to this key', cause)
  }
}

function refuseWhatJsonLoses(this: unknown, key: string, value: unknown): unknown {
  switch (typeof value) {
    case 'function':
    case 'symbol':
    case 'bigint':
      throw new TypeError(`it holds a ${typeof value}${at(key)}`)
    case 'number':
      if (!Number.isFinite(value)) throw new TypeError(`it holds ${value}${at(key)}`)
      return value
    case 'undefined':
      if (Array.isArray(this)) throw new TypeError(`it holds undefined in an array${at(key)}`)
      return value
    case 'object': {
      // A Buffer has become { type, data } by its toJSON when it gets here; its holder still has the original.
      const original: unknown = (this as Record<string, unknown>)[key]
      const lossy = lossyKind(value) ?? lossyKind(original)
      if (lossy !== undefined) throw new TypeError(`it holds a ${lossy}${at(key)}`)
      return value
    }
    default:
      return value
  }
}

function lossyKind(value: unknown): string | undefined {
  if (value instanceof Map) return 'Map'
  if (value instanceof Set) return 'Set'
  if (value instanceof Promise) return 'Promise'
  if (value instanceof RegExp) return 'RegExp'
  if (value instanceof Error) return 'Error'
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return 'binary value'
  return undefined
}

function at(key: string): string {
  return key === '' ? '' : ` at ${JSON.stringify(key)}`
}

function invalid(key: string, why: string, cause?: unknown): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_CACHE_VALUE_INVALID',
    `The value of ${JSON.stringify(key.slice(0, 80))} cannot be cached: ${why}.`,
    cause === undefined ? {} : { cause },
  )
}
