import type { Tenant } from '@partywall/core'
import type pg from 'pg'
import {
  assertCanDistribute,
  assertEngine,
  createSchemaSql,
  type DatabaseEngine,
  engineErrorOf,
} from './internal/citus.ts'
import { assertMarked, findSchema, schemaLockSql, schemaMark } from './internal/schema-mark.ts'
import { withTransaction } from './internal/with-transaction.ts'
import { quoteIdentifier, schemaOf } from './search-path.ts'

export interface CreateTenantSchemaOptions {
  /** `'citus'`: the schema is distributed, so that all its tables lie on one of the servers of the cluster (docs/guide/citus.md). @defaultValue `'postgres'` */
  readonly engine?: DatabaseEngine | undefined
}

/**
 * Creates the schema of a tenant and marks it as that tenant's. Safe to repeat and to race: the second call finds the schema and changes nothing. Returns whether it was created now.
 *
 * The schema `public` of the default tenant is used as it is.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user may create schemas.
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a schema of that name exists and is not the tenant's; `ERR_TENANCY_ENGINE_UNSUPPORTED` if the database cannot distribute schemas and is to.
 */
export async function createTenantSchema(
  central: pg.Pool,
  tenant: Tenant,
  { engine = 'postgres' }: CreateTenantSchemaOptions = {},
): Promise<boolean> {
  assertEngine(engine)
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
    await assertCanDistribute(client, engine, tenant)
    const name = quoteIdentifier(schema)
    await client.query(
      `${createSchemaSql(name, engine)}; comment on schema ${name} is '${schemaMark(tenant.id)}'`,
    )
    return true
  }).catch((error: unknown) => {
    throw engineErrorOf(error, tenant)
  })
}
