import { TENANT_POLICY } from '../row-isolation/expressions.ts'
import { securityInvokerSql } from './view-reads.ts'

/** What the role of a tenant is to have. */
export interface TenantGrants {
  readonly role: string
  readonly gate: string | undefined
  /** Holds what it has in common with other tenants. */
  readonly group: string
  /** The group of tenants that are isolated in the other way. */
  readonly otherGroup: string
  /** Its own schema, or else that of the tables. */
  readonly schema: string
  readonly isolation: 'schema' | 'row'
  readonly sharedSchemas: readonly string[]
  /** Tables of the row schema that are only read. */
  readonly sharedTables: readonly string[]
  readonly login: boolean
}

/** The parameters of {@link MISSING_GRANTS}. */
export function grantParameters(grants: TenantGrants): unknown[] {
  const { role, gate, group, otherGroup, schema, isolation, sharedSchemas, sharedTables, login } =
    grants
  return [
    role,
    gate ?? null,
    group,
    otherGroup,
    schema,
    isolation,
    sharedSchemas,
    sharedTables,
    login,
  ]
}

interface Grant {
  /** The statement, as an expression. */
  readonly sql: string
  /** Whether it is there already. Of a role or schema that does not exist yet, the answer is NULL. */
  readonly has: string
  readonly from?: string
  readonly when?: string
}

const missing = ({ sql, has, from = 'asked', when = 'true' }: Grant): string =>
  `select ${sql} as sql from ${from} where ${when} and (${has}) is not true`

const OWN = "isolation = 'schema'"
const ROWS = "isolation = 'row'"
const TABLES = "'r', 'p', 'v', 'm', 'f'"

/** What was granted to a role itself, or is its own. What PUBLIC has does not count: it may be revoked any day. */
const granted = (
  acl: string,
  kind: 'r' | 's' | 'f' | 'n',
  owner: string,
  who: string,
  privileges: readonly string[],
): string =>
  `(select count(distinct acl.privilege_type) = ${privileges.length} from pg_catalog.aclexplode(coalesce(${acl}, pg_catalog.acldefault('${kind}', ${owner}))) acl
    where acl.grantee = ${who} and acl.privilege_type in (${privileges.map((privilege) => `'${privilege}'`).join(', ')}))`

const onSchema = (schema: string, who: string, privileges: readonly string[]): string =>
  `(select ${granted('n.nspacl', 'n', 'n.nspowner', who, privileges)} from pg_catalog.pg_namespace n where n.oid = ${schema})`

const onRelation = (kind: 'r' | 's', who: string, privileges: readonly string[]): string =>
  granted('c.relacl', kind, 'c.relowner', who, privileges)

const onAll = (schema: string, kinds: string, has: string): string =>
  `(select coalesce(bool_and(${has}), true) from pg_catalog.pg_class c where c.relnamespace = ${schema} and c.relkind in (${kinds}))`

const READ = ['SELECT']
const ROW_RIGHTS = ['SELECT', 'INSERT', 'UPDATE', 'DELETE']
const EVERY_RIGHT = [...ROW_RIGHTS, 'TRUNCATE', 'REFERENCES', 'TRIGGER']

/** What whoever runs this creates in a schema later; one right of many stands for all. */
const later = (schema: string, kind: 'r' | 'S', who: string, privilege: string): string =>
  `exists (select from pg_catalog.pg_default_acl d cross join pg_catalog.aclexplode(d.defaclacl) acl
    where d.defaclrole = me and d.defaclnamespace = ${schema} and d.defaclobjtype = '${kind}' and acl.grantee = ${who} and acl.privilege_type = '${privilege}')`

/** Since PostgreSQL 16 a membership has options; before, it allows what they allow. */
const member = (of: string, who: string, option?: 'inherit_option' | 'set_option'): string =>
  `exists (select from pg_catalog.pg_auth_members m where m.roleid = ${of} and m.member = ${who}${option === undefined ? '' : ` and coalesce((pg_catalog.to_jsonb(m) ->> '${option}')::boolean, true)`})`

