import { TenancyError } from '../errors.ts'
import { describeValue } from './describe-value.ts'

/** Refuses what is no plain name (letters, digits, `_`, `.`, `-`; at most 100). @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function assertName(what: string, name: unknown): asserts name is string {
  if (typeof name === 'string' && /^[A-Za-z0-9_.-]{1,100}$/.test(name)) return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${what} needs a plain name, got ${describeValue(name)}.`,
  )
}
