import { TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import {
  beginningLimit,
  droppingMark,
  notTheTenantsDatabase,
  ownDatabaseOf,
  stateOfDatabase,
} from './internal/database-mark.ts'
import { isServerName } from './internal/database-target.ts'
import { schemaMark } from './internal/schema-mark.ts'
import { quoteIdentifier } from './search-path.ts'

export interface CreateTenantDatabaseOptions {
  /** The database to copy; nobody may be connected to it meanwhile. @defaultValue `'template0'`: an empty one */
  readonly template?: string | undefined
  /** Roles that may connect, besides the owner: a gate, or the login of the pool. Given again at each call. @defaultValue `[]` */
  readonly connect?: readonly string[] | undefined
}

export interface DropTenantDatabaseOptions {
  /** The id of the tenant once more: what is dropped is gone. */
  readonly confirm: string
}

/**
 * Creates the database of a tenant with `database` isolation and marks it as that tenant's, by a comment. Nobody may connect but its owner, the user of `central`, and `connect`. Safe to repeat and to race, also after a crash at
 * any instant: the second call finds the database and changes nothing but `connect`. Returns whether it was created now.
 *
 * CREATE DATABASE runs in no transaction. It begins as one that takes no connections; the comment and the rest come in one transaction behind it.
 *
 * @param central - a pool on another database of the same server, directly and not by way of a pooler: `pool.centralOf(tenant.placement.cluster)`. Its user may create databases.
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a database of that name exists and is not the tenant's, or is being dropped; `ERR_TENANCY_ISOLATION_UNSUPPORTED`; `ERR_TENANCY_OPTION_INVALID`.
 */
export async function createTenantDatabase(
  central: pg.Pool,
  tenant: Tenant,
  { template = 'template0', connect = [] }: CreateTenantDatabaseOptions = {},
): Promise<boolean> {
  const database = ownDatabaseOf(tenant)
  assertNames('template', [template])
  assertNames('connect', connect)
  const name = quoteIdentifier(database)
  const limit = beginningLimit(tenant.id)
  return locked(central, database, async (client) => {
    if ((await stateOfDatabase(client, database, tenant)) === undefined)
      await client
        .query(
          `create database ${name} template ${quoteIdentifier(template)} allow_connections false connection limit ${limit}`,
        )
        // Somebody else made one, without the lock.
        .catch(unless('42P04', '23505'))
    const state = await stateOfDatabase(client, database, tenant)
    if (state === 'dropping')
      throw new TenancyError(
        'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
        `The database ${JSON.stringify(database)} of tenant ${tenant.id} is being dropped.`,
        { tenantId: tenant.id, hint: 'Repeat dropTenantDatabase first.' },
      )
    if (state !== 'begun' && state !== 'marked') throw notTheTenantsDatabase(database, tenant)
    const statements = connect.map(
      (role) => `grant connect, temporary on database ${name} to ${quoteIdentifier(role)}`,
    )
    if (state === 'begun')
      statements.unshift(
        `comment on database ${name} is '${schemaMark(tenant.id)}'`,
        `revoke all on database ${name} from public`,
        `alter database ${name} allow_connections true connection limit -1`,
      )
    // One text is one transaction.
    if (statements.length > 0) await client.query(statements.join(';\n'))
    return state === 'begun'
  })
}

/**
 * Drops the database of a tenant and all that it holds; sessions in it are ended. Safe to repeat and to race: after a crash the database is there, takes no connections, and the same call goes on. Returns whether it was
 * dropped now.
 *
 * @param central - as in `createTenantDatabase`; its user owns the database.
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` if `confirm` is not the tenant's id; `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if the database is not marked as the tenant's; `ERR_TENANCY_ISOLATION_UNSUPPORTED`.
 */
export async function dropTenantDatabase(
  central: pg.Pool,
  tenant: Tenant,
  { confirm }: DropTenantDatabaseOptions,
): Promise<boolean> {
  if (confirm !== tenant.id)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `confirm must be the id of the tenant whose database is dropped, ${tenant.id}, got ${JSON.stringify(confirm)}.`,
      { tenantId: tenant.id },
    )
  const database = ownDatabaseOf(tenant)
  const name = quoteIdentifier(database)
  return locked(central, database, async (client) => {
    const state = await stateOfDatabase(client, database, tenant)
    if (state === undefined) return false
    if (state === 'foreign') throw notTheTenantsDatabase(database, tenant)
    // Told first: nobody takes a database for sound whose files are going away.
    await client.query(
      `comment on database ${name} is '${droppingMark(tenant.id)}'; alter database ${name} allow_connections false`,
    )
    await client.query(`drop database ${name} with (force)`)
    return true
  })
}

/**
 * One at a time for a database. A lock of the session, because neither statement runs in a transaction; it ends with the connection, whatever happens.
 */
async function locked<T>(
  central: pg.Pool,
  database: string,
  fn: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await central.connect()
  // A checked-out client has no other listener.
  const ignore = (): void => undefined
  client.on('error', ignore)
  let clean = false
  const key = `pg_catalog.hashtextextended('partywall:database:' || $1, 0)`
  try {
    await client.query(`select pg_catalog.pg_advisory_lock(${key})`, [database])
    const result = await fn(client)
    await client.query(`select pg_catalog.pg_advisory_unlock(${key})`, [database])
    clean = true
    return result
  } finally {
    if (clean) client.off('error', ignore)
    client.release(!clean)
  }
}

function assertNames(option: string, names: readonly string[]): void {
  if (Array.isArray(names) && names.every(isServerName)) return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} of createTenantDatabase must be names of 1 to 63 bytes, got ${JSON.stringify(names)}.`,
  )
}

function unless(...codes: string[]): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof Error && 'code' in error && codes.includes(String(error.code))))
      throw error
  }
}
