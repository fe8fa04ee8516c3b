import type { Tenant, TenantIsolation, TenantStatus } from './tenant.ts'

/** Picks tenants. Members are combined by AND; the values inside one by OR. An absent member does not narrow. */
export interface TenantSelector {
  readonly ids?: readonly string[] | undefined
  /** Tenants that carry at least one of these tags. */
  readonly tags?: readonly string[] | undefined
  /** @defaultValue `['active']` */
  readonly status?: readonly TenantStatus[] | undefined
  readonly isolation?: readonly TenantIsolation[] | undefined
}

/**
 * Where tenants are defined. One member is required; each optional one is a capability, and its comment says what we do without it.
 * Every tenant that a store gives must come from `createTenant`.
 */
export interface TenantStore {
  /** Resolves to `undefined` for an unknown id; rejects only when the store itself failed. */
  findById(id: string, options?: { signal?: AbortSignal }): Promise<Tenant | undefined>
  /** Finds the owner of a verified custom domain (lower-case, no trailing dot). Without it, the `domain` resolver refuses to be configured. */
  findByDomain?(domain: string, options?: { signal?: AbortSignal }): Promise<Tenant | undefined>
  /** Tenants in the order of their ids. Without it, `tenancy.forEach` takes selectors with `ids` only. */
  list?(selector?: TenantSelector): AsyncIterable<Tenant>
  /** Push invalidation: calls back with the id of each tenant that changed, `'*'` when any may have. Without it, cached tenants expire by age alone. */
  watch?(onChange: (id: string) => void): Promise<AsyncDisposable>
}

/** Tells whether a selector picks a tenant. */
export function matchesSelector(tenant: Tenant, selector: TenantSelector = {}): boolean {
  const { ids, tags, status = ['active'], isolation } = selector
  return (
    (ids === undefined || ids.includes(tenant.id)) &&
    (tags === undefined || tags.some((tag) => tenant.tags.includes(tag))) &&
    status.includes(tenant.status) &&
    (isolation === undefined || isolation.includes(tenant.isolation))
  )
}
