import { TenancyError } from './errors.ts'
import { TenancyEventHub, type TenancyEventListener, type TenancyEventName } from './events.ts'
import { describeValue } from './internal/describe-value.ts'
import type { MaybePromise } from './internal/maybe-promise.ts'
import { functionOption, wholeNumber } from './internal/options.ts'
import { assertKnownKeys } from './known-keys.ts'
import { type LookupOptions, resolveLookupOptions } from './lookup-options.ts'
import { type Authorize, Resolution, type Reveal } from './resolution.ts'
import type { TenancyRequest } from './tenancy-request.ts'
import { createTenant, ensureTenant, type Tenant, type TenantStatus } from './tenant.ts'
import { TenantContext } from './tenant-context.ts'
import { assertTenantId } from './tenant-id.ts'
import { assertStoreFinds, TenantLookup } from './tenant-lookup.ts'
import type { TenantResolver, TenantResolverFunction } from './tenant-resolver.ts'
import {
  createTenantScope,
  isTenantScope,
  type ScopeDetails,
  type TenantScope,
} from './tenant-scope.ts'
import { matchesSelector, type TenantSelector, type TenantStore } from './tenant-store.ts'

export interface TenancyOptions {
  /** Who exists. */
  readonly store: TenantStore
  /** Where the tenant of a request comes from. Absent: requests carry none, and only `run` and its kin enter a tenant. */
  readonly resolve?: readonly (TenantResolver | TenantResolverFunction)[] | undefined
  /** Who may act in a tenant. Absent: whoever names one; with a forgeable source that is warned of once. */
  readonly authorize?: Authorize | undefined
  /** @defaultValue `'nothing'` */
  readonly reveal?: Reveal | undefined
  readonly lookup?: LookupOptions | undefined
}

export interface RunOptions extends ScopeDetails {
  /** The states in which the tenant may be entered. @defaultValue `['active']` */
  readonly status?: readonly TenantStatus[] | undefined
  /** What names the tenant here, for `scope.source`: adapters say it. @defaultValue `'run'` */
  readonly source?: string | undefined
}

export interface ForEachOptions {
  /** Tenants at one time. @defaultValue `8` */
  readonly concurrency?: number | undefined
  /** `'stop'`: start no more tenants after a failure; `'continue'`: run all. Either way a failure rejects at the end. @defaultValue `'stop'` */
  readonly onError?: 'stop' | 'continue' | undefined
}

/** What became of one tenant in a `forEach`. */
export type ForEachResult<T> =
  | { readonly tenantId: string; readonly ok: true; readonly value: T }
  | { readonly tenantId: string; readonly ok: false; readonly error: unknown }

/** Rejection of `forEach`: `results` holds the outcome of every tenant that was started, in the order of the store. */
export class ForEachError<T = unknown> extends TenancyError<'ERR_TENANCY_FOREACH_FAILED'> {
  readonly results: readonly ForEachResult<T>[]

  constructor(results: readonly ForEachResult<T>[], outage?: unknown) {
    const failed = results.filter((result) => !result.ok)
    const first = failed[0]
    super(
      'ERR_TENANCY_FOREACH_FAILED',
      `${failed.length} of ${results.length} tenants failed, first ${first?.tenantId ?? 'none'}.${
        outage === undefined ? '' : ' The store could not list the rest.'
      }`,
      { cause: outage ?? (first?.ok === false ? first.error : undefined) },
    )
    this.results = results
  }
}

/** Everything a process needs to act for tenants: who exists, who is asked for, who is active. Made by {@link createTenancy}. */
export class Tenancy {
  /** The context; `run`, `current` and `require` of the tenancy act on it. */
  readonly context: TenantContext
  readonly events: TenancyEventHub
  /** The look-up cache in front of the store. */
  readonly lookup: TenantLookup
  /** Headers that the configured sources read, for `Vary`. */
  readonly vary: readonly string[]
  /** The declared default tenant. */
  readonly fallbackTenantId: string | undefined
  /** Forgeable sources that no `authorize` guards. Anything in here is a finding for `doctor`. */
  readonly unverifiedSources: readonly string[]
  readonly #store: TenantStore
  readonly #resolution: Resolution
  readonly #closers = new Set<() => Promise<void> | void>()
  readonly #watch: Promise<AsyncDisposable | undefined>
  #closing: Promise<void> | undefined
  #closed = false

