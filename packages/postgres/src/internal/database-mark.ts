import { createHash } from 'node:crypto'
import { physicalName, TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { quoteIdentifier } from '../search-path.ts'
import { targetOf } from './database-target.ts'
import { schemaMark } from './schema-mark.ts'

/** How far a database has come. */
export type DatabaseState =
  /** Made for this tenant, and not marked yet: the process that made it has stopped, or is about to mark it. */
  | 'begun'
  /** The tenant's. */
  | 'marked'
  /** The tenant's, and somebody has begun to drop it. */
  | 'dropping'
  | 'foreign'

interface FoundDatabase {
  readonly mark: string | null
  readonly connectable: boolean
  readonly limit: number
}

/**
 * The name of the database that is a tenant's alone.
 *
 * @throws {TenancyError} `ERR_TENANCY_ISOLATION_UNSUPPORTED` for a tenant that shares its database with others.
 */
export function ownDatabaseOf(tenant: Tenant): string {
  const database = tenant.isolation === 'database' ? targetOf(tenant)?.database : undefined
  if (database !== undefined) return database
  throw new TenancyError(
    'ERR_TENANCY_ISOLATION_UNSUPPORTED',
    `Tenant ${tenant.id} has no database of its own: its isolation is ${tenant.isolation}.`,
    { tenantId: tenant.id },
  )
}

export function droppingMark(tenantId: string): string {
  return `${schemaMark(tenantId)} (being dropped)`
}

/**
 * A limit of connections that tells a database which was begun for a tenant: CREATE DATABASE writes it down together with the database, while a comment takes a second statement, and a process can stop between the two.
 * From 1,000,000,000 on, where nobody sets a limit.
 */
export function beginningLimit(tenantId: string): number {
  const hash = createHash('sha256').update(physicalName('database', tenantId)).update(tenantId)
  return 1_000_000_000 + (hash.digest().readUInt32BE(0) % 1_000_000_000)
}

/** Looks a database up; `undefined` if there is none. */
export async function stateOfDatabase(
  client: Pick<pg.PoolClient, 'query'>,
  database: string,
  { id }: Tenant,
): Promise<DatabaseState | undefined> {
  const { rows } = await client.query<FoundDatabase>(
    `select pg_catalog.shobj_description(d.oid, 'pg_database') as mark, d.datallowconn as connectable, d.datconnlimit as limit
     from pg_catalog.pg_database d where d.datname = $1`,
    [database],
  )
  const [found] = rows
  if (found === undefined) return undefined
  if (found.mark === schemaMark(id)) return 'marked'
  if (found.mark === droppingMark(id)) return 'dropping'
  const begun = found.mark === null && !found.connectable && found.limit === beginningLimit(id)
  return begun ? 'begun' : 'foreign'
}

export function notTheTenantsDatabase(database: string, { id }: Tenant): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
    `The database ${JSON.stringify(database)} exists and is not that of tenant ${id}.`,
    {
      tenantId: id,
      hint: `If it is, say so once: comment on database ${quoteIdentifier(database)} is '${schemaMark(id)}'.`,
    },
  )
}
