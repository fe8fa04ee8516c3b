import { createHash } from 'node:crypto'
import { readCatalogueLines } from './internal/schema-catalogue.ts'
import type { Queryable } from './shadowed-tables.ts'

/**
 * Hashes what a schema is made of: two tenants with the same migrations have the same fingerprint, whatever they are called, and a tenant that somebody changed by hand has another.
 *
 * Counts: tables, columns in their order, types, defaults, constraints, indexes, sequences, views, triggers, rules, functions, operators, casts, policies, statistics objects and targets, collations,
 * text search, extensions, and grants, by the kind of role (owner, everybody, the tenant's own role, any other by its name). Does not count: rows, values of sequences, comments, owners, tablespaces.
 * Text that people wrote counts as it is, so functions whose bodies name the schema differ. Compare within one major version of Postgres: others print definitions differently.
 *
 * Returns SHA-256 in hexadecimal.
 *
 * @param database - a pool or a client outside of every tenant, `pool.central`; inside of a transaction the search_path is as before afterwards.
 * @throws {TenancyError} `ERR_TENANCY_SCHEMA_MISSING`, and `ERR_TENANCY_OPTION_INVALID` if the name is none.
 */
export async function fingerprintSchema(database: Queryable, schema: string): Promise<string> {
  const lines = await readCatalogueLines(database, schema)
  return createHash('sha256').update(lines.join('\n')).digest('hex')
}
