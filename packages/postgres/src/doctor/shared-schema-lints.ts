import type { Lint } from './lint.ts'

/** What is wrong with schemas that every tenant looks into, and with functions that lend the rights of their owner. */
export const sharedSchemaLints: readonly Lint[] = [
  {
    code: 'PARTYWALL_SHARED_SCHEMA_MISSING',
    severity: 'warning',
    title: 'A shared schema does not exist, so nothing was checked in it.',
    remedy: 'Correct sharedSchemas, here and where the pool is made.',
    sql: 'select name as schema from shared_name where name not in (select nspname from shared_schema)',
    evidence: ({ schema }: { readonly schema: string }) => `schema "${schema}"`,
  },
  {
    code: 'PARTYWALL_SHARED_SCHEMA_CREATABLE',
    severity: 'error',
    title:
      'Anybody may create objects in a shared schema, where every tenant finds them. So it was by default before Postgres 15.',
    remedy: 'revoke create on schema ... from public.',
    sql: `select n.nspname as schema from shared_schema
      join pg_catalog.pg_namespace n using (oid) cross join pg_catalog.aclexplode(n.nspacl) acl
      where acl.grantee = 0 and acl.privilege_type = 'CREATE'`,
    evidence: ({ schema }: { readonly schema: string }) => `schema "${schema}"`,
  },
  {
    code: 'PARTYWALL_SHARED_TABLE_WRITABLE',
    severity: 'info',
    title: 'The application may write to a shared table, and so may every tenant.',
    remedy:
      'If tenants are only to read it: revoke insert, update, delete, truncate on ... from ...',
    sql: `select c.oid::regclass::text as table
      from pg_catalog.pg_class c join shared_schema n on n.oid = c.relnamespace cross join login
      where c.relkind in ('r', 'p', 'f')
        and pg_catalog.has_schema_privilege(login.oid, n.oid, 'usage')
        and pg_catalog.has_table_privilege(login.oid, c.oid, 'insert, update, delete, truncate')`,
    evidence: ({ table }: { readonly table: string }) => table,
  },
  {
    code: 'PARTYWALL_DEFINER_PATH_NOT_FIXED',
    severity: 'error',
    title:
      'A SECURITY DEFINER function has no search_path of its own: its caller decides which tables it opens with the rights of its owner.',
    remedy:
      'alter function ... set search_path = pg_catalog, pg_temp, and qualify the names in it.',
    sql: `select f.oid::regprocedure::text as function
      from pg_catalog.pg_proc f join user_schema n on n.oid = f.pronamespace
      where f.prosecdef and not exists (select from unnest(f.proconfig) setting where setting like 'search\\_path=%')`,
    evidence: ({ function: name }: { readonly function: string }) => name,
  },
  {
    code: 'PARTYWALL_DEFINER_PUBLIC',
    severity: 'warning',
    title:
      'Anybody may call a SECURITY DEFINER function of a shared schema, and acts with the rights of its owner. So it is by default.',
    remedy: 'revoke execute on function ... from public, and grant it to those who need it.',
    // Nobody can call a trigger function, whoever may execute it.
    sql: `select f.oid::regprocedure::text as function
      from pg_catalog.pg_proc f join shared_schema n on n.oid = f.pronamespace
      where f.prosecdef and f.prorettype not in ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype)
        and exists (select from pg_catalog.aclexplode(coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner))) acl
          where acl.grantee = 0 and acl.privilege_type = 'EXECUTE')`,
    evidence: ({ function: name }: { readonly function: string }) => name,
  },
  {
    code: 'PARTYWALL_DEFAULT_PRIVILEGES_PUBLIC',
    severity: 'warning',
    title: 'Default privileges give objects that do not exist yet to everybody.',
    remedy: 'alter default privileges for role ... revoke ... from public.',
    // An entry for all schemas repeats what is built in, such as EXECUTE on functions; that alone was nobody's decision.
    sql: `select r.rolname as owner, coalesce(n.nspname, '') as schema, acl.privilege_type as privilege,
        case def.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types' when 'n' then 'schemas' else 'large objects' end as objects
      from pg_catalog.pg_default_acl def
      join pg_catalog.pg_roles r on r.oid = def.defaclrole
      left join pg_catalog.pg_namespace n on n.oid = def.defaclnamespace
      cross join pg_catalog.aclexplode(def.defaclacl) acl
      where acl.grantee = 0 and not (def.defaclnamespace = 0 and exists (
        select from pg_catalog.aclexplode(pg_catalog.acldefault(case def.defaclobjtype when 'S' then 's' else def.defaclobjtype end, def.defaclrole)) built_in
        where built_in.grantee = 0 and built_in.privilege_type = acl.privilege_type))`,
    evidence: ({
      owner,
      schema,
      privilege,
      objects,
    }: {
      readonly owner: string
      readonly schema: string
      readonly privilege: string
      readonly objects: string
    }) =>
      `${privilege} on ${objects} that "${owner}" creates in ${schema === '' ? 'any schema' : `schema "${schema}"`}`,
  },
]
