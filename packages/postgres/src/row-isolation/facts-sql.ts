import { hasTenantSql, includesTenantSql, pairsTenantSql } from '../internal/tenant-keys.ts'
import { securityInvokerSql, viewReadsSql } from '../internal/view-reads.ts'
import { TENANT_CHECK, TENANT_COLUMN } from './expressions.ts'

const object = (members: Readonly<Record<string, string>>): string =>
  `jsonb_build_object(${Object.entries(members)
    .map(([name, sql]) => `'${name}', ${sql}`)
    .join(', ')})`

const list = (element: string, order: string, from: string): string =>
  `coalesce((select jsonb_agg(${element} order by ${order}) from ${from}), '[]')`

const sqlName = (relation: string, schema: string): string =>
  `format('%I.%I', ${schema}.nspname, ${relation}.relname)`

/** The rights on the table `c` that no policy bounds, of all but its owner; on its columns as well, from where REVOKE on the table takes them, too. */
export const UNBOUND_RIGHTS_SQL = `(
  select acl.* from pg_catalog.aclexplode(c.relacl) acl
  union all
  select acl.* from pg_catalog.pg_attribute a cross join pg_catalog.aclexplode(a.attacl) acl where a.attrelid = c.oid
) acl where acl.grantee <> c.relowner and acl.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')`

/** Columns that newer servers have, and older ones lack, are read through the row as a whole. */
const since = (row: string, column: string, before: string): string =>
  `coalesce((to_jsonb(${row}) ->> '${column}')::boolean, ${before})`

/** No policy holds for a role. */
const exempt = (role: string): string =>
  `(select r.rolsuper or r.rolbypassrls from pg_roles r where r.oid = ${role})`

const quotedColumns = (table: string, numbers: string): string =>
  list(
    'quote_ident(a.attname)',
    'n.position',
    `unnest(${numbers}) with ordinality n (number, position) join pg_attribute a on a.attrelid = ${table} and a.attnum = n.number`,
  )

/** Whether a check is one that no row escapes; CHECK can be NOT ENFORCED since PostgreSQL 18. */
const HOLDS = `k.convalidated and ${since('k', 'conenforced', 'true')}`

const TENANT_COLUMN_FACTS = object({
  type: 'format_type(a.atttypid, null)',
  // Since PostgreSQL 18 a NOT NULL can be NOT VALID.
  notNull: `a.attnotnull and not exists (select from pg_constraint k where k.conrelid = a.attrelid and k.contype = 'n' and k.conkey = array[a.attnum] and not (${HOLDS}))`,
  default:
    '(select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d where d.adrelid = a.attrelid and d.adnum = a.attnum)',
  generated: "a.attgenerated <> '' or a.attidentity <> ''",
  deterministic:
    'coalesce((select o.collisdeterministic from pg_collation o where o.oid = a.attcollation), true)',
  checks: list(
    'pg_get_constraintdef(k.oid)',
    'k.conname',
    `pg_constraint k where k.conrelid = a.attrelid and k.contype = 'c' and k.conkey = array[a.attnum] and not k.connoinherit and ${HOLDS}`,
  ),
})

const POLICY_FACTS = object({
  name: 'p.polname',
  permissive: 'p.polpermissive',
  command: 'p.polcmd',
  everybody: "p.polroles = '{0}'",
  using: 'pg_get_expr(p.polqual, p.polrelid)',
  check: 'pg_get_expr(p.polwithcheck, p.polrelid)',
})

