import { TenancyError } from '../errors.ts'
import { describeValue } from './describe-value.ts'

/** Returns a whole number of at least `least`. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function wholeNumber(option: string, value: unknown, least: number): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} must be a whole number of at least ${least}, got ${describeValue(value)}.`,
  )
}

/** Returns a function. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function functionOption<F>(option: string, value: F): F {
  if (typeof value === 'function') return value
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} must be a function, got ${describeValue(value)}.`,
  )
}
