import { TenancyError } from './errors.ts'
import type { TenancyEventHub } from './events.ts'
import { LookupCache, storeBusy } from './internal/lookup-cache.ts'
import { chain, type MaybePromise } from './internal/maybe-promise.ts'
import type { ResolvedLookupOptions } from './lookup-options.ts'
import { ensureTenant, type Tenant } from './tenant.ts'
import type { TenantStore } from './tenant-store.ts'

/** The one way from ids and domains to tenants: the store behind a cache. See {@link LookupOptions} for the policy. */
export class TenantLookup {
  readonly #byId: LookupCache<Tenant>
  readonly #byDomain: LookupCache<{ readonly id: string }>
  readonly #events: TenancyEventHub

  constructor(
    store: TenantStore,
    options: ResolvedLookupOptions,
    events: TenancyEventHub,
    outside: <T>(fn: () => T) => T,
  ) {
    this.#events = events
    const hooks = {
      now: () => performance.now(),
      outside,
      onFailure: (error: unknown, servedStale: boolean) =>
        events.emit('store:failed', { error, servedStale }),
    }
    this.#byId = new LookupCache(
      async (id, signal) => {
        const record = await store.findById(id, { signal })
        if (record === undefined || record === null) return undefined
        // A record that is mutable or incomplete would be a context that changes under its feet.
        const tenant = ensureTenant(record)
        if (tenant.id !== id) throw new TypeError(`The store gave tenant ${tenant.id} for ${id}.`)
        return tenant
      },
      options,
      hooks,
    )
    this.#byDomain = new LookupCache(
      async (domain, signal) => {
        const owner = await store.findByDomain?.(domain, { signal })
        return owner === undefined || owner === null ? undefined : { id: owner.id }
      },
      options,
      hooks,
    )
  }

  /** The tenant, or `undefined` for an unknown id. A hit is answered at once. @throws {TenancyError} by rejection: `ERR_TENANCY_STORE_UNAVAILABLE`, `ERR_TENANCY_STORE_BUSY`. */
  find(id: string): MaybePromise<Tenant | undefined> {
    return this.#byId.find(id)
  }

  /** @internal The answer that an unknown tenant gets instead of "unknown", while unknown ids are turned away unread. */
  get refusal(): TenancyError | undefined {
    return this.#byId.refuses ? storeBusy() : undefined
  }

  /** The id of the owner of a custom domain. Fails as `find` does. */
  findDomain(domain: string): MaybePromise<string | undefined> {
    return chain(this.#byDomain.find(domain), (owner) =>
      owner === undefined
        ? undefined
        : // The record of the tenant has the last word: what is known of a domain may be older, while the store is down for example.
          chain(this.find(owner.id), (tenant) =>
            tenant?.domains.includes(domain) === true ? tenant.id : undefined,
          ),
    )
  }

  /**
   * Forgets a tenant, and that any domain is fresh (it may have gained or lost some); `'*'` forgets that anything is fresh.
   *
   * The owners of domains are not dropped, because a change of one tenant must not take the domains of all others down with the store. What is
   * forgotten for good is the tenant itself, and nobody enters by a domain without it.
   */
  invalidate(id: string): void {
    if (id === '*') this.#byId.invalidateAll()
    else this.#byId.invalidate(id)
    this.#byDomain.invalidateAll()
    this.#events.emit('tenant:invalidated', { tenantId: id })
  }

  /** Forgets everything. */
  clear(): void {
    this.#byId.clear()
    this.#byDomain.clear()
  }

  /** Whether nothing is cached and nothing under way. */
  get idle(): boolean {
    return this.size === 0 && this.#byId.pending + this.#byDomain.pending === 0
  }

  /** Entries in memory, for the bound that the options promise. */
  get size(): number {
    return this.#byId.size + this.#byDomain.size
  }
}

/** @internal A store that cannot answer what the configuration asks of it. */
export function assertStoreFinds(
  store: TenantStore,
  what: 'findByDomain' | 'list',
  who: string,
): void {
  if (typeof store[what] !== 'function')
    throw new TenancyError('ERR_TENANCY_OPTION_INVALID', `${who} needs a store with ${what}().`)
}
