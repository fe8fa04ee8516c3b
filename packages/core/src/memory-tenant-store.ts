import { TenancyError } from './errors.ts'
import { PHYSICAL_KINDS, physicalName } from './physical-names.ts'
import { createTenant, type Tenant, type TenantInput } from './tenant.ts'
import { tenantPlace } from './tenant-place.ts'
import { matchesSelector, type TenantSelector, type TenantStore } from './tenant-store.ts'

/** A {@link TenantStore} in memory, for tests, scripts and applications whose tenants stand in their configuration. */
export class MemoryTenantStore implements TenantStore {
  // Maps, not objects: `__proto__` and `constructor` must be unknown tenants.
  readonly #tenants = new Map<string, Tenant>()
  readonly #domains = new Map<string, string>()
  readonly #tombstones = new Set<string>()
  /** Physical names and places to the tenant that has them. Those of a deleted tenant stay: what they name may still be there. */
  readonly #taken = new Map<string, string>()
  readonly #watchers = new Set<(id: string) => void>()

  constructor(tenants: Iterable<TenantInput> = []) {
    for (const tenant of tenants) this.create(tenant)
  }

  /**
   * Adds a tenant.
   *
   * @throws {TenancyError} `ERR_TENANCY_TENANT_EXISTS` if the id is or was in use or a domain is another tenant's,
   * `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a physical name or the placement is another tenant's, and whatever `createTenant` throws.
   */
  create(input: TenantInput): Tenant {
    const tenant = createTenant(input)
    if (this.#tenants.has(tenant.id) || this.#tombstones.has(tenant.id))
      throw new TenancyError(
        'ERR_TENANCY_TENANT_EXISTS',
        `Tenant ${tenant.id} exists or has existed.`,
      )
    return this.#set(tenant)
  }

  /**
   * Changes members of a tenant; the id stays.
   *
   * @throws {TenancyError} `ERR_TENANCY_TENANT_UNKNOWN`, and whatever `create` throws for the rest.
   */
  update(id: string, changes: Partial<Omit<TenantInput, 'id'>>): Tenant {
    const tenant = this.#tenants.get(id)
    if (tenant === undefined)
      throw new TenancyError('ERR_TENANCY_TENANT_UNKNOWN', `There is no tenant ${id}.`)
    return this.#set(createTenant({ ...tenant, ...changes, id }))
  }

  /** Removes a tenant and leaves a tombstone: its id is never given out again. Tells whether there was one. */
  delete(id: string): boolean {
    const tenant = this.#tenants.get(id)
    if (tenant === undefined) return false
    this.#tenants.delete(id)
    this.#tombstones.add(id)
    for (const domain of tenant.domains) this.#domains.delete(domain)
    this.#changed(id)
    return true
  }

  async findById(id: string): Promise<Tenant | undefined> {
    return this.#tenants.get(id)
  }

  async findByDomain(domain: string): Promise<Tenant | undefined> {
    const id = this.#domains.get(domain)
    return id === undefined ? undefined : this.#tenants.get(id)
  }

  async *list(selector?: TenantSelector): AsyncGenerator<Tenant> {
    for (const id of [...this.#tenants.keys()].sort()) {
      const tenant = this.#tenants.get(id)
      if (tenant !== undefined && matchesSelector(tenant, selector)) yield tenant
    }
  }

  async watch(onChange: (id: string) => void): Promise<AsyncDisposable> {
    const watcher = (id: string): void => onChange(id)
    this.#watchers.add(watcher)
    return { [Symbol.asyncDispose]: async () => void this.#watchers.delete(watcher) }
  }

  #set(tenant: Tenant): Tenant {
    for (const domain of tenant.domains) {
      const owner = this.#domains.get(domain)
      if (owner !== undefined && owner !== tenant.id)
        throw new TenancyError(
          'ERR_TENANCY_TENANT_EXISTS',
          `The domain ${domain} belongs to another tenant.`,
          { tenantId: tenant.id },
        )
    }
    const names = [...PHYSICAL_KINDS.map((kind) => nameKey(kind, tenant.id)), tenantPlace(tenant)]
    for (const name of names) {
      const owner = this.#taken.get(name)
      if (owner !== undefined && owner !== tenant.id)
        throw new TenancyError(
          'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
          `Tenant ${tenant.id} would share ${name} with another tenant.`,
          { tenantId: tenant.id },
        )
    }
    for (const name of names) this.#taken.set(name, tenant.id)
    for (const domain of this.#tenants.get(tenant.id)?.domains ?? []) this.#domains.delete(domain)
    for (const domain of tenant.domains) this.#domains.set(domain, tenant.id)
    this.#tenants.set(tenant.id, tenant)
    this.#changed(tenant.id)
    return tenant
  }

  #changed(id: string): void {
    for (const watcher of this.#watchers) watcher(id)
  }
}

function nameKey(kind: (typeof PHYSICAL_KINDS)[number], id: string): string {
  return `${kind} ${physicalName(kind, id)}`
}

/** Makes a {@link MemoryTenantStore}. @throws {TenancyError} as its `create` does. */
export function memoryTenantStore(tenants: Iterable<TenantInput> = []): MemoryTenantStore {
  return new MemoryTenantStore(tenants)
}
