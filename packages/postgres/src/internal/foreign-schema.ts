import { TenancyError, type Tenant } from '@partywall/core'
import { type SchemaNames, schemaOf } from '../search-path.ts'

/**
 * Where statements that Prisma generates name a schema (read from those of 7.10): in front of the table that they write, in front of a table and its column, and in front of a table in a join. Others may read
 * `from "item"."created_at"`, as in `extract(day from ...)`, which names no schema.
 */
const SCHEMAS =
  /^(?:INSERT INTO|UPDATE|DELETE FROM) "([^"]+)"\."|"([^"]+)"\."[^"]+"\."|\bFROM "([^"]+)"\."[^"]+" AS "t\d/g

/**
 * The error for a statement of PrismaPg that names another schema than the tenant's: the search_path then decides nothing. It writes `public` in front of every table unless it is told otherwise, so that all tenants would
 * read and write the same rows.
 *
 * Knows the adapter by the form of its queries: rows as arrays, parsers of its own, and the values in one object with them. What people write by hand may name any schema that the database lets them. A declared shared
 * schema is allowed, but for `public`: nobody can tell what is meant to be there from what PrismaPg puts there.
 */
export function foreignSchemaError(
  query: unknown,
  tenant: Tenant,
  names: SchemaNames,
): TenancyError | undefined {
  if (typeof query !== 'object' || query === null) return undefined
  const { rowMode, types, values, text } = query as Record<string, unknown>
  if (rowMode !== 'array' || types === undefined || values === undefined) return undefined
  const own = schemaOf(tenant, names)
  for (const [, written, qualified, joined] of String(text).matchAll(SCHEMAS)) {
    const schema = written ?? qualified ?? joined ?? ''
    if (schema === own || (schema !== 'public' && names.sharedSchemas.includes(schema))) continue
    return new TenancyError(
      'ERR_TENANCY_ISOLATION_UNSUPPORTED',
      `The statement, which looks like one of Prisma, names the schema "${schema}", which is not that of tenant ${tenant.id}; it was not sent.`,
      {
        tenantId: tenant.id,
        hint: 'Give Prisma one client for each tenant: tenantPrisma().',
      },
    )
  }
  return undefined
}
