import { TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { withTransaction } from './internal/with-transaction.ts'
import { quoteIdentifier, schemaOf } from './search-path.ts'

/**
 * Creates the schema of a tenant and marks it as that tenant's. Safe to repeat and to race: the second call finds the schema and changes nothing. Returns whether it was created now.
 *
 * The schema `public` of the default tenant is used as it is.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user may create schemas.
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a schema of that name exists and is not the tenant's.
 */
export async function createTenantSchema(central: pg.Pool, tenant: Tenant): Promise<boolean> {
  const schema = schemaOf(tenant)
  if (schema === 'public') return false
  const mark = markOf(tenant.id)
  return withTransaction(central, async (client) => {
    // CREATE SCHEMA IF NOT EXISTS alone fails with 23505 when two of them race.
    await client.query(
      "select pg_advisory_xact_lock(hashtextextended('partywall:schema:' || $1, 0))",
      [schema],
    )
    const { rows } = await client.query<{ mark: string | null }>(
      "select obj_description(oid, 'pg_namespace') as mark from pg_namespace where nspname = $1",
      [schema],
    )
    const [found] = rows
    if (found?.mark === mark) return false
    if (found !== undefined)
      throw new TenancyError(
        'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
        `The schema "${schema}" exists and is not that of tenant ${tenant.id}.`,
        {
          tenantId: tenant.id,
          hint: `If it is, say so once: comment on schema ${quoteIdentifier(schema)} is '${mark}'.`,
        },
      )
    await client.query(
      `create schema ${quoteIdentifier(schema)}; comment on schema ${quoteIdentifier(schema)} is '${mark}'`,
    )
    return true
  })
}

/** The comment that says whose a schema is. An id cannot hold a quote. */
function markOf(tenantId: string): string {
  return `partywall tenant ${tenantId}`
}
