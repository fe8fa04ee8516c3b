/**
 * The catalogue of error codes. A code is API and never changes its meaning; a message may change.
 * `docs/reference/errors.md` has one row for each code, and a test compares the two.
 *
 * - `status`: the HTTP status that a host adapter answers with.
 * - `retryable`: the same call may succeed later without a change by the caller.
 * - `hint`: what to do about it; an error may carry a more precise one.
 */
export const ERRORS = {
  ERR_TENANCY_CLOSED: {
    status: 503,
    retryable: false,
    hint: 'The tenancy was closed. Create a new one, or close it later.',
  },
  ERR_TENANCY_CLUSTER_UNKNOWN: {
    status: 500,
    retryable: false,
    hint: "Name the cluster in the option clusters of the pool, or correct placement.cluster of the tenant's record.",
  },
  ERR_TENANCY_CONTEXT_LOCKED: {
    status: 500,
    retryable: false,
    hint: 'Leave the active tenant first, or use tenancy.switch(id, reason, fn), which is audited.',
  },
  ERR_TENANCY_CONTEXT_MISSING: {
    status: 500,
    retryable: false,
    hint: 'Run the code inside tenancy.run(id, fn), which is wall.run(id, fn) with the package partywall, or behind the middleware. Callbacks of event emitters need tenancy.bind(fn).',
  },
  ERR_TENANCY_CORE_DUPLICATED: {
    status: 500,
    retryable: false,
    hint: 'Two copies of @partywall/core are loaded. Deduplicate it (npm dedupe, pnpm dedupe), so that every package shares one tenant context.',
  },
  ERR_TENANCY_DATABASE_UNAVAILABLE: {
    status: 503,
    retryable: true,
    hint: 'Check that the database server runs and that the address and the credentials are right.',
  },
  ERR_TENANCY_ENGINE_UNSUPPORTED: {
    status: 500,
    retryable: false,
    hint: 'Install Citus 12 or newer in this database, and connect to its coordinator; see docs/guide/citus.md.',
  },
  ERR_TENANCY_FOREACH_FAILED: {
    status: 500,
    retryable: false,
    hint: 'See results on the error for the outcome of every tenant.',
  },
  ERR_TENANCY_HOST_INVALID: {
    status: 400,
    retryable: false,
    hint: 'Send one well-formed Host header: a DNS name or an IP address, and at most one port.',
  },
  ERR_TENANCY_IDENTIFIER_AMBIGUOUS: {
    status: 400,
    retryable: false,
    hint: 'Name the tenant once in each source.',
  },
  ERR_TENANCY_IDENTIFIER_INVALID: {
    status: 400,
    retryable: false,
    hint: 'A tenant id is a DNS label: 1 to 63 characters of a-z, 0-9 and -, with no - at either end.',
  },
  ERR_TENANCY_IDENTIFIER_MISSING: {
    status: 400,
    retryable: false,
    hint: 'Name a tenant by one of the configured sources.',
  },
  ERR_TENANCY_ISOLATION_UNSUPPORTED: {
    status: 500,
    retryable: false,
    hint: 'This resource cannot isolate the tenant in the way its record demands.',
  },
  ERR_TENANCY_JOB_INVALID: {
    status: 400,
    retryable: false,
    hint: 'Check the job name, id, data and options against the documentation of TenantScheduler.',
  },
  ERR_TENANCY_JOB_QUEUE_FULL: {
    status: 503,
    retryable: true,
    hint: 'The tenant has too many unfinished jobs. Enqueue more slowly, or raise maxJobsPerTenant.',
  },
  ERR_TENANCY_JOB_UNKNOWN: {
    status: 500,
    retryable: false,
    hint: 'Define the job with define(name, handler) before it is enqueued or scheduled.',
  },
  ERR_TENANCY_CACHE_KEY_INVALID: {
    status: 400,
    retryable: false,
    hint: 'A cache key is a non-empty string of at most 65,536 bytes.',
  },
  ERR_TENANCY_CACHE_VALUE_INVALID: {
    status: 400,
    retryable: false,
    hint: 'A cached value must survive JSON; increment works on whole numbers only.',
  },
  ERR_TENANCY_MIGRATION_CHANGED: {
    status: 409,
    retryable: false,
    hint: 'A migration that was applied is never edited; add a new one instead.',
  },
  ERR_TENANCY_MIGRATION_FAILED: {
    status: 500,
    retryable: false,
    hint: 'The migration was rolled back and the tenant is as it was before. See cause for the error of the server.',
  },
  ERR_TENANCY_OPTION_INVALID: {
    status: 500,
    retryable: false,
    hint: 'Correct the option. The reference (docs/reference in the repository) lists them all.',
  },
  ERR_TENANCY_PEER_MISSING: {
    status: 500,
    retryable: false,
    hint: 'Install the package that is named in the message.',
  },
  ERR_TENANCY_PHYSICAL_NAME_CONFLICT: {
    status: 409,
    retryable: false,
    hint: 'Choose another tenant id.',
  },
  ERR_TENANCY_PLUGIN_ACTION_UNKNOWN: {
    status: 500,
    retryable: false,
    hint: 'Check the name of the action against those that the plugin defines.',
  },
  ERR_TENANCY_PLUGIN_CALL_LOOP: {
    status: 500,
    retryable: false,
    hint: "Plugins call each other, or answer each other's events, without end. Break the circle.",
  },
  ERR_TENANCY_PLUGIN_CONFLICT: {
    status: 500,
    retryable: false,
    hint: 'Register each version of a plugin once.',
  },
  ERR_TENANCY_PLUGIN_UNKNOWN: {
    status: 500,
    retryable: false,
    hint: 'Register the plugin before it is called.',
  },
  ERR_TENANCY_PLUGIN_VERSION_MISSING: {
    status: 503,
    retryable: false,
    hint: "Register the version that the tenant's release pins.",
  },
  ERR_TENANCY_PLUGIN_VERSION_UNPINNED: {
    status: 500,
    retryable: false,
    hint: "Pin a version of the plugin in the tenant's release, or register one version only.",
  },
  ERR_TENANCY_POOL_EXHAUSTED: {
    status: 503,
    retryable: true,
    hint: 'The tenant has all the connections that it may have. Try again later, or raise maxPerTenant or max.',
  },
  ERR_TENANCY_POOLER_UNSAFE: {
    status: 500,
    retryable: false,
    hint: "Behind PgBouncer in transaction mode: pooler: 'transaction', and alter role ... set search_path = '' for the login of the pool.",
  },
  ERR_TENANCY_REDIS_COMMAND_REFUSED: {
    status: 500,
    retryable: false,
    hint: 'The command could reach keys of other tenants. Use redis.central for work on the whole server.',
  },
  ERR_TENANCY_REDIS_UNAVAILABLE: {
    status: 503,
    retryable: true,
    hint: 'Check that the Redis server runs and that the address and the credentials are right.',
  },
  ERR_TENANCY_REQUEST_TARGET_INVALID: {
    status: 400,
    retryable: false,
    hint: 'Send an origin-form request target without empty, dot or encoded segments before the tenant.',
  },
  ERR_TENANCY_RESOLVER_FAILED: {
    status: 500,
    retryable: false,
    hint: 'A resolver or the authorize function threw. See cause.',
  },
  ERR_TENANCY_ROW_ISOLATION_FAILED: {
    status: 500,
    retryable: false,
    hint: 'Nothing was changed. Do what the findings say, or see cause for the error of the server.',
  },
  ERR_TENANCY_ROW_ISOLATION_MISSING: {
    status: 500,
    retryable: false,
    hint: 'Call applyRowIsolation, or apply the migration of a new plan; what it cannot do, its findings name.',
  },
  ERR_TENANCY_SCHEMA_MISSING: {
    status: 500,
    retryable: false,
    hint: "Create the tenant's schema first; provisioning does it.",
  },
  ERR_TENANCY_SCHEMA_REFERENCED: {
    status: 409,
    retryable: false,
    hint: 'Drop what the message names, or make it independent of the schema, then repeat the call.',
  },
  ERR_TENANCY_SCHEMA_UNCLONABLE: {
    status: 409,
    retryable: false,
    hint: 'A clone would leave out or change what the message names, so nothing was done.',
  },
  ERR_TENANCY_SCOPE_FAILED: {
    status: 500,
    retryable: false,
    hint: 'The database refused to enter the tenant, so the statement was not run. See cause.',
  },
  ERR_TENANCY_SHARED_TABLE_SHADOWED: {
    status: 500,
    retryable: false,
    hint: 'Rename the table, or drop it from the shared schema: a tenant without it would silently read the shared one.',
  },
  ERR_TENANCY_SOURCES_DISAGREE: {
    status: 400,
    retryable: false,
    hint: 'Two sources of the request name different tenants. Send one, or make them agree.',
  },
  ERR_TENANCY_STATEMENT_REFUSED: {
    status: 500,
    retryable: false,
    hint: 'The statement does not work on a connection that all tenants share. For LISTEN there is pool.listen(channel, listener).',
  },
  ERR_TENANCY_STORE_BUSY: {
    status: 503,
    retryable: true,
    hint: 'Too many look-ups of unknown tenants at once. Tenants in use are not affected; try again later.',
  },
  ERR_TENANCY_STORE_UNAVAILABLE: {
    status: 503,
    retryable: true,
    hint: 'The tenant store did not answer and the tenant is not in the look-up cache. Try again later.',
  },
  ERR_TENANCY_TENANT_CHANGED: {
    status: 409,
    retryable: true,
    hint: 'Somebody else changed the tenant meanwhile. Look at it again, and decide anew.',
  },
  ERR_TENANCY_TENANT_EXISTS: {
    status: 409,
    retryable: false,
    hint: 'A tenant id is never given out twice, not even after the tenant was deleted.',
  },
  ERR_TENANCY_TENANT_FORBIDDEN: {
    status: 403,
    retryable: false,
    hint: 'The authorize function refused this caller for this tenant.',
  },
  ERR_TENANCY_TENANT_INVALID: {
    status: 400,
    retryable: false,
    hint: 'Check the tenant record against the documentation of TenantInput.',
  },
  ERR_TENANCY_TENANT_SUSPENDED: {
    status: 503,
    retryable: true,
    hint: 'The tenant exists but is not active.',
  },
  ERR_TENANCY_TENANT_UNKNOWN: {
    status: 404,
    retryable: false,
    hint: 'No tenant of this id may be used here.',
  },
  ERR_TENANCY_TOKEN_INVALID: {
    status: 401,
    retryable: false,
    hint: 'Send a valid token whose tenant claim is one string.',
  },
  ERR_TENANCY_TRANSACTION_ABORTED: {
    status: 500,
    retryable: false,
    hint: 'A statement of the transaction had failed and was ignored; nothing was saved.',
  },
  ERR_TENANCY_UNIT_UNFINISHED: {
    status: 500,
    retryable: false,
    hint: 'Await every query before the client is released or the transaction ends.',
  },
  ERR_TENANCY_USE_AFTER_RELEASE: {
    status: 500,
    retryable: false,
    hint: 'Check out a client again; a client belongs to one checkout and is gone after release().',
  },
} as const satisfies Record<
  `ERR_TENANCY_${string}`,
  { readonly status: number; readonly retryable: boolean; readonly hint: string }