const GRANTS: readonly Grant[] = [
  // To have what its group has, whatever the default of a grant is.
  {
    sql: "format('alter role %I inherit', role_name)",
    has: '(select r.rolinherit from pg_catalog.pg_roles r where r.oid = role)',
  },
  {
    sql: "format('grant %I to %I', group_name, role_name) || case when has_options then ' with inherit true, set false' else '' end",
    has: member('grp', 'role', 'inherit_option'),
  },
  {
    sql: "format('revoke %I from %I', other_name, role_name)",
    has: `not ${member('other', 'role')}`,
    when: 'role is not null and other is not null',
  },
  {
    sql: "format('grant %I to %I', role_name, gate_name)",
    has: member('role', 'gate', 'set_option'),
    when: 'gate_name is not null',
  },
  {
    sql: "format('grant connect on database %I to %I', current_database(), group_name)",
    has: "pg_catalog.has_database_privilege(role, current_database(), 'connect')",
    when: 'login',
  },
  {
    sql: "format('grant usage, create on schema %I to %I', schema_name, role_name)",
    has: onSchema('schema', 'role', ['USAGE', 'CREATE']),
    when: OWN,
  },
  {
    sql: "format('grant all on all tables in schema %I to %I', schema_name, role_name)",
    has: onAll('schema', TABLES, onRelation('r', 'role', EVERY_RIGHT)),
    when: OWN,
  },
  {
    sql: "format('grant all on all sequences in schema %I to %I', schema_name, role_name)",
    has: onAll('schema', "'S'", onRelation('s', 'role', ['USAGE', 'SELECT', 'UPDATE'])),
    when: OWN,
  },
  {
    sql: "format('grant all on all routines in schema %I to %I', schema_name, role_name)",
    has: `(select coalesce(bool_and(${granted('f.proacl', 'f', 'f.proowner', 'role', ['EXECUTE'])}), true) from pg_catalog.pg_proc f where f.pronamespace = schema)`,
    when: OWN,
  },
  {
    sql: "format('alter default privileges in schema %I grant all on tables to %I', schema_name, role_name)",
    has: later('schema', 'r', 'role', 'TRUNCATE'),
    when: OWN,
  },
  {
    sql: "format('alter default privileges in schema %I grant all on sequences to %I', schema_name, role_name)",
    has: later('schema', 'S', 'role', 'UPDATE'),
    when: OWN,
  },
  {
    sql: "format('grant usage on schema %I to %I', schema_name, group_name)",
    has: onSchema('schema', 'grp', ['USAGE']),
    when: ROWS,
  },
  {
    sql: "format('grant select, insert, update, delete on %s to %I', t.sql, group_name)",
    has: onRelation('r', 'grp', ROW_RIGHTS),
    from: 'asked cross join row_table t join pg_catalog.pg_class c on c.oid = t.oid',
    when: "t.rights = 'rows'",
  },
  {
    sql: "format('grant select on %s to %I', t.sql, group_name)",
    has: onRelation('r', 'grp', READ),
    from: 'asked cross join row_table t join pg_catalog.pg_class c on c.oid = t.oid',
    when: "t.rights = 'shared'",
  },
  {
    sql: "format('grant usage on all sequences in schema %I to %I', schema_name, group_name)",
    has: onAll('schema', "'S'", onRelation('s', 'grp', ['USAGE'])),
    when: ROWS,
  },
  {
    sql: "format('grant usage on schema %I to %I', s.name, group_name)",
    has: onSchema('s.oid', 'grp', ['USAGE']),
    from: 'asked cross join shared_schema s',
  },
  {
    sql: "format('grant select on all tables in schema %I to %I', s.name, group_name)",
    has: onAll('s.oid', TABLES, onRelation('r', 'grp', READ)),
    from: 'asked cross join shared_schema s',
  },
  {
    sql: "format('alter default privileges in schema %I grant select on tables to %I', s.name, group_name)",
    has: later('s.oid', 'r', 'grp', 'SELECT'),
    from: 'asked cross join shared_schema s',
  },
]

/**
 * The statements that give a tenant's role what it lacks; no row where it lacks nothing. Most roles lack nothing, at each start of an application, and to grant again what is there would write a row of the catalogue for
 * each object all the same.
 *
 * `row_table`: of the tables with rows of many tenants, those that are isolated, and views that read as whoever asks; and those that were named as shared. One that is not isolated yet is nobody's.
 */
const MISSING_GRANTS = `
with asked as (
  select $1::text as role_name, $2::text as gate_name, $3::text as group_name, $4::text as other_name, $5::text as schema_name, $6::text as isolation, $9::boolean as login,
    (select r.oid from pg_catalog.pg_roles r where r.rolname = $1) as role,
    (select r.oid from pg_catalog.pg_roles r where r.rolname = $2) as gate,
    (select r.oid from pg_catalog.pg_roles r where r.rolname = $3) as grp,
    (select r.oid from pg_catalog.pg_roles r where r.rolname = $4) as other,
    (select r.oid from pg_catalog.pg_roles r where r.rolname = current_user) as me,
    (select n.oid from pg_catalog.pg_namespace n where n.nspname = $5) as schema,
    current_setting('server_version_num')::int >= 160000 as has_options
),
shared_schema as (
  select s.name, n.oid from unnest($7::text[]) s (name) left join pg_catalog.pg_namespace n on n.nspname = s.name
),
row_table as (
  select c.oid, format('%I.%I', schema_name, c.relname) as sql, case
      when c.relname = any($8::text[]) then 'shared'
      when c.relkind = 'v' and ${securityInvokerSql('c')} then 'rows'
      when c.relrowsecurity and c.relforcerowsecurity and exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname = '${TENANT_POLICY}') then 'rows' end as rights
  from asked join pg_catalog.pg_class c on c.relnamespace = schema and c.relkind in (${TABLES})
  where ${ROWS}
)
${GRANTS.map(missing).join('\nunion all\n')}`

/** What is known about a tenant's role before anything is granted to it. */
export interface TenantRoleFacts {
  readonly schemaExists: boolean
  readonly groupExists: boolean
  readonly exists: boolean
  /** It may do what no tenant's role may. */
  readonly mighty: boolean
  readonly canLogin: boolean
  /** Roles other than its group that it is a member of. */
  readonly memberOf: readonly string[]
  /** Whoever asks may read what the server keeps of passwords. */
  readonly readsPasswords: boolean
  /** The statements of {@link MISSING_GRANTS}. */
  readonly missing: readonly string[]
}

/** One row, {@link TenantRoleFacts}. */
export const TENANT_ROLE_FACTS = `
select exists (select from pg_catalog.pg_namespace n where n.nspname = $5) as "schemaExists",
  exists (select from pg_catalog.pg_roles g where g.rolname = $3) as "groupExists",
  r.oid is not null as exists, coalesce(r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolcreatedb or r.rolreplication, false) as mighty,
  coalesce(r.rolcanlogin, false) as "canLogin",
  array(select o.rolname::text from pg_catalog.pg_auth_members m join pg_catalog.pg_roles o on o.oid = m.roleid where m.member = r.oid and o.rolname not in ($3, $4) order by 1) as "memberOf",
  pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'select') as "readsPasswords",
  array(${MISSING_GRANTS}) as missing
from (select) one left join pg_catalog.pg_roles r on r.rolname = $1`
