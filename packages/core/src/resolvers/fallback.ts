import { assertTenantId } from '../tenant-id.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

/**
 * The default tenant: that of requests in which every other source is absent. A request that names a tenant wrongly never gets it. Stands last.
 * `fallback('public')` also declares the tenant `public`, which needs no record in the store.
 *
 * @throws {TenancyError} `ERR_TENANCY_IDENTIFIER_INVALID`.
 */
export function fallback(tenantId: string): TenantResolver {
  return {
    name: 'fallback',
    forgeable: false,
    vary: [],
    fallbackTenantId: assertTenantId(tenantId),
    identify: () => undefined,
  }
}
