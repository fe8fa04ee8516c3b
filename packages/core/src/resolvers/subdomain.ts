import { TenancyError } from '../errors.ts'
import { canonicalDomain, canonicalHost, isIpLiteral } from '../internal/canonical-host.ts'
import { describeValue } from '../internal/describe-value.ts'
import { assertKnownKeys } from '../known-keys.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

export interface SubdomainOptions {
  /**
   * The domain, or domains, below which each label is a tenant: `acme.myapp.com` with `of: 'myapp.com'`. Hosts elsewhere do not carry this
   * source. Absent: the first of three or more labels is the tenant, whatever the domain, as in the Xcore documentation; say the domain in production.
   */
  readonly of?: string | readonly string[] | undefined
}

/**
 * The tenant by the first label of the host. Clients can forge it (they choose the Host header), so it needs `authorize`.
 *
 * `acme.localhost` always counts, for development (RFC 6761, 6.3). The domain itself, `www` below it, `localhost` and IP literals carry no
 * tenant. A host two labels below the domain is malformed.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function subdomain(options: SubdomainOptions = {}): TenantResolver {
  assertKnownKeys('subdomain()', options, ['of'])
  const given = options.of === undefined ? undefined : [options.of].flat()
  const bases = given?.map((domain) => canonicalDomain('subdomain({ of })', domain))
  // The longest first: below both x.io and eu.x.io, a host belongs to eu.x.io.
  const known = [...(bases ?? []), 'localhost'].sort((a, b) => b.length - a.length)
  return {
    name: 'subdomain',
    key: 'subdomain',
    forgeable: true,
    vary: ['Host'],
    identify(request) {
      const host = canonicalHost(request)
      if (host === undefined || isIpLiteral(host) || known.includes(host)) return undefined
      const base = known.find((domain) => host.endsWith(`.${domain}`)) ?? anyBase(host, bases)
      if (base === undefined) return undefined
      const label = host.slice(0, -base.length - 1)
      if (label === 'www') return undefined
      if (label.includes('.'))
        throw new TenancyError(
          'ERR_TENANCY_IDENTIFIER_INVALID',
          `${describeValue(host)} is more than one label below ${base}.`,
        )
      return label
    },
  }
}

/** Without declared domains: what stands behind the first label, if that is a domain of at least two labels. */
function anyBase(host: string, bases: readonly string[] | undefined): string | undefined {
  if (bases !== undefined) return undefined
  const rest = host.slice(host.indexOf('.') + 1)
  return host.includes('.') && rest.includes('.') ? rest : undefined
}
