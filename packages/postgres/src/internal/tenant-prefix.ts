import { TenancyError, type Tenant } from '@partywall/core'
import { quoteIdentifier, schemaOf, searchPathOf } from '../search-path.ts'
import { bindMessage, executeMessage, parseMessage } from './frontend-messages.ts'

const STATEMENT = '__partywall_scope'

/**
 * Enters a tenant for the rest of the implicit transaction. The cast to regnamespace raises 3F000 for a schema that is not there: without it, Postgres would skip the name
 * and let the shared schemas answer. The names of the functions are qualified because the path may still be somebody else's.
 */
const SCOPE_SQL =
  "select pg_catalog.set_config('search_path', $1, true), $2::pg_catalog.regnamespace"

/** Prepares the scope statement; sent once per connection, in front of its first use. */
export const PREPARE_SCOPE: Buffer = parseMessage(STATEMENT, SCOPE_SQL)

/** Makes the bytes that enter a tenant, and keeps them: they are the same for every statement of the tenant. */
export class TenantPrefixes {
  readonly #sharedSchemas: readonly string[]
  // A tenant is immutable; a changed one is another object, and the old one is collected with its bytes.
  readonly #bytes = new WeakMap<Tenant, Buffer>()

  constructor(sharedSchemas: readonly string[]) {
    this.#sharedSchemas = sharedSchemas
  }

  /** @throws {TenancyError} `ERR_TENANCY_ISOLATION_UNSUPPORTED` if the tenant's record asks for another strategy. */
  bytesFor(tenant: Tenant): Buffer {
    const known = this.#bytes.get(tenant)
    if (known !== undefined) return known
    const { cluster, database } = tenant.placement
    if (tenant.isolation !== 'schema' || cluster !== undefined || database !== undefined)
      throw new TenancyError(
        'ERR_TENANCY_ISOLATION_UNSUPPORTED',
        `Tenant ${tenant.id} is placed in ${tenant.isolation === 'schema' ? 'another database' : `a ${tenant.isolation} of its own`}, and this pool serves schemas of one database.`,
        { tenantId: tenant.id },
      )
    const bytes = Buffer.concat([
      bindMessage(STATEMENT, [
        searchPathOf(tenant, this.#sharedSchemas),
        quoteIdentifier(schemaOf(tenant)),
      ]),
      executeMessage(),
    ])
    this.#bytes.set(tenant, bytes)
    return bytes
  }
}