  constructor(options: TenancyOptions) {
    assertKnownKeys('createTenancy', options, ['store', 'resolve', 'authorize', 'reveal', 'lookup'])
    const { store, authorize, reveal = 'nothing' } = options
    functionOption('store.findById', store?.findById)
    if (authorize !== undefined) functionOption('authorize', authorize)
    if (reveal !== 'nothing' && reveal !== 'status')
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `reveal must be 'nothing' or 'status', got ${describeValue(reveal)}.`,
      )
    const lookupOptions = resolveLookupOptions(options.lookup)
    const sources = options.resolve ?? []
    if (!Array.isArray(sources))
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `resolve must be a list of resolvers, got ${describeValue(sources)}.`,
      )
    const resolvers = sources.map(namedResolver)
    assertResolvers(resolvers, store)
    this.fallbackTenantId = resolvers.at(-1)?.fallbackTenantId
    this.vary = [...new Set(resolvers.flatMap((resolver) => resolver.vary))]
    this.unverifiedSources =
      authorize === undefined
        ? resolvers
            .filter((resolver) => resolver.forgeable !== false)
            .map((resolver) => resolver.name)
        : []
    this.context = new TenantContext()
    this.events = new TenancyEventHub()
    this.#store = withDeclaredDefault(store, this.fallbackTenantId)
    const outside = <T>(fn: () => T): T => this.context.outside(fn)
    this.lookup = new TenantLookup(this.#store, lookupOptions, this.events, outside)
    this.#resolution = new Resolution({
      owner: this.context,
      resolvers,
      lookup: this.lookup,
      events: this.events,
      authorize,
      reveal,
    })
    this.#watch = outside(async () => {
      const watch = await store.watch?.((id) => this.lookup.invalidate(id))
      // What was fetched while nobody watched may have changed unseen.
      if (watch !== undefined && !this.lookup.idle) this.lookup.invalidate('*')
      return watch
    })
    // Whoever awaits ready() hears of it; without watch, cached tenants still expire by age.
    this.#watch.catch((error: unknown) =>
      this.events.emit('store:failed', { error, servedStale: false }),
    )
    if (this.unverifiedSources.length > 0)
      process.emitWarning(
        `Any client can enter any tenant: ${this.unverifiedSources.join(', ')} can be forged and there is no authorize function.`,
        { code: 'PARTYWALL_UNVERIFIED_SOURCE' },
      )
  }

  /**
   * Resolves when the store answers and pushes its changes.
   *
   * @throws {TenancyError} `ERR_TENANCY_STORE_UNAVAILABLE` by rejection.
   */
  async ready(): Promise<void> {
    try {
      await this.#watch
    } catch (cause) {
      throw new TenancyError(
        'ERR_TENANCY_STORE_UNAVAILABLE',
        'The tenant store cannot be watched.',
        { cause },
      )
    }
  }

  /** Adds a listener and returns the function that removes it. See `TenancyEvents`. */
  on<E extends TenancyEventName>(name: E, listener: TenancyEventListener<E>): () => void {
    return this.events.on(name, listener)
  }

  /**
   * Finds the scope of a request, without entering it: `undefined` if it names no tenant and there is no default one. For host adapters, which then
   * call `run(scope, next)`. Answered without a promise whenever possible.
   *
   * @throws {TenancyError} by throw or rejection, with the status to answer: any `ERR_TENANCY_IDENTIFIER_*`, `_HOST_INVALID`, `_REQUEST_TARGET_INVALID`, `_SOURCES_DISAGREE`,
   * `_TOKEN_INVALID`, `_TENANT_*`, `_STORE_*`, `_RESOLVER_FAILED`, `_CLOSED`.
   */
  resolve(request: TenancyRequest, details?: ScopeDetails): MaybePromise<TenantScope | undefined> {
    this.#assertOpen()
    return this.#resolution.resolve(request, details)
  }

  /**
   * Runs `fn` in a tenant. With a scope, at once, and returns what `fn` returns; with an id, after the tenant was found.
   *
   * The tenant is active in everything that `fn` starts, and gone when it returns. Entering the same tenant again is allowed.
   *
   * @throws {TenancyError} `ERR_TENANCY_CONTEXT_LOCKED` if another tenant is active, `ERR_TENANCY_TENANT_UNKNOWN`, `ERR_TENANCY_TENANT_SUSPENDED`,
   * `ERR_TENANCY_IDENTIFIER_INVALID`, `ERR_TENANCY_STORE_*`, `ERR_TENANCY_CLOSED`. With an id always by rejection.
   */
  run<T>(scope: TenantScope, fn: (scope: TenantScope) => T): T
  run<T>(tenantId: string, fn: (scope: TenantScope) => T, options?: RunOptions): Promise<Awaited<T>>
  run<T>(
    target: TenantScope | string,
    fn: (scope: TenantScope) => T,
    options?: RunOptions,
  ): T | Promise<Awaited<T>> {
    if (isTenantScope(target)) {
      this.#assertOpen()
      return this.context.run(target, fn)
    }
    return this.#runById(target, fn, options)
  }

  async #runById<T>(
    tenantId: string,
    fn: (scope: TenantScope) => T,
    options?: RunOptions,
  ): Promise<Awaited<T>> {
    // Before the look-up: a locked context must not even ask.
    const active = this.current()
    if (active !== undefined && active.tenant.id !== tenantId)
      throw new TenancyError(
        'ERR_TENANCY_CONTEXT_LOCKED',
        `Tenant ${active.tenant.id} is active, so ${describeValue(tenantId)} cannot be entered.`,
      )
    const tenant = await this.#enterable(tenantId, options)
    // Who acts, and behind whom, must not get lost for the audit log by entering the tenant once more.
    const details = { ...pickActor(active), ...options }
    const source = options?.source ?? 'run'
    return await this.context.run(createTenantScope(this.context, tenant, source, details), fn)
  }

  /**
   * Leaves the active tenant for another one while `fn` runs. Emits `context:switched` with the reason, for the audit log. Outside of every tenant it acts as `run`.
   *
   * @throws {TenancyError} as `run` does, and `ERR_TENANCY_OPTION_INVALID` without a reason.
   */
  async switch<T>(
    tenantId: string,
    reason: string,
    fn: (scope: TenantScope) => T,
    options?: RunOptions,
  ): Promise<Awaited<T>> {
    assertReason('switch', reason)
    const from = this.current()
    const tenant = await this.#enterable(tenantId, options)
    const to = createTenantScope(this.context, tenant, 'switch', { ...pickActor(from), ...options })
    this.events.emit('context:switched', { from, to, reason })
    return await this.context.replace(to, fn)
  }

  /**
   * Runs `fn` outside of every tenant, by declaration: tenant resources refuse inside it. Emits `context:centralized` with the reason, for the audit log.
   *
   * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` without a reason, `ERR_TENANCY_CLOSED`.
   */
  central<T>(reason: string, fn: () => T): T {
    this.#assertOpen()
    assertReason('central', reason)
    this.events.emit('context:centralized', { from: this.current(), reason })
    return this.context.runCentral(fn)
  }

  /**
   * Runs `fn` once in each selected tenant, each in its own context, several at a time, started in the order of their ids. Not atomic: tenants that succeeded
   * stay so when another fails; repeating it is as safe as `fn` is.
   *
   * Returns the result of every tenant, in the order of their ids.
   *
   * @throws {ForEachError} with the outcome of every tenant that was started if one failed, or if the store failed in between (then `cause` is
   * `ERR_TENANCY_STORE_UNAVAILABLE`). `ERR_TENANCY_CONTEXT_LOCKED` inside a tenant, `ERR_TENANCY_OPTION_INVALID`.
   */
  async forEach<T>(
    selector: TenantSelector,
    fn: (scope: TenantScope) => T,
    options: ForEachOptions = {},
  ): Promise<ForEachResult<Awaited<T>>[]> {
    assertKnownKeys('forEach selector', selector, ['ids', 'tags', 'status', 'isolation'])
    assertKnownKeys('forEach options', options, ['concurrency', 'onError'])
    for (const [name, values] of Object.entries(selector))
      if (values !== undefined) assertList(`selector.${name}`, values)
    const concurrency = wholeNumber('concurrency', options.concurrency ?? 8, 1)
    const { onError = 'stop' } = options
    if (onError !== 'stop' && onError !== 'continue')
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `onError must be 'stop' or 'continue', got ${describeValue(onError)}.`,
      )
    if (this.current() !== undefined)
      throw new TenancyError(
        'ERR_TENANCY_CONTEXT_LOCKED',
        'forEach visits other tenants and cannot start inside one.',
      )
    this.#assertOpen()
    if (selector.ids === undefined) assertStoreFinds(this.#store, 'list', 'forEach without ids')
    const results: ForEachResult<Awaited<T>>[] = []
    const tenants = this.#selected(selector)
    let stopped = false
    let outage: unknown
    const worker = async (): Promise<void> => {
      while (!stopped) {
        let tenant: Tenant
        let index: number
        try {
          const { value, done } = await tenants.next()
          // Another worker may have failed while this one waited for the store.
          if (done === true || stopped) return
          tenant = value
          index = results.push({ tenantId: tenant.id, ok: false, error: undefined }) - 1
        } catch (cause) {
          stopped = true
          outage ??= TenancyError.is(cause)
            ? cause
            : new TenancyError(
                'ERR_TENANCY_STORE_UNAVAILABLE',
                'The tenant store failed in the middle of a list.',
                { cause },
              )
          return
        }
        const tenantId = tenant.id
        const scope = createTenantScope(this.context, tenant, 'forEach')
        try {
          results[index] = { tenantId, ok: true, value: await this.context.run(scope, fn) }
        } catch (error) {
          results[index] = { tenantId, ok: false, error }
          if (onError === 'stop') stopped = true
        }
      }
    }
    await Promise.all(Array.from({ length: concurrency }, worker))
    // What a store throws while it tidies up says nothing about the tenants.
    await tenants.return(undefined).catch(() => undefined)
    if (outage !== undefined || results.some((result) => !result.ok))
      throw new ForEachError(results, outage)
    return results
  }

  /** Picks by the selector once more: a store that overlooks a part of it must not send `fn` into tenants that nobody asked for. */
  async *#selected(selector: TenantSelector): AsyncGenerator<Tenant> {
    if (this.#store.list !== undefined) {
      // A list is read in pages, and a visit may take long: what changed since is looked up before it is entered.
      const changed = new Set<string>()
      const off = this.events.on('tenant:invalidated', ({ tenantId }) => void changed.add(tenantId))
      try {
        for await (const record of this.#store.list(selector)) {
          const listed = ensureTenant(record)
          const stale = changed.has(listed.id) || changed.has('*')
          const tenant = stale ? await this.lookup.find(listed.id) : listed
          if (tenant !== undefined && matchesSelector(tenant, selector)) yield tenant
        }
      } finally {
        off()
      }
      return
    }
    for (const id of [...new Set(selector.ids)].sort()) {
      const tenant = await this.lookup.find(assertTenantId(id))
      if (tenant !== undefined && matchesSelector(tenant, selector)) yield tenant
    }
  }

  /** The active scope, or `undefined` outside of every tenant. */
  current(): TenantScope | undefined {
    return this.context.current()
  }

  /** The active scope. @throws {TenancyError} `ERR_TENANCY_CONTEXT_MISSING`; `ERR_TENANCY_CLOSED` once everything that closes with the tenancy is closed. */
  require(): TenantScope {
    if (this.#closed) throw new TenancyError('ERR_TENANCY_CLOSED', 'The tenancy is closed.')
    return this.context.require()
  }

  /** Binds a function to the context of this moment. For listeners of shared emitters, which otherwise run as whoever emits. */
  bind<A extends unknown[], R>(fn: (...args: A) => R): (...args: A) => R {
    return this.context.bind(fn)
  }

  /** Registers what to close with the tenancy, last registered first. Returns the function that takes it back. */
  onClose(close: () => Promise<void> | void): () => void {
    this.#closers.add(close)
    return () => void this.#closers.delete(close)
  }

  /** Stops watching the store, closes what was registered by `onClose`, and refuses from then on, also if a part of that fails. Repeating it is harmless. Never touches what others created. */
  close(): Promise<void> {
    // Later by a tick, so that a listener of tenancy:closed that calls close() finds it under way.
    return (this.#closing ??= Promise.resolve().then(() => this.#close()))
  }

  async #close(): Promise<void> {
    this.events.emit('tenancy:closed', {})
    const failures: unknown[] = []
    const unwatch = async (): Promise<void> => {
      const watch = await this.#watch.catch(() => undefined)
      await watch?.[Symbol.asyncDispose]()
    }
    for (const close of [unwatch, ...[...this.#closers].reverse()]) {
      try {
        await close()
      } catch (error) {
        failures.push(error)
      }
    }
    this.#closed = true
    this.lookup.clear()
    if (failures.length > 0)
      throw new AggregateError(failures, 'Closing the tenancy failed in part.')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #enterable(tenantId: string, options: RunOptions = {}): Promise<Tenant> {
    this.#assertOpen()
    assertKnownKeys('run options', options, [
      'status',
      'actor',
      'impersonator',
      'requestId',
      'source',
    ])
    const { status = ['active'] } = options
    assertList('status', status)
    const tenant = await this.lookup.find(assertTenantId(tenantId))
    if (tenant === undefined)
      throw new TenancyError('ERR_TENANCY_TENANT_UNKNOWN', `There is no tenant ${tenantId}.`, {
        tenantId,
      })
    if (!status.includes(tenant.status))
      throw new TenancyError(
        'ERR_TENANCY_TENANT_SUSPENDED',
        `Tenant ${tenantId} is ${tenant.status}.`,
        { tenantId },
      )
    return tenant
  }

  #assertOpen(): void {
    if (this.#closing !== undefined)
      throw new TenancyError('ERR_TENANCY_CLOSED', 'The tenancy is closed.')
  }
}

/**
 * Creates the tenancy of a process.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` for options that are wrong or unknown, `ERR_TENANCY_CORE_DUPLICATED`.
 */
export function createTenancy(options: TenancyOptions): Tenancy {
  return new Tenancy(options)
}

function namedResolver(resolver: TenantResolver | TenantResolverFunction): TenantResolver {
  if (typeof resolver !== 'function') return resolver
  return {
    name: resolver.name || 'custom',
    forgeable: true,
    vary: [],
    identify: (request) => resolver(request),
  }
}

function assertResolvers(resolvers: readonly TenantResolver[], store: TenantStore): void {
  for (const [index, resolver] of resolvers.entries()) {
    functionOption(`resolve[${index}].identify`, resolver?.identify)
    if (resolver.fallbackTenantId !== undefined && index !== resolvers.length - 1)
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        'fallback() must be the last resolver, and the only one of its kind.',
      )
    if (resolver.needsDomains === true) assertStoreFinds(store, 'findByDomain', 'domain()')
    if (
      resolver.key !== undefined &&
      resolvers.findIndex(({ key }) => key === resolver.key) < index
    )
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `The source ${resolver.key} stands twice in resolve.`,
      )
  }
}

