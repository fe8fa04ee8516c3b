import { physicalName, TenancyError, type Tenant } from '@partywall/core'
import type { TenantLogin } from '../cluster-options.ts'
import {
  assertNotShared,
  quoteIdentifier,
  type SchemaNames,
  schemaOf,
  searchPathOf,
} from '../search-path.ts'
import { type DatabaseTarget, targetOf } from './database-target.ts'
import { type Prefix, type ScopeValues, scopePrefix } from './scope-statement.ts'

/** What enters a tenant. */
export interface TenantPrefix {
  /** For the first statement of a checkout: refused if the session has had temporary objects, which are then an earlier tenant's. */
  readonly first: Prefix
  /** The same on a connection that had some and was cleaned. */
  readonly firstAgain: Prefix
  /** For every other statement: temporary objects are the tenant's own. */
  readonly next: Prefix
  /** Inside of an open transaction, whose scope may have ended with the one that it was chained to. Asks nothing: what is there is the transaction's own. */
  readonly within: Prefix
  /** The database that the tenant is in; `undefined` for the pool's own. */
  readonly target: DatabaseTarget | undefined
}

/** Whether each tenant has a database role of its own that its statements run as. */
export type TenantRoleMode = 'none' | 'per-tenant'

/** A limit of time, in milliseconds: one for all, or what a function says for each tenant. */
export type TenantTimeout = number | 'none' | ((tenant: Tenant) => number | 'none')

export interface TenantPrefixOptions extends Required<SchemaNames> {
  readonly role: TenantRoleMode
  /** Behind a pooler the server keeps no statements, and each statement may come to another session. */
  readonly pooled: boolean
  readonly statementTimeoutMs: TenantTimeout
  readonly lockTimeoutMs: TenantTimeout
  /** @defaultValue `'shared'` */
  readonly login?: TenantLogin
}

/** Makes the bytes that enter a tenant, and keeps them: they are the same for every statement of the tenant. */
export class TenantPrefixes {
  readonly #options: TenantPrefixOptions
  // A tenant is immutable; a changed one is another object, and the old one is collected with its bytes.
  readonly #bytes = new WeakMap<Tenant, TenantPrefix>()

  constructor(options: TenantPrefixOptions) {
    this.#options = options
  }

  /** @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if its schema is a shared one, `ERR_TENANCY_OPTION_INVALID` for names that Postgres would not keep and for limits that are none. */
  bytesFor(tenant: Tenant): TenantPrefix {
    const known = this.#bytes.get(tenant)
    if (known !== undefined) return known
    const { sharedSchemas, pooled } = this.#options
    assertNotShared(tenant, sharedSchemas)
    const values = this.valuesFor(tenant)
    // Behind a pooler every statement may be the first that its session sees of the pool.
    const firstAgain = scopePrefix('firstAgain', values, !pooled)
    const within = scopePrefix('next', values, !pooled)
    const bytes: TenantPrefix = {
      first: pooled ? firstAgain : scopePrefix('first', values, true),
      firstAgain,
      next: pooled ? firstAgain : within,
      within,
      target: targetOf(tenant, this.#hasLogin(tenant)),
    }
    this.#bytes.set(tenant, bytes)
    return bytes
  }

  #hasLogin(tenant: Tenant): boolean {
    const { login = 'shared' } = this.#options
    return (typeof login === 'function' ? login(tenant) : login) === 'per-tenant'
  }

  /** The values themselves, for a session that is one tenant's alone. Throws as `bytesFor` does. */
  valuesFor(tenant: Tenant): ScopeValues {
    const { role, statementTimeoutMs, lockTimeoutMs } = this.#options
    return {
      // Who logs in as the tenant need not become it.
      role:
        role === 'per-tenant' && !this.#hasLogin(tenant)
          ? physicalName('role', tenant.id)
          : undefined,
      path: searchPathOf(tenant, this.#options),
      tenantId: tenant.isolation === 'row' ? tenant.id : undefined,
      statementTimeoutMs: limitFor(tenant, 'statementTimeoutMs', statementTimeoutMs),
      lockTimeoutMs: limitFor(tenant, 'lockTimeoutMs', lockTimeoutMs),
      schema: quoteIdentifier(schemaOf(tenant, this.#options)),
    }
  }
}

function limitFor(tenant: Tenant, option: string, limit: TenantTimeout): number | undefined {
  const value = typeof limit === 'function' ? limit(tenant) : limit
  if (value === 'none') return undefined
  // The largest that Postgres takes.
  if (Number.isInteger(value) && value > 0 && value <= 2_147_483_647) return value
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} of tenant ${tenant.id} must be a whole number of milliseconds of at least 1, or 'none', got ${String(value)}.`,
    { tenantId: tenant.id },
  )
}
