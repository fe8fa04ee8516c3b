import type { Lint } from './lint.ts'

/** What is wrong between a schema and its tenant, and between the schemas of two tenants. */
export const tenantSchemaLints: readonly Lint[] = [
  {
    code: 'PARTYWALL_TENANT_SCHEMA_UNMARKED',
    severity: 'warning',
    title: "A tenant's schema was not created by Partywall, or has lost its mark.",
    remedy:
      "Look whose tables these are. If they are the tenant's: comment on schema ... is 'partywall tenant <id>'.",
    needs: 'tenants',
    // The schema public is there before its tenant is, and is used as it is.
    sql: `select n.nspname as schema, record.tenant_id
      from tenant_schema n join tenant_record record on record.schema = n.nspname
      where n.mark is null and n.nspname <> 'public'`,
    evidence: ({ schema, tenant_id }: { readonly schema: string; readonly tenant_id: string }) =>
      `schema "${schema}" of tenant ${tenant_id}`,
  },
  {
    code: 'PARTYWALL_TENANT_SCHEMA_MISMARKED',
    severity: 'error',
    title: "A tenant's record leads to a schema that is marked as another tenant's.",
    remedy:
      'One of the two is wrong: correct the placement of the record, or the comment on the schema. Until then suspend the tenant.',
    needs: 'tenants',
    sql: `select n.nspname as schema, record.tenant_id, n.mark
      from tenant_schema n join tenant_record record on record.schema = n.nspname
      where n.mark <> record.tenant_id`,
    evidence: ({
      schema,
      tenant_id,
      mark,
    }: {
      readonly schema: string
      readonly tenant_id: string
      readonly mark: string
    }) => `schema "${schema}" is used by tenant ${tenant_id} and marked as that of tenant ${mark}`,
  },
  {
    code: 'PARTYWALL_TENANT_MARK_ORPHANED',
    severity: 'warning',
    title: 'A schema carries the mark of a tenant that the store has never heard of.',
    remedy:
      'Restore the record of the tenant, or drop the schema after a backup. The next tenant of that id must not find it.',
    needs: 'tenants',
    sql: `select n.nspname as schema, n.mark from tenant_schema n
      where n.mark is not null and n.mark not in (select tenant_id from known_tenant)`,
    evidence: ({ schema, mark }: { readonly schema: string; readonly mark: string }) =>
      `schema "${schema}", marked as that of tenant ${mark}`,
  },
  {
    code: 'PARTYWALL_FOREIGN_KEY_CROSSES_TENANTS',
    severity: 'error',
    title:
      "A foreign key leads into a tenant's schema from outside: it tells which keys exist there, and holds its rows fast.",
    remedy: "alter table ... drop constraint ..., and add it again with the schema's own table.",
    sql: `select k.conrelid::regclass::text as table, k.conname as key, k.confrelid::regclass::text as target
      from pg_catalog.pg_constraint k
      join pg_catalog.pg_class own on own.oid = k.conrelid
      join pg_catalog.pg_class other on other.oid = k.confrelid
      join tenant_schema n on n.oid = other.relnamespace
      where k.contype = 'f' and own.relnamespace <> other.relnamespace`,
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
    code: 'PARTYWALL_DEFAULT_CROSSES_TENANTS',
    severity: 'error',
    title:
      "A column's default uses a sequence or function of another tenant, as CREATE TABLE ... LIKE ... INCLUDING ALL leaves it.",
    remedy:
      'Create a sequence in the schema of the table and alter table ... alter column ... set default nextval(...); identity columns are copied rightly.',
    sql: `select t.oid::regclass::text as table, a.attname as column, coalesce(s.oid::regclass::text, f.oid::regprocedure::text) as uses
      from pg_catalog.pg_attrdef def
      join pg_catalog.pg_class t on t.oid = def.adrelid
      join tenant_schema own on own.oid = t.relnamespace
      join pg_catalog.pg_attribute a on a.attrelid = def.adrelid and a.attnum = def.adnum
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid = def.oid
      left join pg_catalog.pg_class s on d.refclassid = 'pg_catalog.pg_class'::regclass and s.oid = d.refobjid and s.relkind = 'S'
      left join pg_catalog.pg_proc f on d.refclassid = 'pg_catalog.pg_proc'::regclass and f.oid = d.refobjid
      join tenant_schema other on other.oid = coalesce(s.relnamespace, f.pronamespace) and other.oid <> own.oid`,
    evidence: ({
      table,
      column,
      uses,
    }: {
      readonly table: string
      readonly column: string
      readonly uses: string
    }) => `${table}.${column} uses ${uses}`,
  },
  {
    code: 'PARTYWALL_VIEW_CROSSES_TENANTS',
    severity: 'error',
    title: "A view in a tenant's or a shared schema reads the table of a tenant by name.",
    remedy: 'drop view ..., and create it again with the names of its own schema.',
    sql: `select distinct v.oid::regclass::text as view, t.oid::regclass::text as table
      from pg_catalog.pg_rewrite rule
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = rule.oid
        and d.refclassid = 'pg_catalog.pg_class'::regclass
      join pg_catalog.pg_class v on v.oid = rule.ev_class
      join pg_catalog.pg_class t on t.oid = d.refobjid
      join tenant_schema other on other.oid = t.relnamespace
      where v.relnamespace <> t.relnamespace
        and (v.relnamespace in (select oid from tenant_schema) or v.relnamespace in (select oid from shared_schema))`,
    evidence: ({ view, table }: { readonly view: string; readonly table: string }) =>
      `${view} reads ${table}`,
  },
]
