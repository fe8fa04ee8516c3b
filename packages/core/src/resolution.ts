import { TenancyError } from './errors.ts'
import type { RefusalReason, TenancyEventHub } from './events.ts'
import { chain, isPromise, type MaybePromise } from './internal/maybe-promise.ts'
import { assertKnownKeys } from './known-keys.ts'
import type { TenancyRequest } from './tenancy-request.ts'
import type { Tenant } from './tenant.ts'
import { assertTenantId } from './tenant-id.ts'
import type { TenantLookup } from './tenant-lookup.ts'
import type { ResolverServices, TenantResolver } from './tenant-resolver.ts'
import { createTenantScope, type ScopeDetails, type TenantScope } from './tenant-scope.ts'

export interface AuthorizeInput<Raw = unknown> {
  readonly tenant: Tenant
  readonly request: TenancyRequest<Raw>
  /** The name of the resolver that named the tenant; `fallback` for the default tenant. */
  readonly source: string
}

/**
 * Decides whether this caller may act in this tenant. `true` lets it in; so does an object that names the `actor`. Everything else, an object without an actor
 * included, is answered like an unknown tenant. A throw or rejection ends the request, and so does an object that is no {@link ScopeDetails}: the
 * result of a query, say, which is there for members and for strangers.
 */
export type Authorize = (input: AuthorizeInput) => MaybePromise<boolean | ScopeDetails>

/** What a client may learn about a tenant that it cannot enter: `nothing` (one identical 404), or `status` (403 and 503 apart). */
export type Reveal = 'nothing' | 'status'

export interface ResolutionParts {
  /** The context that the scopes are for. */
  readonly owner: object
  readonly resolvers: readonly TenantResolver[]
  readonly lookup: TenantLookup
  readonly events: TenancyEventHub
  readonly authorize: Authorize | undefined
  readonly reveal: Reveal
}

interface Candidate {
  readonly id: string
  readonly source: string
}

/**
 * From request to scope: every source is asked, those that are present must agree, the tenant must exist, be served, and let the caller in. All that
 * is wrong with a request ends it; nothing but the absence of every source leads to the default tenant.
 */
export class Resolution {
  readonly #parts: ResolutionParts
  readonly #services: ResolverServices
  readonly #fallback: Candidate | undefined

  constructor(parts: ResolutionParts) {
    this.#parts = parts
    this.#services = { tenantIdOfDomain: (domain) => parts.lookup.findDomain(domain) }
    const id = parts.resolvers.at(-1)?.fallbackTenantId
    this.#fallback = id === undefined ? undefined : { id: assertTenantId(id), source: 'fallback' }
  }

  /**
   * The scope of a request, or `undefined` if no source is present and there is no default tenant. Answered at once, without a promise, when resolvers,
   * cache and `authorize` answer at once.
   */
  resolve(
    request: TenancyRequest,
    details: ScopeDetails = {},
  ): MaybePromise<TenantScope | undefined> {
    assertOriginForm(request)
    return chain(this.#identify(request), (candidate) =>
      candidate === undefined ? undefined : this.#admit(candidate, request, details),
    )
  }