const RELATION_FACTS = object({
  oid: 'c.oid',
  name: 'c.relname',
  sql: sqlName('c', 'own'),
  kind: 'c.relkind',
  isPartition: 'c.relispartition',
  isTyped: 'c.reloftype <> 0',
  secured: 'c.relrowsecurity',
  forced: 'c.relforcerowsecurity',
  ownerIsExempt: exempt('c.relowner'),
  ownerIsTenant: "pg_get_userbyid(c.relowner) like 'tenant-%'",
  parents: list('i.inhparent', 'i.inhseqno', 'pg_inherits i where i.inhrelid = c.oid'),
  childrenOutside: list(
    'x.oid::regclass::text',
    'x.oid',
    'pg_inherits i join pg_class x on x.oid = i.inhrelid where i.inhparent = c.oid and x.relnamespace <> c.relnamespace',
  ),
  tenantColumn: `(select ${TENANT_COLUMN_FACTS} from pg_attribute a where a.attrelid = c.oid and a.attname = '${TENANT_COLUMN}' and not a.attisdropped)`,
  hasTenantCheck: `exists (select from pg_constraint k where k.conrelid = c.oid and k.conname = '${TENANT_CHECK}')`,
  hasTenantIndex: `exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
    where i.indrelid = c.oid and a.attname = '${TENANT_COLUMN}' and i.indisvalid and i.indpred is null and m.amname = 'btree')`,
  policies: list(POLICY_FACTS, 'p.polname', 'pg_policy p where p.polrelid = c.oid'),
  dangerousGrants: list(
    "jsonb_build_object('role', g.role, 'privileges', g.privileges)",
    'g.role',
    `(select case acl.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(acl.grantee)) end as role,
        string_agg(distinct lower(acl.privilege_type), ', ') as privileges
      from ${UNBOUND_RIGHTS_SQL} group by acl.grantee) g`,
  ),
  // 16 is UPDATE (catalog/pg_trigger.h).
  updateTriggers: list(
    "jsonb_build_object('name', quote_ident(t.tgname), 'enabled', t.tgenabled)",
    't.tgname',
    "pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal and t.tgtype & 16 <> 0 and t.tgenabled in ('O', 'A')",
  ),
  publications: list(
    'quote_ident(u.pubname)',
    'u.pubname',
    `pg_publication_rel r join pg_publication u on u.oid = r.prpubid where r.prrelid = c.oid and r.prattrs is not null
      and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = '${TENANT_COLUMN}' and a.attnum = any(r.prattrs))`,
  ),
})

const KEY_FACTS = object({
  index: 'x.oid',
  table: 't.oid',
  indexName: 'quote_ident(x.relname)',
  indexSql: sqlName('x', 'own'),
  constraint: `case when k.oid is not null then ${object({
    name: 'quote_ident(k.conname)',
    definition: 'pg_get_constraintdef(k.oid)',
    suffix:
      "case when k.condeferrable then ' DEFERRABLE' else '' end || case when k.condeferred then ' INITIALLY DEFERRED' else '' end",
    comment: "obj_description(k.oid, 'pg_constraint')",
  })} end`,
  kind: "case k.contype when 'p' then 'primary' when 'u' then 'unique' when 'x' then 'exclusion' else 'index' end",
  method: 'm.amname',
  includesTenant: includesTenantSql('i', 'k'),
  valid: 'i.indisvalid',
  partial: 'i.indpred is not null',
  definition: 'pg_get_indexdef(x.oid)',
  head: `format('CREATE UNIQUE INDEX %I ON %s%I.%I USING %I (', x.relname, case when t.relkind = 'p' then 'ONLY ' else '' end, own.nspname, t.relname, m.amname)`,
  newHead: `format('create unique index %I on %I.%I using %I (', x.relname, own.nspname, t.relname, m.amname)`,
  options: `(select string_agg(quote_ident(o.option_name) || '=' || quote_literal(o.option_value), ', ') from pg_options_to_table(x.reloptions) o)`,
  tablespace:
    '(select quote_ident(s.spcname) from pg_tablespace s where s.oid = x.reltablespace and x.reltablespace <> 0)',
  clustered: 'i.indisclustered',
  replicaIdentity: 'i.indisreplident',
  comment: "obj_description(x.oid, 'pg_class')",
  statistics: list(
    "jsonb_build_object('column', a.attnum, 'target', a.attstattarget)",
    'a.attnum',
    'pg_attribute a where a.attrelid = x.oid and a.attstattarget >= 0',
  ),
  // Foreign keys are rebuilt with their key. A partition's copy of the index has no name of its own that the next one could be given.
  dependents: list(
    'd.name',
    'd.name',
    `(select pg_describe_object(d.classid, d.objid, d.objsubid) as name from pg_depend d
      where d.deptype = 'n' and ((d.refclassid = 'pg_class'::regclass and d.refobjid = x.oid) or (d.refclassid = 'pg_constraint'::regclass and d.refobjid = k.oid))
        and not (d.classid = 'pg_constraint'::regclass and exists (select from pg_constraint f where f.oid = d.objid and f.contype = 'f'))
      union all
      select 'replica identity of ' || p.indrelid::regclass from pg_partition_tree(x.oid) tree join pg_index p on p.indexrelid = tree.relid where tree.level > 0 and p.indisreplident) d`,
  ),
})

