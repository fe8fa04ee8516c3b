import type { Tenant } from '@partywall/core'
import type pg from 'pg'
import { assertMarked, findSchema, schemaLockSql, schemaMark } from './internal/schema-mark.ts'
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
  return withTransaction(central, async (client) => {
    // CREATE SCHEMA IF NOT EXISTS alone fails with 23505 when two of them race.
    await client.query(schemaLockSql(schema))
    const found = await findSchema(client, schema)
    if (found !== undefined) {
      assertMarked(found, schema, tenant)
      return false
    }
    const name = quoteIdentifier(schema)
    await client.query(
      `create schema ${name}; comment on schema ${name} is '${schemaMark(tenant.id)}'`,
    )
    return true
  })
}
