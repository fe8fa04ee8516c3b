import { createTenant, TenancyError, type TenantInput, type TenantStatus } from '@partywall/core'

/**
 * Checks the record of a tenant that is to be provisioned, and tells the status that it is to have afterwards.
 *
 * @throws {TenancyError} what `createTenant` throws; `ERR_TENANCY_IDENTIFIER_INVALID` for `public` where it is not the default tenant; `ERR_TENANCY_TENANT_INVALID` for a status that nobody begins with;
 * `ERR_TENANCY_ISOLATION_UNSUPPORTED`.
 */
export function finalStatusOf(input: TenantInput, defaultTenant: string | undefined): TenantStatus {
  const { id, status, isolation } = createTenant(input)
  if (id === 'public' && defaultTenant !== 'public')
    throw new TenancyError(
      'ERR_TENANCY_IDENTIFIER_INVALID',
      'public is a tenant only where it is the default tenant.',
      { hint: "Set tenancy.defaultTenant: 'public'." },
    )
  if (isolation === 'row')
    throw new TenancyError(
      'ERR_TENANCY_ISOLATION_UNSUPPORTED',
      `Tenant ${id} asks for the isolation ${isolation}; this version provisions schemas and databases.`,
      { tenantId: id },
    )
  if (status === 'active' || status === 'suspended') return status
  throw new TenancyError(
    'ERR_TENANCY_TENANT_INVALID',
    `A new tenant is active or suspended, and ${id} is to be ${status}.`,
    { tenantId: id },
  )
}
