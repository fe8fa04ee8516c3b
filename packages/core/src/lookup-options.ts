import { wholeNumber } from './internal/options.ts'
import { assertKnownKeys } from './known-keys.ts'

/** How tenants are cached between the store and the requests. Durations are in milliseconds. */
export interface LookupOptions {
  /** Known tenants kept; the least recently used goes first. @defaultValue `10_000` */
  readonly maxTenants?: number | undefined
  /** A record younger than this is used as it is. @defaultValue `60_000` */
  readonly maxAgeMs?: number | undefined
  /** For this long after `maxAgeMs` the old record is used once more while a fresh one is fetched. @defaultValue `60_000` */
  readonly staleWhileRevalidateMs?: number | undefined
  /** For this long after `maxAgeMs` the old record is used if the store fails. @defaultValue `3_600_000` */
  readonly staleIfErrorMs?: number | undefined
  /** Unknown ids remembered. @defaultValue `10_000` */
  readonly maxUnknown?: number | undefined
  /** How long an unknown id is remembered. @defaultValue `5_000` */
  readonly unknownMaxAgeMs?: number | undefined
  /**
   * Look-ups of unknown ids that reach the store in a second; beyond it, ids that are not cached are refused with `ERR_TENANCY_STORE_BUSY`. Bounds
   * what a flood of random names costs the store. @defaultValue `100`
   */
  readonly maxUnknownPerSecond?: number | undefined
  /** Look-ups that wait for the store at one time. @defaultValue `64` */
  readonly maxConcurrent?: number | undefined
  /** A store that takes longer has failed. @defaultValue `5_000` */
  readonly timeoutMs?: number | undefined
}

export type ResolvedLookupOptions = Readonly<{ [K in keyof LookupOptions]-?: number }>

const DEFAULTS: ResolvedLookupOptions = {
  maxTenants: 10_000,
  maxAgeMs: 60_000,
  staleWhileRevalidateMs: 60_000,
  staleIfErrorMs: 3_600_000,
  maxUnknown: 10_000,
  unknownMaxAgeMs: 5_000,
  maxUnknownPerSecond: 100,
  maxConcurrent: 64,
  timeoutMs: 5_000,
}

const MAY_BE_ZERO = new Set(['staleWhileRevalidateMs', 'staleIfErrorMs', 'unknownMaxAgeMs'])

/** Fills in defaults. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function resolveLookupOptions(options: LookupOptions = {}): ResolvedLookupOptions {
  const names = Object.keys(DEFAULTS) as (keyof LookupOptions)[]
  assertKnownKeys('lookup', options, names)
  const resolved = { ...DEFAULTS }
  for (const name of names)
    resolved[name] = wholeNumber(
      `lookup.${name}`,
      options[name] ?? DEFAULTS[name],
      MAY_BE_ZERO.has(name) ? 0 : 1,
    )
  return Object.freeze(resolved)
}