/**
 * `public` is a tenant where it is the declared default and nowhere else: a store may not bring it in, and where it is declared it needs no record, because every
 * Postgres database has a schema of that name.
 */
function withDeclaredDefault(
  store: TenantStore,
  fallbackTenantId: string | undefined,
): TenantStore {
  const declared = fallbackTenantId === 'public' ? createTenant({ id: 'public' }) : undefined
  const findByDomain = store.findByDomain?.bind(store)
  const list = store.list?.bind(store)
  return {
    async findById(id, options) {
      if (id !== 'public') return store.findById(id, options)
      return declared === undefined ? undefined : ((await store.findById(id, options)) ?? declared)
    },
    ...(findByDomain === undefined ? {} : { findByDomain }),
    ...(list === undefined
      ? {}
      : {
          async *list(selector) {
            for await (const tenant of list(selector))
              if (tenant.id !== 'public' || declared !== undefined) yield tenant
          },
        }),
  }
}

/** A string instead of a list would be searched for parts: `ids: 'acme-2'` would also pick `acme`. */
function assertList(name: string, values: unknown): void {
  if (!Array.isArray(values) || !values.every((value) => typeof value === 'string'))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `${name} must be a list of strings, got ${describeValue(values)}.`,
    )
}

function assertReason(method: string, reason: unknown): void {
  if (typeof reason !== 'string' || reason.trim() === '')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `${method}() needs a reason for the audit log.`,
    )
}

function pickActor(scope: TenantScope | undefined): ScopeDetails {
  return scope === undefined
    ? {}
    : { actor: scope.actor, impersonator: scope.impersonator, requestId: scope.requestId }
}
