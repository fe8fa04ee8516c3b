import { REACHES_SQL, securityInvokerSql } from '../internal/view-reads.ts'
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
    sql: `with recursive ${REACHES_SQL}
      select distinct v.oid::regclass::text as view, s.oid::regclass::text as table
      from reaches
      join secured s on s.oid = reaches.relation
      join pg_catalog.pg_class v on v.oid = reaches.view and v.relkind = 'v'
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
    sql: `with recursive ${REACHES_SQL}
      select distinct v.oid::regclass::text as view, s.oid::regclass::text as table
      from reaches
      join secured s on s.oid = reaches.relation
      join pg_catalog.pg_class v on v.oid = reaches.view and v.relkind = 'm'`,
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
]