  #identify(request: TenancyRequest): MaybePromise<Candidate | undefined> {
    const found: MaybePromise<string | undefined>[] = []
    let pending = false
    for (const resolver of this.#parts.resolvers) {
      const identifier = this.#ask(resolver, request)
      pending ||= isPromise(identifier)
      found.push(identifier)
    }
    return pending
      ? Promise.all(found.map((identifier) => Promise.resolve(identifier))).then((identifiers) =>
          this.#agree(identifiers),
        )
      : this.#agree(found as (string | undefined)[])
  }

  #ask(resolver: TenantResolver, request: TenancyRequest): MaybePromise<string | undefined> {
    try {
      const identifier = resolver.identify(request, this.#services)
      return isPromise(identifier)
        ? Promise.resolve(identifier).catch((error: unknown) =>
            Promise.reject(resolverFailure(resolver, error)),
          )
        : identifier
    } catch (error) {
      // A rejection and not a throw: a sibling's promise may already be pending and must not be left unheard.
      return Promise.reject(resolverFailure(resolver, error))
    }
  }

  #agree(identifiers: readonly (string | undefined)[]): Candidate | undefined {
    let candidate: Candidate | undefined
    for (const [index, identifier] of identifiers.entries()) {
      if (identifier === undefined) continue
      const id = assertTenantId(identifier)
      const source = this.#parts.resolvers[index]?.name ?? 'custom'
      if (candidate === undefined) candidate = { id, source }
      else if (candidate.id !== id)
        throw new TenancyError(
          'ERR_TENANCY_SOURCES_DISAGREE',
          `The sources ${candidate.source} and ${source} name different tenants.`,
        )
    }
    return candidate ?? this.#fallback
  }

  #admit(
    candidate: Candidate,
    request: TenancyRequest,
    details: ScopeDetails,
  ): MaybePromise<TenantScope> {
    return chain(this.#parts.lookup.find(candidate.id), (tenant) => {
      if (tenant === undefined) return this.#refuse(candidate, 'unknown')
      if (tenant.status !== 'active') return this.#refuse(candidate, tenant.status)
      if (!tenant.ingress) return this.#refuse(candidate, 'ingress-disabled')
      const { authorize } = this.#parts
      if (authorize === undefined) return this.#open(tenant, candidate.source, details)
      return chain(
        this.#authorized(authorize, { tenant, request, source: candidate.source }),
        (verdict) => {
          const granted = grantOf(verdict)
          if (granted === undefined) return this.#refuse(candidate, 'forbidden')
          return this.#open(tenant, candidate.source, { ...details, ...granted })
        },
      )
    })
  }

  #authorized(authorize: Authorize, input: AuthorizeInput): MaybePromise<boolean | ScopeDetails> {
    const failed = (cause: unknown): never => {
      if (TenancyError.is(cause)) throw cause
      throw new TenancyError('ERR_TENANCY_RESOLVER_FAILED', 'authorize threw.', { cause })
    }
    try {
      const verdict = authorize(input)
      return isPromise(verdict) ? Promise.resolve(verdict).catch(failed) : verdict
    } catch (cause) {
      return failed(cause)
    }
  }

  #open(tenant: Tenant, source: string, details: ScopeDetails): TenantScope {
    const scope = createTenantScope(this.#parts.owner, tenant, source, details)
    this.#parts.events.emit('tenant:resolved', { scope })
    return scope
  }

  #refuse({ id, source }: Candidate, reason: RefusalReason): never {
    this.#parts.events.emit('tenant:refused', { identifier: id, source, reason })
    if (this.#parts.reveal === 'status') {
      if (reason === 'forbidden')
        throw new TenancyError('ERR_TENANCY_TENANT_FORBIDDEN', 'You may not act in this tenant.', {
          tenantId: id,
        })
      if (reason === 'suspended' || reason === 'provisioning' || reason === 'ingress-disabled')
        throw new TenancyError(
          'ERR_TENANCY_TENANT_SUSPENDED',
          'The tenant is not served at the moment.',
          { tenantId: id },
        )
    }
    // While unknown ids are turned away unread, those that exist must be answered alike, or a flood would tell which they are.
    const busy = reason === 'unknown' ? undefined : this.#parts.lookup.refusal
    if (busy !== undefined) throw busy
    // One message for all of them: it must not tell a stranger which tenants exist.
    throw new TenancyError('ERR_TENANCY_TENANT_UNKNOWN', 'There is no such tenant here.', {
      tenantId: id,
    })
  }
}

/**
 * An absolute-form target (RFC 9112, 3.2.2) carries a host of its own that overrides the Host header for some readers and not for others; frameworks route by
 * its path and read the host from the header.
 */
function assertOriginForm({ target, method }: TenancyRequest): void {
  if (typeof target === 'string' && target.startsWith('/')) return
  if (target === '*' && method === 'OPTIONS') return
  throw new TenancyError(
    'ERR_TENANCY_REQUEST_TARGET_INVALID',
    'The request target is not in origin form.',
  )
}

function resolverFailure(resolver: TenantResolver, cause: unknown): TenancyError {
  if (TenancyError.is(cause)) return cause
  return new TenancyError('ERR_TENANCY_RESOLVER_FAILED', `The resolver ${resolver.name} threw.`, {
    cause,
  })
}

/** What a verdict of `authorize` grants; `undefined` if it lets nobody in. */
function grantOf(verdict: unknown): ScopeDetails | undefined {
  if (verdict === true) return {}
  if (typeof verdict !== 'object' || verdict === null) return undefined
  const prototype: unknown = Object.getPrototypeOf(verdict)
  if (prototype !== Object.prototype && prototype !== null)
    throw new TenancyError(
      'ERR_TENANCY_RESOLVER_FAILED',
      'authorize must answer true, false or a plain object with the actor.',
    )
  assertKnownKeys(
    'the answer of authorize',
    verdict,
    ['actor', 'impersonator', 'requestId'],
    'ERR_TENANCY_RESOLVER_FAILED',
  )
  const details: ScopeDetails = verdict
  if (details.actor === undefined || details.actor === null) return undefined
  for (const who of [details.actor, details.impersonator])
    if (who !== undefined && (typeof who?.id !== 'string' || who.id === ''))
      throw new TenancyError(
        'ERR_TENANCY_RESOLVER_FAILED',
        'authorize answered an actor without an id.',
      )
  return details
}
