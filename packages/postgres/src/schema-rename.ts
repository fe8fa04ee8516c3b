import { TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import {
  assertMarked,
  findSchema,
  notTheTenants,
  ownSchemaOf,
  schemaLockSql,
  schemaMark,
} from './internal/schema-mark.ts'
import { withTransaction } from './internal/with-transaction.ts'
import { quoteIdentifier } from './search-path.ts'

/**
 * Renames the schema of one tenant to that of another, mark included, in one transaction. Safe to repeat: where `from` is gone and `to` is there, nothing is done. Returns whether it was renamed now.
 *
 * Nobody else may use either tenant meanwhile: statements that know the old name wait, then fail. What the server stores as text keeps the old name: bodies of functions and their `SET search_path`.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user owns the schema and may create schemas.
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if the schema is not marked as that of `from`, if that of `to` exists, or if one is `public`;
 * `ERR_TENANCY_SCHEMA_MISSING` if there is neither.
 */
export async function renameTenantSchema(
  central: pg.Pool,
  from: Tenant,
  to: Tenant,
): Promise<boolean> {
  const source = ownSchemaOf(from)
  const target = ownSchemaOf(to)
  return withTransaction(central, async (client) => {
    // In one order, whoever renames what to what: two renames that cross must not wait for each other for ever.
    for (const schema of [...new Set([source, target])].sort())
      await client.query(schemaLockSql(schema))
    const found = await findSchema(client, source)
    const occupied = source === target ? undefined : await findSchema(client, target)
    if (found === undefined || (source === target && found.mark === schemaMark(to.id))) {
      const done = found ?? occupied
      if (done === undefined)
        throw new TenancyError(
          'ERR_TENANCY_SCHEMA_MISSING',
          `There is no schema "${source}" of tenant ${from.id}.`,
          { tenantId: from.id },
        )
      assertMarked(done, target, to)
      return false
    }
    assertMarked(found, source, from)
    if (occupied !== undefined)
      throw occupied.mark === schemaMark(to.id)
        ? new TenancyError(
            'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
            `Tenant ${to.id} has a schema "${target}" of its own.`,
            { tenantId: to.id, hint: 'Rename it away, or drop it, first.' },
          )
        : notTheTenants(target, to)
    const rename =
      source === target
        ? ''
        : `alter schema ${quoteIdentifier(source)} rename to ${quoteIdentifier(target)};`
    await client.query(
      `${rename} comment on schema ${quoteIdentifier(target)} is '${schemaMark(to.id)}'`,
    )
    return true
  })
}
