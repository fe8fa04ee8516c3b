import type { MaybePromise } from './internal/maybe-promise.ts'
import type { TenancyRequest } from './tenancy-request.ts'

/** What a resolver may ask the tenancy for. */
export interface ResolverServices {
  /** The id of the tenant that owns a verified custom domain, through the look-up cache. */
  tenantIdOfDomain(domain: string): MaybePromise<string | undefined>
}

/**
 * One source of the tenant: finds the identifier in a request.
 *
 * `identify` returns the identifier unchanged (the tenancy checks it), or `undefined` when the request does not carry this source. It throws a
 * TenancyError for a source that is there but unusable; any other exception becomes `ERR_TENANCY_RESOLVER_FAILED`. Nothing that
 * it throws lets the request fall through to another source.
 */
export interface TenantResolver {
  readonly name: string
  /** What exactly it reads, `header:x-tenant-id` for example. Two resolvers with one key are refused. */
  readonly key?: string
  /** Whether a client can set this source at will. Such a source needs `authorize`. */
  readonly forgeable: boolean
  /** The request headers that it reads, for `Vary`. */
  readonly vary: readonly string[]
  identify(request: TenancyRequest, services: ResolverServices): MaybePromise<string | undefined>
  /** Set by `fallback` alone: the tenant of requests in which every source is absent. */
  readonly fallbackTenantId?: string
  /** Set by `domain`: the store must be able to find tenants by domain. */
  readonly needsDomains?: boolean
}

/** A resolver of your own in its short form; taken for forgeable. */
export type TenantResolverFunction = (request: TenancyRequest) => MaybePromise<string | undefined>
