import type { Tenant } from '@partywall/core'
import pg from 'pg'
import {
  assertCanDistribute,
  assertEngine,
  createSchemaSql,
  type DatabaseEngine,
  engineErrorOf,
} from './internal/citus.ts'
import {
  findSchema,
  notTheTenants,
  ownSchemaOf,
  schemaLockSql,
  schemaMark,
} from './internal/schema-mark.ts'
import { assertNotShared, quoteIdentifier, searchPathOf } from './search-path.ts'

export interface SchemaFromSqlOptions {
  /** Schemas behind the tenant's own in the path that the text runs under; the same as those of the pool. @defaultValue `['public']` */
  readonly sharedSchemas?: readonly string[] | undefined
  /** `'citus'`: the schema is distributed, and so is every table of the text (docs/guide/citus.md). @defaultValue `'postgres'` */
  readonly engine?: DatabaseEngine | undefined
}

/**
 * Creates the schema of a tenant, marks it as that tenant's and runs a text of many statements in it, all in one round trip and one transaction: all of it, or nothing.
 * Safe to repeat and to race: where the schema is the tenant's already, nothing is run, whatever the schema holds. Returns whether it was created now.
 *
 * The text finds the tenant's schema first and the shared ones behind it, as in `migrateTenant`; the setting ends with the transaction. It cannot end the transaction
 * itself: `COMMIT` and `ROLLBACK` are refused by the server.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user may create schemas.
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a schema of that name exists and is not the tenant's, or if it is `public` or shared;
 * `ERR_TENANCY_ENGINE_UNSUPPORTED` if the database cannot distribute schemas and is to. Errors of the text are the server's own.
 */
export async function createSchemaFromSql(
  central: pg.Pool,
  tenant: Tenant,
  sql: string,
  { sharedSchemas = ['public'], engine = 'postgres' }: SchemaFromSqlOptions = {},
): Promise<boolean> {
  assertEngine(engine)
  const schema = ownSchemaOf(tenant)
  assertNotShared(tenant, sharedSchemas)
  const name = quoteIdentifier(schema)
  // In EXECUTE, because a COMMIT in plain text would end the path with the transaction, and what stands behind it would be created in `public`. It costs next to nothing.
  const template = `begin execute ${pg.escapeLiteral(sql)}; end`
  const text = [
    schemaLockSql(schema),
    createSchemaSql(name, engine),
    `comment on schema ${name} is '${schemaMark(tenant.id)}'`,
    `select pg_catalog.set_config('search_path', ${pg.escapeLiteral(searchPathOf(tenant, { sharedSchemas }))}, true)`,
    `do ${pg.escapeLiteral(template)}`,
  ].join(';\n')
  const client = await central.connect()
  // A checked-out client has no other listener, and one that is being closed has none either: a server that ends the connection must not end the process.
  const ignore = (): void => undefined
  client.on('error', ignore)
  let clean = false
  try {
    await assertCanDistribute(client, engine, tenant)
    await client.query(text)
    clean = !LEAVES_TRACES.test(sql)
    return true
  } catch (error) {
    if (!isDuplicateSchema(error)) throw engineErrorOf(error, tenant)
    // Either ours, or one that the text itself creates. Nothing of ours is left, so what is there now is somebody else's.
    const found = await findSchema(client, schema)
    clean = true
    if (found === undefined) throw error
    if (found.mark !== schemaMark(tenant.id)) throw notTheTenants(schema, tenant)
    return false
  } finally {
    if (clean) client.off('error', ignore)
    // Output of pg_dump begins with `set_config('search_path', '', false)`: the next user of such a connection would find no table.
    client.release(!clean)
  }
}

/** Words of statements that a session remembers. One word too many costs a connection, one too few costs more. */
const LEAVES_TRACES =
  /\b(?:set(?!\s+(?:null|default|not\s+null|data|statistics|storage)\b)|reset|set_config|listen|prepare|declare|load|temp|temporary|call|discard|\w*advisory\w*)\b/i

function isDuplicateSchema(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === '42P06'
}
