import type { Tenant } from './tenant.ts'

/** The person or program that acts; the application decides what an id is. */
export interface Actor {
  readonly id: string
  readonly name?: string
}

/** Who acts in a tenant, and for which request; everything but the tenant and the source. */
export interface ScopeDetails {
  readonly actor?: Actor | undefined
  /** The operator behind the actor, where one impersonates the other. */
  readonly impersonator?: Actor | undefined
  readonly requestId?: string | undefined
}

/** The tenant that the running code acts for, and how it came to be. Frozen. */
export interface TenantScope {
  readonly tenant: Tenant
  /** What named the tenant: the name of a resolver (`header`, `fallback`, ...), or `run`, `switch`, `forEach`, `job`. */
  readonly source: string
  readonly actor?: Actor
  readonly impersonator?: Actor
  readonly requestId?: string
}

/** A scope that only this module makes: a look-alike object does not open a tenant. */
class GenuineTenantScope implements TenantScope {
  readonly tenant: Tenant
  readonly source: string
  declare readonly actor?: Actor
  declare readonly impersonator?: Actor
  declare readonly requestId?: string
  readonly #owner: object

  constructor(owner: object, tenant: Tenant, source: string, details: ScopeDetails) {
    this.#owner = owner
    this.tenant = tenant
    this.source = source
    if (details.actor !== undefined) this.actor = copyActor(details.actor)
    if (details.impersonator !== undefined) this.impersonator = copyActor(details.impersonator)
    if (details.requestId !== undefined) this.requestId = details.requestId
    Object.freeze(this)
  }

  static ownerOf(value: object): object | undefined {
    return #owner in value ? value.#owner : undefined
  }

  static {
    // Otherwise whoever holds a scope could make one of any tenant by `new scope.constructor(...)`.
    Object.defineProperty(GenuineTenantScope.prototype, 'constructor', { value: Object })
    Object.freeze(GenuineTenantScope.prototype)
  }
}

/** No more than the contract says: what else the object holds is the application's, may be large, and cannot be frozen for it. */
function copyActor({ id, name }: Actor): Actor {
  return Object.freeze(name === undefined ? { id } : { id, name })
}

/** @internal Made by the tenancy alone, after the tenant was found and may be used. Only `owner`, its context, lets the scope in. */
export function createTenantScope(
  owner: object,
  tenant: Tenant,
  source: string,
  details: ScopeDetails = {},
): TenantScope {
  return new GenuineTenantScope(owner, tenant, source, details)
}

/** Tells whether a value is a scope that a tenancy of this process made. */
export function isTenantScope(value: unknown): value is TenantScope {
  return scopeOwner(value) !== undefined
}

/** @internal The context that a scope was made for; `undefined` for anything that is no genuine scope. */
export function scopeOwner(value: unknown): object | undefined {
  return typeof value === 'object' && value !== null ? GenuineTenantScope.ownerOf(value) : undefined
}
