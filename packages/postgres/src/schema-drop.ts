import { TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { findForeignDependents } from './internal/schema-dependents.ts'
import { assertMarked, findSchema, ownSchemaOf, schemaLockSql } from './internal/schema-mark.ts'
import {
  countObjects,
  inBatches,
  listForeignKeys,
  listObjects,
  planDrop,
  planForeignKeys,
} from './internal/schema-objects.ts'
import { withTransaction } from './internal/with-transaction.ts'
import { quoteIdentifier } from './search-path.ts'

export interface DropTenantSchemaOptions {
  /** The id of the tenant once more: what is dropped is gone. */
  readonly confirm: string
  /** Locks that one transaction may take; a table takes about ten. Their number is bounded for the whole server: `max_locks_per_transaction` x `max_connections`, 6,400 by default. @defaultValue `500` */
  readonly batchSize?: number | undefined
}

/**
 * Drops the schema of a tenant and all that it holds, in many small transactions: one `DROP SCHEMA ... CASCADE` over thousands of tables fills the server's lock table and fails.
 *
 * Nothing outside of the schema is dropped. If something there depends on it (a view, a foreign key or a column of another tenant), nothing at all is; this is looked at again in every
 * transaction, behind locks on the tables it is about to drop.
 *
 * After a crash or an error the schema is there in part, still marked; the same call goes on. Racing calls wait for each other. Foreign keys go first.
 * Resolves to the number of tables, views, sequences, types, functions and so on that this call dropped; 0 if there is no schema.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user owns the schema.
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` if `confirm` is not the tenant's id; `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if the schema is not marked as the tenant's, or is `public`;
 * `ERR_TENANCY_SCHEMA_REFERENCED`, with the names, if others depend on it.
 */
export async function dropTenantSchema(
  central: pg.Pool,
  tenant: Tenant,
  { confirm, batchSize = 500 }: DropTenantSchemaOptions,
): Promise<number> {
  if (confirm !== tenant.id)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `confirm must be the id of the tenant whose schema is dropped, ${tenant.id}, got ${JSON.stringify(confirm)}.`,
      { tenantId: tenant.id },
    )
  if (!(Number.isInteger(batchSize) && batchSize > 0))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `batchSize must be a positive integer, got ${batchSize}.`,
    )
  const schema = ownSchemaOf(tenant)
  const removal = new SchemaRemoval(central, tenant, schema)
  const oid = await removal.find()
  if (oid === undefined) return 0
  for (let pass = 1; ; pass++) {
    for (const batch of inBatches(await listForeignKeys(central, oid), batchSize))
      await removal.step(oid, (client) => planForeignKeys(client, oid, batch))
    for (const batch of inBatches(await listObjects(central, oid), batchSize))
      await removal.step(oid, async (client) => {
        const { lock, drop } = await planDrop(client, oid, batch)
        if (lock.length > 0)
          await client.query(
            `lock table ${lock.map((table) => `only ${table}`).join(', ')} in access exclusive mode`,
          )
        return drop
      })
    try {
      // RESTRICT: what was created meanwhile is met by the next pass, with all its checks.
      await removal.step(oid, () => [`drop schema ${quoteIdentifier(schema)} restrict`])
      return removal.dropped
    } catch (error) {
      if (pass >= MAX_PASSES || !hasDependents(error)) throw error
    }
  }
}

/** Only work that goes on in the schema makes a second pass necessary; it is not chased for ever. */
const MAX_PASSES = 5

class SchemaRemoval {
  readonly #central: pg.Pool
  readonly #tenant: Tenant
  readonly #schema: string
  #dropped = 0

  constructor(central: pg.Pool, tenant: Tenant, schema: string) {
    this.#central = central
    this.#tenant = tenant
    this.#schema = schema
  }

  get dropped(): number {
    return this.#dropped
  }

  /** The schema, after every check and before any lock on a table, or `undefined` if there is none. */
  find(): Promise<string | undefined> {
    return withTransaction(this.#central, async (client) => {
      const oid = await this.#enter(client)
      if (oid !== undefined) await this.#assertUnreferenced(client, oid)
      return oid
    })
  }

  /** One transaction. Does nothing where the schema is gone, be there a new one of the same name: another call dropped it, and somebody made a new one. */
  async step(
    oid: string,
    plan: (client: pg.PoolClient) => string[] | Promise<string[]>,
  ): Promise<void> {
    this.#dropped += await withTransaction(this.#central, async (client) => {
      if ((await this.#enter(client)) !== oid) return 0
      const statements = await plan(client)
      if (statements.length === 0) return 0
      // Behind the plan's locks: from here on nobody can build anything on those tables.
      await this.#assertUnreferenced(client, oid)
      const before = await countObjects(client, oid)
      // A notice for each object that falls with another would be most of the traffic.
      await client.query(['set local client_min_messages = warning', ...statements].join(';\n'))
      return before - (await countObjects(client, oid))
    })
  }

  async #enter(client: pg.PoolClient): Promise<string | undefined> {
    await client.query(schemaLockSql(this.#schema))
    const found = await findSchema(client, this.#schema)
    if (found !== undefined) assertMarked(found, this.#schema, this.#tenant)
    return found?.oid
  }

  async #assertUnreferenced(client: pg.PoolClient, oid: string): Promise<void> {
    const names = await findForeignDependents(client, oid)
    if (names.length === 0) return
    throw new TenancyError(
      'ERR_TENANCY_SCHEMA_REFERENCED',
      `Outside of the schema "${this.#schema}", these depend on it: ${names.slice(0, 10).join(', ')}${names.length > 10 ? ` and ${names.length - 10} more` : ''}.`,
      { tenantId: this.#tenant.id },
    )
  }
}

function hasDependents(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === '2BP01'
}
