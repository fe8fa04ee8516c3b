import { TenancyError } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'

/**
 * A tenant id is a DNS label (RFC 1035, 2.3.1 with the leading digit of RFC 1123, 2.1), so that one
 * spelling serves host, schema, key prefix, job id, file name and metric label.
 */
const TENANT_ID = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

/**
 * Labels that are valid but never a tenant: names with a meaning in DNS or Postgres, and our own.
 * `public` is not here: it is a tenant where it is the declared default tenant, and only there.
 */
export const RESERVED_TENANT_IDS: ReadonlySet<string> = new Set([
  'central',
  'information-schema',
  'localhost',
  'partywall',
  'pg-catalog',
  'pg-temp',
  'pg-toast',
  'www',
])

/**
 * Tells whether a value is a well-formed tenant id. It is checked and never normalised: `Acme` and `acme `
 * are no ids. `public` is well-formed; whether it may be used is for the tenancy to say.
 */
export function isTenantId(value: unknown): value is string {
  return typeof value === 'string' && TENANT_ID.test(value) && !RESERVED_TENANT_IDS.has(value)
}

/**
 * Returns the value if it is a well-formed tenant id.
 *
 * @throws {TenancyError} `ERR_TENANCY_IDENTIFIER_INVALID` otherwise; the message quotes at most 80 characters of
 * the value, with control characters escaped.
 */
export function assertTenantId(value: unknown): string {
  if (isTenantId(value)) return value
  const reserved = typeof value === 'string' && RESERVED_TENANT_IDS.has(value)
  throw new TenancyError(
    'ERR_TENANCY_IDENTIFIER_INVALID',
    `${describeValue(value)} is ${reserved ? 'a reserved name' : 'no tenant id'}.`,
  )
}
