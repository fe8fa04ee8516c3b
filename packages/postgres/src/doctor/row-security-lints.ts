import { hasTenantSql, includesTenantSql, pairsTenantSql } from '../internal/tenant-keys.ts'
import { securityInvokerSql, viewReadsSql } from '../internal/view-reads.ts'
import type { Lint } from './lint.ts'

type PolicyRow = { readonly table: string; readonly policy: string }

/** What keeps row level security from holding. Looked for in every schema, because such tables may stand in any. */
export const rowSecurityLints: readonly Lint[] = [
  {
    code: 'PARTYWALL_RLS_NOT_FORCED',
    severity: 'error',
    title: 'Row level security is switched on, but not for the owner of the table.',
    remedy: 'alter table ... force row level security.',
    sql: 'select oid::regclass::text as table from secured where not relforcerowsecurity',
    evidence: ({ table }: { readonly table: string }) => table,
  },
  {
    code: 'PARTYWALL_RLS_NOT_ENABLED',
    severity: 'error',
    title: 'A table has row policies or FORCE, but row level security is switched off.',
    remedy: 'alter table ... enable row level security.',
    sql: `select c.oid::regclass::text as table
      from pg_catalog.pg_class c join user_schema n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and not c.relrowsecurity
        and (c.relforcerowsecurity or exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid))`,
    evidence: ({ table }: { readonly table: string }) => table,
  },
  {
    code: 'PARTYWALL_RLS_CHILD_OPEN',
    severity: 'error',
    title: 'A partition or child of a table with row policies can be read past them.',
    remedy:
      'Policies hold for the table that a statement names: revoke all on the child, or give it the policies of its parent.',
    sql: `select distinct c.oid::regclass::text as child, s.oid::regclass::text as parent
      from secured s
      join pg_catalog.pg_inherits i on i.inhparent = s.oid
      join pg_catalog.pg_class c on c.oid = i.inhrelid and not c.relrowsecurity
      join acting_role r on pg_catalog.has_table_privilege(r.oid, c.oid, 'select, insert, update, delete')`,
    evidence: ({ child, parent }: { readonly child: string; readonly parent: string }) =>
      `${child}, of ${parent}`,
  },
  {
    code: 'PARTYWALL_POLICY_WITHOUT_CHECK',
    severity: 'error',
    title:
      'A policy for writes has no WITH CHECK: whatever may be read may be written, in the name of anybody.',
    remedy: 'alter policy ... with check (...), with the tenant of the row as the condition.',
    sql: `select p.polrelid::regclass::text as table, p.polname as policy
      from pg_catalog.pg_policy p where p.polcmd in ('*', 'a', 'w') and p.polwithcheck is null`,
    evidence: ({ table, policy }: PolicyRow) => `${table}: policy "${policy}"`,
  },
  {
    code: 'PARTYWALL_POLICY_ROLE_SPECIFIC',
    severity: 'warning',
    title:
      'A policy is for some roles only, and others get other rows or none; plans that roles share are where servers have failed.',
    remedy:
      'Make the policy one for public and let its condition tell the tenant, by a setting or by current_user.',
    sql: `select p.polrelid::regclass::text as table, p.polname as policy,
        (select pg_catalog.string_agg(r.rolname, ', ' order by r.rolname) from pg_catalog.pg_roles r where r.oid = any(p.polroles)) as roles
      from pg_catalog.pg_policy p where not 0::oid = any(p.polroles)`,
    evidence: ({ table, policy, roles }: PolicyRow & { readonly roles: string }) =>
      `${table}: policy "${policy}" for ${roles}`,
  },
  {
    code: 'PARTYWALL_VIEW_NOT_INVOKER',
    severity: 'error',
    title: 'A view reads a table with row policies as the owner of the view, not as whoever asks.',
    remedy:
      'alter view ... set (security_invoker = true); it takes Postgres 15. Before that, drop the view.',
    sql: `with recursive ${viewReadsSql('secured')}
      select distinct v.oid::regclass::text as view, s.oid::regclass::text as table
      from view_reads r
      join secured s on s.oid = r.relation
      join pg_catalog.pg_class v on v.oid = r.view and v.relkind = 'v'
      where not ${securityInvokerSql('v')}`,
    evidence: ({ view, table }: { readonly view: string; readonly table: string }) =>
      `${view} over ${table}`,
  },
  {
    code: 'PARTYWALL_MATVIEW_OVER_RLS',
    severity: 'error',
    title: 'A materialized view holds rows of a table with row policies, and has none itself.',
    remedy:
      'A materialized view cannot have policies: drop it, revoke it from the application, or fill a table with policies instead.',
    sql: `with recursive ${viewReadsSql('secured')}
      select distinct v.oid::regclass::text as view, s.oid::regclass::text as table
      from view_reads r
      join secured s on s.oid = r.relation
      join pg_catalog.pg_class v on v.oid = r.view and v.relkind = 'm'`,
    evidence: ({ view, table }: { readonly view: string; readonly table: string }) =>
      `${view} over ${table}`,
  },
  {
    code: 'PARTYWALL_RLS_TRUNCATE_GRANTED',
    severity: 'error',
    title:
      'TRUNCATE is granted on a table with row policies, and removes the rows of every tenant.',
    remedy: 'revoke truncate on ... from ...; policies do not hold for TRUNCATE.',
    sql: `select s.oid::regclass::text as table, coalesce(r.rolname, 'public') as role
      from secured s cross join pg_catalog.aclexplode(s.relacl) acl
      left join pg_catalog.pg_roles r on r.oid = acl.grantee
      where acl.privilege_type = 'TRUNCATE' and acl.grantee <> s.relowner`,
    evidence: ({ table, role }: { readonly table: string; readonly role: string }) =>
      `${table}: granted to ${role}`,
  },
  {
    code: 'PARTYWALL_RLS_KEY_SHARED',
    severity: 'warning',
    title:
      'A unique key of a table with rows of several tenants is without the tenant: a value that one has is refused to the others, and so told to them.',
    remedy:
      'Widen it: (tenant_id, ...). applyRowIsolation does it, and the foreign keys that lead to it.',
    sql: `select x.oid::regclass::text as key, s.oid::regclass::text as table
      from secured s join pg_catalog.pg_index i on i.indrelid = s.oid and (i.indisunique or i.indisexclusion)
      join pg_catalog.pg_class x on x.oid = i.indexrelid and not x.relispartition
      left join pg_catalog.pg_constraint k on k.conindid = x.oid and k.conrelid = s.oid and k.contype in ('p', 'u', 'x')
      where ${hasTenantSql('s.oid')} and not ${includesTenantSql('i', 'k')}`,
    evidence: ({ key, table }: { readonly key: string; readonly table: string }) =>
      `${table}: ${key}`,
  },
  {
    code: 'PARTYWALL_RLS_FOREIGN_KEY_OPEN',
    severity: 'error',
    title:
      'A foreign key to a table with rows of several tenants is without the tenant: references are checked past all policies, so a row can refer to that of another tenant.',
    remedy:
      'Build it as (tenant_id, ...) references ... (tenant_id, ...). applyRowIsolation does it.',
    sql: `select k.conrelid::regclass::text as table, k.conname as key, k.confrelid::regclass::text as target
      from secured s join pg_catalog.pg_constraint k on k.confrelid = s.oid and k.contype = 'f' and k.conparentid = 0
      where ${hasTenantSql('s.oid')} and not ${pairsTenantSql('k')}`,
    evidence: ({
      table,
      key,
      target,
    }: {
      readonly table: string
      readonly key: string
      readonly target: string
    }) => `${table}: constraint "${key}" to ${target}`,
  },
  {
    code: 'PARTYWALL_RLS_SEQUENCE_SHARED',
    severity: 'warning',
    title:
      'Tenants draw numbers from one sequence: from the gaps in its own, each sees how many rows the others add.',
    remedy:
      'If that is nothing to know: leave it. Otherwise use uuid keys, or numbers that each tenant counts for itself.',
    sql: `select distinct s.oid::regclass::text as table, a.attname as column, q.oid::regclass::text as sequence
      from secured s
      join pg_catalog.pg_attribute a on a.attrelid = s.oid and not a.attisdropped
      left join pg_catalog.pg_attrdef def on def.adrelid = s.oid and def.adnum = a.attnum
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid = def.oid and d.refclassid = 'pg_catalog.pg_class'::regclass
        or a.attidentity <> '' and d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = d.classid and d.refobjid = s.oid and d.refobjsubid = a.attnum and d.deptype = 'i'
      join pg_catalog.pg_class q on q.relkind = 'S' and q.oid = case when d.classid = 'pg_catalog.pg_attrdef'::regclass then d.refobjid else d.objid end
      where ${hasTenantSql('s.oid')}`,
    evidence: ({
      table,
      column,
      sequence,
    }: {
      readonly table: string
      readonly column: string
      readonly sequence: string
    }) => `${table}.${column} draws from ${sequence}`,
  },
  {
    code: 'PARTYWALL_DEFINER_BYPASSES_RLS',
    severity: 'warning',
    title:
      'Beside tables with row policies stands a SECURITY DEFINER function of an owner for whom no policy holds: it sees the rows of all tenants.',
    remedy:
      'alter function ... owner to a role without SUPERUSER and BYPASSRLS; or read it, and make sure that it answers for one tenant alone.',
    sql: `select f.oid::regprocedure::text as function, r.rolname as owner
      from pg_catalog.pg_proc f join pg_catalog.pg_roles r on r.oid = f.proowner
      where f.prosecdef and (r.rolsuper or r.rolbypassrls) and f.prorettype <> 'pg_catalog.event_trigger'::regtype
        and f.pronamespace in (select c.relnamespace from secured s join pg_catalog.pg_class c on c.oid = s.oid)`,
    evidence: ({ function: name, owner }: { readonly function: string; readonly owner: string }) =>
      `${name} of "${owner}"`,
  },
]