const FOREIGN_KEY_FACTS = object({
  oid: 'f.oid',
  name: 'quote_ident(f.conname)',
  from: 'f.conrelid',
  fromSql: sqlName('source', 'source_schema'),
  to: 'f.confrelid',
  toSql: sqlName('target', 'target_schema'),
  fromInside: 'source.relnamespace = own.oid',
  toInside: 'target.relnamespace = own.oid',
  toIsolated: `target.relrowsecurity and ${hasTenantSql('target.oid')}`,
  columns: quotedColumns('f.conrelid', 'f.conkey'),
  references: quotedColumns('f.confrelid', 'f.confkey'),
  nullable:
    'exists (select from pg_attribute a where a.attrelid = f.conrelid and a.attnum = any(f.conkey) and not a.attnotnull)',
  pairsTenant: pairsTenantSql('f'),
  namesTenant: pairsTenantSql('f', 'or'),
  match: 'f.confmatchtype',
  onUpdate: 'f.confupdtype',
  onDelete: 'f.confdeltype',
  deleteColumns: quotedColumns('f.conrelid', 'f.confdelsetcols'),
  deferrable: 'f.condeferrable',
  deferred: 'f.condeferred',
  validated: 'f.convalidated',
  enforced: since('f', 'conenforced', 'true'),
  period: since('f', 'conperiod', 'false'),
  comment: "obj_description(f.oid, 'pg_constraint')",
  triggersDisabled:
    "exists (select from pg_trigger g where g.tgconstraint = f.oid and g.tgenabled in ('D', 'R'))",
})

/** One row with one value, {@link SchemaFacts}, or none if there is no schema of the name $1. What belongs to extensions is theirs, and is not looked at. */
export const FACTS_SQL = `
with recursive own as (
  select n.oid, n.nspname, n.nspacl, n.nspowner from pg_namespace n where n.nspname = $1
),
relation as (
  select c.* from pg_class c join own on c.relnamespace = own.oid
  where c.relkind in ('r', 'p', 'f', 'm')
    and not exists (select from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
), ${viewReadsSql('relation')}
select ${object({
  schemaSql: 'quote_ident(own.nspname)',
  version: "current_setting('server_version_num')::int",
  readerIsExempt: exempt('(select u.oid from pg_roles u where u.rolname = current_user)'),
  anybodyCreates:
    "exists (select from aclexplode(coalesce(own.nspacl, acldefault('n', own.nspowner))) acl where acl.grantee = 0 and acl.privilege_type = 'CREATE')",
  gistTypes: list(
    'format_type(o.opcintype, null)',
    'o.oid',
    "pg_opclass o join pg_am m on m.oid = o.opcmethod where m.amname = 'gist' and o.opcdefault",
  ),
  relations: list(RELATION_FACTS, 'c.relname collate "C"', 'relation c'),
  keys: list(
    KEY_FACTS,
    'x.relname collate "C"',
    `relation t join pg_index i on i.indrelid = t.oid and (i.indisunique or i.indisexclusion) join pg_class x on x.oid = i.indexrelid and not x.relispartition
      join pg_am m on m.oid = x.relam left join pg_constraint k on k.conindid = x.oid and k.conrelid = t.oid and k.contype in ('p', 'u', 'x')`,
  ),
  foreignKeys: list(
    FOREIGN_KEY_FACTS,
    'source.relname collate "C", f.conname collate "C"',
    `pg_constraint f join pg_class source on source.oid = f.conrelid join pg_namespace source_schema on source_schema.oid = source.relnamespace
      join pg_class target on target.oid = f.confrelid join pg_namespace target_schema on target_schema.oid = target.relnamespace
      where f.contype = 'f' and f.conparentid = 0 and (f.conrelid in (select oid from relation) or f.confrelid in (select oid from relation))`,
  ),
  views: list(
    object({
      sql: sqlName('v', 'n'),
      inside: 'n.oid = own.oid',
      materialized: "v.relkind = 'm'",
      invoker: securityInvokerSql('v'),
      reads: '(select jsonb_agg(distinct r.relation) from view_reads r where r.view = v.oid)',
    }),
    'n.nspname collate "C", v.relname collate "C"',
    "pg_class v join pg_namespace n on n.oid = v.relnamespace where v.oid in (select view from view_reads) and v.relkind in ('v', 'm')",
  ),
  rules: list(
    `jsonb_build_object('name', format('%I on %s', rule.rulename, rule.ev_class::regclass), 'relations', (
      select jsonb_agg(distinct d.refobjid) from pg_depend d where d.classid = 'pg_rewrite'::regclass and d.objid = rule.oid and d.refclassid = 'pg_class'::regclass))`,
    'rule.oid',
    `pg_rewrite rule join pg_class ruled on ruled.oid = rule.ev_class where rule.ev_type <> '1' and ${exempt('ruled.relowner')}
      and exists (select from pg_depend d join relation on relation.oid = d.refobjid where d.classid = 'pg_rewrite'::regclass and d.objid = rule.oid and d.refclassid = 'pg_class'::regclass)`,
  ),
  definers: list(
    'p.oid::regprocedure::text',
    'p.oid',
    `pg_proc p where p.pronamespace = own.oid and p.prosecdef and ${exempt('p.proowner')}
      and not exists (select from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e')`,
  ),
})} as facts
from own`
