import { createHash } from 'node:crypto'
import { readCatalogue } from './internal/schema-catalogue.ts'
import type { Queryable } from './shadowed-tables.ts'

/**
 * Hashes what a schema is made of: two tenants with the same migrations have the same fingerprint, whatever they are called, and a tenant that somebody changed by hand has another.
 *
 * Counts: tables, columns in their order, types, defaults, constraints, indexes, sequences, views, triggers, rules, functions, policies, statistics objects, extensions, and grants, by the
 * kind of role (owner, everybody, the tenant's own role, any other by its name). Does not count: rows, values of sequences, comments, owners, tablespaces.
 * Text that people wrote counts as it is, so functions whose bodies name the schema differ. Compare within one major version of Postgres: others print definitions differently.
 *
 * Returns SHA-256 in hexadecimal.
 *
 * @param database - a pool or a client outside of every tenant, `pool.central`; inside of a transaction the search_path is as before afterwards.
 * @throws {TenancyError} `ERR_TENANCY_SCHEMA_MISSING`, and `ERR_TENANCY_OPTION_INVALID` if the name is none.
 */
export async function fingerprintSchema(database: Queryable, schema: string): Promise<string> {
  const lines = (await readCatalogue(database, schema)).map((fact) =>
    JSON.stringify([fact.kind, fact.name, sorted(fact.facts)]),
  )
  // In the order of code units: the collation of the database has no say.
  return createHash('sha256').update(lines.sort().join('\n')).digest('hex')
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .map(([key, entry]) => [key, sorted(entry)] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  )
}