>

/** A code of the catalogue. */
export type TenancyErrorCode = keyof typeof ERRORS

export interface TenancyErrorOptions {
  readonly cause?: unknown
  /** A remedy more precise than the one of the catalogue. */
  readonly hint?: string | undefined
  /** The tenant that the error is about; told to operators, never to clients. */
  readonly tenantId?: string | undefined
}

// Shared by every copy of this package in the process, so that `TenancyError.is` works across copies.
const brand: unique symbol = Symbol.for('partywall.error') as never

/**
 * Every error that Partywall throws by intent.
 *
 * Recognise it with `TenancyError.is(error, code?)`: `instanceof` fails when two copies of the
 * package are loaded. `status`, `retryable` and `hint` come from the catalogue, {@link ERRORS}.
 */
export class TenancyError<C extends TenancyErrorCode = TenancyErrorCode> extends Error {
  override readonly name = 'TenancyError'
  readonly code: C
  /** HTTP status for this error. */
  readonly status: number
  /** Whether the same call may succeed later. */
  readonly retryable: boolean
  /** What to do about it. */
  readonly hint: string
  declare readonly tenantId?: string

  constructor(code: C, message: string, options: TenancyErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.code = code
    this.status = ERRORS[code].status
    this.retryable = ERRORS[code].retryable
    this.hint = options.hint ?? ERRORS[code].hint
    if (options.tenantId !== undefined) this.tenantId = options.tenantId
    Object.defineProperty(this, brand, { value: true })
  }

  /** Tells whether a value is a TenancyError, of whatever copy of this package, and of `code` if one is given. */
  static is<K extends TenancyErrorCode = TenancyErrorCode>(
    value: unknown,
    code?: K,
  ): value is TenancyError<K> {
    return (
      typeof value === 'object' &&
      value !== null &&
      brand in value &&
      (code === undefined || (value as { code?: unknown }).code === code)
    )
  }
}
