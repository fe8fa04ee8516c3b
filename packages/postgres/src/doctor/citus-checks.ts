import type pg from 'pg'
import { findCitusObstacle } from '../internal/citus.ts'
import type { DoctorFacts } from './facts.ts'
import { type Check, findEvidence, type Lint } from './lint.ts'

const distributed = 'select schemaid from pg_catalog.pg_dist_schema'

/** Over catalogues that only Citus has: a query about them does not even parse elsewhere. */
const CITUS_LINTS: readonly Lint[] = [
  {
    code: 'PARTYWALL_CITUS_SCHEMA_LOCAL',
    severity: 'warning',
    title:
      "A tenant's schema is not distributed: all of it lies on the coordinator, whatever the number of workers.",
    remedy:
      "select citus_schema_distribute('...'), and pass engine: 'citus' where schemas are made.",
    sql: `select n.nspname as schema from tenant_schema n where n.nspname <> 'public' and n.oid not in (${distributed})`,
    evidence: ({ schema }: { readonly schema: string }) => `schema "${schema}"`,
  },
  {
    code: 'PARTYWALL_CITUS_TABLE_LOCAL',
    severity: 'warning',
    title:
      'A table of a distributed schema is on the coordinator alone: it was made while Citus was switched off.',
    remedy: 'Copy its rows, drop it, and create it again on the coordinator.',
    sql: `select c.oid::regclass::text as table from pg_catalog.pg_class c join tenant_schema n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p', 'f') and n.oid in (${distributed})
        and c.oid not in (select p.logicalrelid::oid from pg_catalog.pg_dist_partition p)`,
    evidence: ({ table }: { readonly table: string }) => table,
  },
  {
    code: 'PARTYWALL_CITUS_SHARED_TABLE_LOCAL',
    severity: 'warning',
    title:
      'A shared table is no reference table: no foreign key of a distributed schema may point to it, and joins with it move its rows over the network.',
    remedy: "select create_reference_table('...').",
    // What belongs to an extension is not for joins.
    sql: `select c.oid::regclass::text as table from pg_catalog.pg_class c join shared_schema n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and not c.relispartition
        and not exists (select from pg_catalog.pg_dist_partition p where p.logicalrelid::oid = c.oid and p.partmethod = 'n' and p.repmodel = 't')
        and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')`,
    evidence: ({ table }: { readonly table: string }) => table,
  },
  {
    code: 'PARTYWALL_CITUS_ROLE_NOLOGIN',
    severity: 'error',
    title:
      'A role that may not log in owns tables of a distributed schema, or a tenant acts as it: Citus opens its connections to the workers as that role, and they are refused.',
    remedy:
      "Do not use role: 'per-tenant' with Citus, and let a role that may log in on every node own the tables.",
    sql: `select distinct r.rolname as role, n.nspname as schema
      from tenant_schema n join pg_catalog.pg_roles r on not r.rolcanlogin
      where n.oid in (${distributed}) and (
        exists (select from pg_catalog.pg_class c where c.relnamespace = n.oid and c.relkind in ('r', 'p') and c.relowner = r.oid)
        or exists (select from pg_catalog.pg_namespace s cross join pg_catalog.aclexplode(s.nspacl) acl
          join acting_role a on a.oid = acl.grantee where s.oid = n.oid and acl.grantee = r.oid and acl.privilege_type = 'USAGE'))`,
    evidence: ({ role, schema }: { readonly role: string; readonly schema: string }) =>
      `role "${role}" in schema "${schema}"`,
  },
  {
    code: 'PARTYWALL_CITUS_ROW_POLICY',
    severity: 'error',
    title:
      'A row policy of a distributed table asks for a setting, which the pool sets on the coordinator alone: on the workers it is empty.',
    remedy:
      'Keep tables with such policies out of Citus, or give the tenants schemas of their own.',
    sql: `select p.polrelid::regclass::text as table, p.polname as policy from pg_catalog.pg_policy p
      where p.polrelid in (select d.logicalrelid::oid from pg_catalog.pg_dist_partition d)
        and (coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') ~ 'current_setting' or coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '') ~ 'current_setting')`,
    evidence: ({ table, policy }: { readonly table: string; readonly policy: string }) =>
      `${table}: policy "${policy}"`,
  },
  {
    code: 'PARTYWALL_CITUS_NODES_POOLED',
    severity: 'warning',
    title:
      'Citus reaches its own nodes through a pooler, which has to keep session settings apart.',
    remedy:
      'Pool sessions there, or let PgBouncer (1.20 or newer) track search_path by track_extra_parameters; do not pool statements.',
    sql: `select p.nodeid::text as node, p.poolinfo as pool from pg_catalog.pg_dist_poolinfo p`,
    evidence: ({ node, pool }: { readonly node: string; readonly pool: string }) =>
      `node ${node}: ${pool}`,
  },
]

/** What Citus needs, besides what Postgres does. Without the extension there is one question alone, and that only if tenants are to be on it. */
export const citusChecks: readonly Check[] = [
  {
    code: 'PARTYWALL_CITUS_UNUSABLE',
    severity: 'error',
    title: 'Schemas are to be distributed, and this database cannot do it.',
    remedy: 'create extension citus (12.0 or newer), and connect pool.central to the coordinator.',
    async find({ engine }, client) {
      const obstacle = engine === 'citus' ? await findCitusObstacle(client) : undefined
      return obstacle === undefined ? [] : [obstacle]
    },
  },
  ...CITUS_LINTS.map(
    (lint): Check => ({
      ...lint,
      find: async (facts, client) =>
        (await isUsed(client, facts)) ? findEvidence(client, lint, facts) : [],
    }),
  ),
]

/** Whether tenants are on Citus, or are to be. An extension that somebody else uses is not our business. */
async function isUsed(client: pg.PoolClient, { engine }: DoctorFacts): Promise<boolean> {
  const { rows } = await client.query<{ there: boolean }>(
    `select count(*) = 3 as there from unnest(array['pg_dist_schema', 'pg_dist_partition', 'pg_dist_poolinfo']) name
     where to_regclass('pg_catalog.' || name) is not null and exists (select from pg_catalog.pg_extension where extname = 'citus')`,
  )
  if (rows[0]?.there !== true) return false
  if (engine === 'citus') return true
  return (await client.query('select from pg_catalog.pg_dist_schema limit 1')).rowCount === 1
}
