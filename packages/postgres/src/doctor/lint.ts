import type pg from 'pg'
import type { DoctorFacts } from './facts.ts'

/** `error`: one tenant can reach another's data, or nearly. `warning`: it takes one more mistake. `info`: a fact to know. */
export type FindingSeverity = 'error' | 'warning' | 'info'

export type FindingCode = `PARTYWALL_${string}`

/** What a finding says wherever it is found. */
export interface LintHead {
  readonly code: FindingCode
  readonly severity: FindingSeverity
  readonly title: string
  readonly remedy: string
}

/** One catalogue query, and what a row of it means. */
export interface Lint extends LintHead {
  /**
   * A query over `pg_catalog` and the relations of {@link SCOPE_SQL}, without parameters of its own. Each row is one piece of evidence; the columns are text, because they are also what rows are sorted by.
   */
  readonly sql: string
  /** `'tenants'`: the query compares with the tenants of the store, and says nothing without them. */
  readonly needs?: 'tenants' | undefined
  evidence(row: Readonly<Record<string, string>>): string
}

/** A lint that is no single query of its own. */
export interface Check extends LintHead {
  readonly needs?: 'tenants' | 'tenancy' | 'pool' | undefined
  find(facts: DoctorFacts, client: pg.PoolClient): string[] | Promise<string[]>
}

/** A fleet has many tables, and a report is to be read: the rest is counted. */
const MAX_EVIDENCE = 100

/**
 * What all lints speak of. Every name is qualified or found in `pg_catalog`, which is the whole search_path of the transaction.
 *
 * - `login`: the role of the application; `acting_role`: it, and every role that it can become.
 * - `shared_name`: shared schemas as they were asked for; `shared_schema`: those that exist.
 * - `tenant_record`: tenants of the store whose schema is in this database; `known_tenant`: ids of all, tombstones included.
 * - `tenant_schema`: schemas that carry the mark of `createTenantSchema`, or that a tenant's record names.
 * - `user_schema`: every schema that is not the server's own.
 * - `secured`: tables with row level security switched on.
 */
const SCOPE_SQL = `
login as (
  select oid, rolname, rolsuper from pg_catalog.pg_roles where rolname = $1::text
),
acting_role as (
  -- A superuser is a member of every role, which says nothing about any of them.
  select r.oid, r.rolname, r.rolsuper, r.rolbypassrls, login.rolname as login
  from pg_catalog.pg_roles r cross join login
  where r.oid = login.oid or (not login.rolsuper and pg_catalog.pg_has_role(login.oid, r.oid, 'member'))
),
server as (
  select $2::int as version
),
shared_name as (
  select name from unnest($3::text[]) as name
),
shared_schema as (
  select n.oid, n.nspname from pg_catalog.pg_namespace n join shared_name on shared_name.name = n.nspname
),
tenant_record as (
  select tenant_id, schema from unnest($4::text[], $5::text[]) as record (tenant_id, schema)
),
known_tenant as (
  select tenant_id from unnest($6::text[]) as tenant_id
),
user_schema as (
  select oid, nspname from pg_catalog.pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
),
tenant_schema as (
  select n.oid, n.nspname, pg_catalog.substring(d.description, '^partywall tenant (.+)$') as mark
  from user_schema n
  left join pg_catalog.pg_description d on d.objoid = n.oid and d.classoid = 'pg_catalog.pg_namespace'::regclass and d.objsubid = 0
  where n.oid not in (select oid from shared_schema)
    and (d.description ~ '^partywall tenant .' or n.nspname in (select schema from tenant_record))
),
secured as (
  select c.oid, c.relowner, c.relforcerowsecurity, c.relacl
  from pg_catalog.pg_class c join user_schema n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p') and c.relrowsecurity
)`

/** Runs the query of a lint. Returns its evidence, sorted, at most {@link MAX_EVIDENCE} pieces and the number of the others. */
export async function findEvidence(
  client: pg.ClientBase,
  lint: Lint,
  facts: DoctorFacts,
): Promise<string[]> {
  const places = facts.tenants?.places ?? []
  const { rows } = await client.query<Record<string, string>>(
    `with recursive ${SCOPE_SQL}
    select lint.*, (count(*) over ())::text as lint_total from (${lint.sql}) lint order by lint limit ${MAX_EVIDENCE}`,
    [
      facts.loginRole,
      facts.serverVersion,
      facts.sharedSchemas,
      places.map(({ tenantId }) => tenantId),
      places.map(({ schema }) => schema),
      facts.tenants?.ids ?? [],
    ],
  )
  const more = Number(rows[0]?.['lint_total'] ?? 0) - rows.length
  return [
    ...rows.map((row) => lint.evidence(row)),
    ...(more > 0 ? [`and ${more} more of this kind`] : []),
  ]
}
