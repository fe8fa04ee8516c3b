import { TenancyError } from '@partywall/core'
import type pg from 'pg'

/** Anything with the promise form of `query`. */
export interface Queryable {
  query: pg.PoolClient['query']
}

export interface ShadowCheck {
  /** The schemas of tenants. */
  readonly schemas: readonly string[]
  readonly sharedSchemas: readonly string[]
  /** Tables that every tenant should have, whether or not one has them yet. */
  readonly expected?: readonly string[] | undefined
}

/** A table name that stands where it must not: in a shared schema, and in a tenant's or in what a tenant is to have. */
export interface ShadowedTable {
  readonly table: string
  readonly sharedSchema: string
}

/** Finds tables, views and sequences of shared schemas that tenants have, or are to have, too. One query over pg_class, whatever the number of tenants. */
export async function findShadowedTables(
  database: Queryable,
  { schemas, sharedSchemas, expected = [] }: ShadowCheck,
): Promise<ShadowedTable[]> {
  const { rows } = await database.query<ShadowedTable>(
    `select distinct shared.relname as table, n.nspname as "sharedSchema"
     from pg_catalog.pg_class shared join pg_catalog.pg_namespace n on n.oid = shared.relnamespace
     where n.nspname = any($1) and shared.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
       and (shared.relname = any($3) or exists (
         select from pg_catalog.pg_class own join pg_catalog.pg_namespace tenant on tenant.oid = own.relnamespace
         where own.relname = shared.relname and own.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
           and tenant.nspname = any($2) and tenant.nspname <> n.nspname))
     order by 2, 1`,
    [sharedSchemas, schemas, expected],
  )
  return rows
}

/**
 * Refuses a database in which a table exists both in a shared schema and with tenants: a tenant that lacks it, half migrated say, would read and write the shared one without an error.
 *
 * @param central - a pool outside of every tenant.
 * @throws {TenancyError} `ERR_TENANCY_SHARED_TABLE_SHADOWED`.
 */
export async function assertNoShadowedTables(central: pg.Pool, check: ShadowCheck): Promise<void> {
  const found = await findShadowedTables(central, check)
  if (found.length > 0) throw shadowError(found)
}

/** @internal */
export function shadowError(found: readonly ShadowedTable[]): TenancyError {
  const names = found.map(({ table, sharedSchema }) => `${sharedSchema}.${table}`)
  // A ledger in a shared schema says that the schema was a tenant's: `public`, as the default tenant.
  const ledger = found.find(({ table }) => table === 'partywall_migrations')
  return new TenancyError(
    'ERR_TENANCY_SHARED_TABLE_SHADOWED',
    `In a shared schema and in tenants: ${names.slice(0, 10).join(', ')}${names.length > 10 ? ` and ${names.length - 10} more` : ''}.`,
    ledger === undefined
      ? {}
      : {
          hint: `The schema ${ledger.sharedSchema} holds the migrations of a tenant: it was the default tenant. Take it out of sharedSchemas, or drop what that tenant left there.`,
        },
  )
}
