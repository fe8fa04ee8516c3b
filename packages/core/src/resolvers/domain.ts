import { TenancyError } from '../errors.ts'
import { canonicalDomain, canonicalHost, isIpLiteral } from '../internal/canonical-host.ts'
import { chain } from '../internal/maybe-promise.ts'
import { assertKnownKeys } from '../known-keys.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

export interface DomainOptions {
  /** The application's own domains. They and everything below them carry no custom domain. */
  readonly own: string | readonly string[]
}

/**
 * The tenant by its custom domain, as the store has it (`Tenant.domains`; putting only verified domains there is for the store's keeper). Clients
 * can forge it, so it needs `authorize`. Every host that is not the application's own is taken for a custom domain, so that an unknown one is
 * a 404 and never the default tenant.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function domain(options: DomainOptions): TenantResolver {
  assertKnownKeys('domain()', options, ['own'])
  const own = [options.own].flat().map((name) => canonicalDomain('domain({ own })', name))
  own.push('localhost')
  return {
    name: 'domain',
    key: 'domain',
    forgeable: true,
    vary: ['Host'],
    needsDomains: true,
    identify(request, services) {
      const host = canonicalHost(request)
      if (host === undefined || isIpLiteral(host)) return undefined
      if (own.some((name) => host === name || host.endsWith(`.${name}`))) return undefined
      return chain(services.tenantIdOfDomain(host), (id) => {
        if (id === undefined)
          throw new TenancyError('ERR_TENANCY_TENANT_UNKNOWN', 'There is no such tenant here.')
        return id
      })
    },
  }
}
