import { TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { quoteIdentifier, schemaOf } from '../search-path.ts'

/** A schema as the server knows it. */
export interface MarkedSchema {
  /** Tells a schema from another one that was made under the same name later. */
  readonly oid: string
  readonly mark: string | null
}

/** In front of the tenant's id, in the comment that says whose a schema is. */
export const MARK_PREFIX = 'partywall tenant '

/** The comment that says whose a schema is. An id cannot hold a quote. */
export function schemaMark(tenantId: string): string {
  return `${MARK_PREFIX}${tenantId}`
}

/** Makes all who create, rename or drop this schema wait for each other until the transaction ends. */
export function schemaLockSql(schema: string): string {
  return `select ${schemaLock(schema, 'pg_advisory_xact_lock')}`
}

/** The call that locks a schema, by one of the functions of its family: those who only read the schema share the lock. */
export function schemaLock(
  schema: string,
  lock:
    | 'pg_advisory_xact_lock'
    | 'pg_advisory_xact_lock_shared'
    | 'pg_try_advisory_xact_lock'
    | 'pg_try_advisory_xact_lock_shared',
): string {
  return `pg_catalog.${lock}(pg_catalog.hashtextextended('partywall:schema:${schema}', 0))`
}

/**
 * The schema of a tenant, if it can be one that holds nothing else.
 *
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` for `public`, which holds extensions and shared tables besides those of a default tenant.
 */
export function ownSchemaOf(tenant: Tenant): string {
  const schema = schemaOf(tenant)
  if (schema !== 'public') return schema
  throw new TenancyError(
    'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
    `The schema "public" is not that of tenant ${tenant.id} alone.`,
    {
      tenantId: tenant.id,
      hint: 'Schema tools work on schemas that belong to one tenant. Change public by hand.',
    },
  )
}

/** Looks a schema up, behind the lock of {@link schemaLockSql}. `undefined` if there is none. */
export async function findSchema(
  client: Pick<pg.PoolClient, 'query'>,
  schema: string,
): Promise<MarkedSchema | undefined> {
  const { rows } = await client.query<MarkedSchema>(
    `select n.oid::text as oid, pg_catalog.obj_description(n.oid, 'pg_namespace') as mark
     from pg_catalog.pg_namespace n where n.nspname = $1`,
    [schema],
  )
  return rows[0]
}

/** @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if the schema is not marked as the tenant's. */
export function assertMarked(found: MarkedSchema, schema: string, tenant: Tenant): void {
  if (found.mark !== schemaMark(tenant.id)) throw notTheTenants(schema, tenant)
}

export function notTheTenants(schema: string, tenant: Tenant): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
    `The schema "${schema}" exists and is not that of tenant ${tenant.id}.`,
    {
      tenantId: tenant.id,
      hint: `If it is, say so once: comment on schema ${quoteIdentifier(schema)} is '${schemaMark(tenant.id)}'.`,
    },
  )
}
