import { TenancyError } from '../errors.ts'
import type { TenancyRequest } from '../tenancy-request.ts'
import { describeValue } from './describe-value.ts'

// A label may hold `_` (RFC 2181, 11): such hosts exist, they are only never tenants.
const DNS_NAME =
  /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*$/
const IPV6 = /^\[[0-9a-f:.]{2,45}\]$/

/**
 * The host of a request in one spelling: lower-case, without port and without the root dot. `undefined` for a request that has none (HTTP/1.0).
 *
 * @throws {TenancyError} `ERR_TENANCY_HOST_INVALID` for anything that is not exactly one DNS name or IP literal with at most one port:
 * `a.x.io:443:victim`, `victim.x.io@a.x.io`, `*.x.io`, lists. Frameworks accept all of these and disagree about them.
 */
export function canonicalHost(request: TenancyRequest): string | undefined {
  const { authority } = request
  if (authority === undefined) return undefined
  if (authority === null)
    throw new TenancyError('ERR_TENANCY_HOST_INVALID', 'The request carries more than one host.')
  const match = /^(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?$/.exec(authority)
  // ASCII only: `toLowerCase` also maps the Kelvin sign to k, and a look-alike would become a tenant.
  const host = match?.[1]?.replace(/[A-Z]/g, (letter) => letter.toLowerCase())
  const port = match?.[2]
  if (host !== undefined && (port === undefined || Number(port) <= 65_535)) {
    const name = host.endsWith('.') ? host.slice(0, -1) : host
    if (DNS_NAME.test(name)) return name
    if (IPV6.test(host)) return host
  }
  throw new TenancyError(
    'ERR_TENANCY_HOST_INVALID',
    `${describeValue(authority)} is not one host with at most one port.`,
  )
}

/** Tells whether a canonical host is an IP literal, or a number that clients and servers may read as one (`0x7f.1`, `2130706433`). */
export function isIpLiteral(host: string): boolean {
  if (host.startsWith('[')) return true
  const last = host.slice(host.lastIndexOf('.') + 1)
  return /^(?:\d+|0x[0-9a-f]*)$/.test(last)
}

/** A configured domain in the same spelling as {@link canonicalHost} gives. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function canonicalDomain(option: string, domain: unknown): string {
  const name = typeof domain === 'string' ? domain.toLowerCase().replace(/\.$/, '') : ''
  if (isCanonicalDomain(name)) return name
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} must be a DNS name, got ${describeValue(domain)}.`,
  )
}

/** Tells whether a value is a domain that {@link canonicalHost} can give. */
export function isCanonicalDomain(domain: string): boolean {
  return DNS_NAME.test(domain) && !isIpLiteral(domain)
}
