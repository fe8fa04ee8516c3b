import { TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import type { Queryable } from '../shadowed-tables.ts'

/** The engine behind a database: Postgres alone, or Citus, which spreads schemas over several servers. */
export type DatabaseEngine = 'postgres' | 'citus'

/** The first version that distributes schemas. */
const MIN_VERSION = 12

/** @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function assertEngine(engine: unknown): asserts engine is DatabaseEngine {
  if (engine !== 'postgres' && engine !== 'citus')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `engine must be 'postgres' or 'citus', got ${JSON.stringify(engine)}.`,
    )
}

/** What keeps a database from distributing schemas, or `undefined` if nothing does. */
export async function findCitusObstacle(database: Queryable): Promise<string | undefined> {
  const { rows } = await database.query<{ version: string; tables: boolean }>(
    `select x.extversion as version, pg_catalog.to_regclass('pg_catalog.pg_dist_schema') is not null and pg_catalog.to_regclass('pg_catalog.pg_dist_local_group') is not null as tables
     from pg_catalog.pg_extension x where x.extname = 'citus'`,
  )
  const [extension] = rows
  if (extension === undefined) return 'the extension citus is not installed in this database'
  // `12.1-1`: the version of Citus, and that of its catalogue.
  if (!(Number.parseInt(extension.version, 10) >= MIN_VERSION) || !extension.tables)
    return `the extension citus has the version ${extension.version}, and schemas are distributed from ${MIN_VERSION}.0 on`
  const group = await database.query<{ coordinator: boolean }>(
    'select groupid = 0 as coordinator from pg_catalog.pg_dist_local_group',
  )
  return group.rows[0]?.coordinator === true
    ? undefined
    : 'this server is a worker, and schemas are made on the coordinator'
}

/**
 * Refuses a database that cannot do what `engine` says, before anything is changed: a server without Citus takes its settings as names that mean nothing, and would make a plain schema.
 *
 * @throws {TenancyError} `ERR_TENANCY_ENGINE_UNSUPPORTED`.
 */
export async function assertCanDistribute(
  database: Queryable,
  engine: DatabaseEngine,
  tenant: Tenant,
): Promise<void> {
  if (engine === 'postgres') return
  const obstacle = await findCitusObstacle(database)
  if (obstacle !== undefined) throw engineUnsupported(tenant, obstacle)
}

/**
 * CREATE SCHEMA, distributed if the engine can do that. The setting ends with the transaction. With Citus, a schema that is not distributed all the same fails with {@link NOT_DISTRIBUTED}.
 *
 * @param name - the quoted name.
 */
export function createSchemaSql(name: string, engine: DatabaseEngine): string {
  return engine === 'postgres'
    ? `create schema ${name}`
    : [
        'set local citus.enable_schema_based_sharding to on',
        `create schema ${name}`,
        assertDistributedSql(name),
      ].join(';\n')
}

/** Distributes a schema that was made and filled on the coordinator. The schema has to belong to the current user. */
export function distributeSchemaSql(name: string): string {
  return [`select pg_catalog.citus_schema_distribute('${name}')`, assertDistributedSql(name)].join(
    ';\n',
  )
}

const NOT_DISTRIBUTED = 'PW001'

function assertDistributedSql(name: string): string {
  return `do $pw$ begin
    if not exists (select from pg_catalog.pg_dist_schema s where s.schemaid = pg_catalog.to_regnamespace('${name}')::pg_catalog.oid) then
      raise exception 'citus did not distribute the schema' using errcode = '${NOT_DISTRIBUTED}';
    end if; end $pw$`
}

/** Tells the error of {@link createSchemaSql} apart from those of the server. */
export function engineErrorOf(error: unknown, tenant: Tenant): unknown {
  return error instanceof Error && (error as pg.DatabaseError).code === NOT_DISTRIBUTED
    ? engineUnsupported(tenant, 'Citus did not distribute the new schema', error)
    : error
}

function engineUnsupported(tenant: Tenant, obstacle: string, cause?: unknown): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_ENGINE_UNSUPPORTED',
    `The schema of tenant ${tenant.id} cannot be distributed: ${obstacle}.`,
    { tenantId: tenant.id, ...(cause === undefined ? {} : { cause }) },
  )
}
