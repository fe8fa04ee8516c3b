import { quoteIdentifier } from '../search-path.ts'
import type { Queryable } from '../shadowed-tables.ts'

/** What makes everything in a schema the role's own. What belongs to a table or to an extension goes with it. */
export async function ownershipStatements(
  client: Queryable,
  schema: string,
  role: string,
): Promise<string[]> {
  const { rows } = await client.query<{ statement: string }>(
    `with owner as (select oid from pg_catalog.pg_roles where rolname = $2),
          own as (select oid from pg_catalog.pg_namespace where nspname = $1)
     select format('alter table %s owner to %I', c.oid::regclass, $2::text) as statement
     from pg_catalog.pg_class c
     where c.relnamespace = (select oid from own) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
       and c.relowner is distinct from (select oid from owner)
       and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i', 'e'))
     union all
     select format('alter routine %s owner to %I', p.oid::regprocedure, $2::text)
     from pg_catalog.pg_proc p
     where p.pronamespace = (select oid from own) and p.proowner is distinct from (select oid from owner) and p.prokind in ('f', 'p', 'w')
       and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
     union all
     select format('alter type %s owner to %I', t.oid::regtype, $2::text)
     from pg_catalog.pg_type t
     where t.typnamespace = (select oid from own) and t.typowner is distinct from (select oid from owner) and t.typtype in ('e', 'd')
       and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')`,
    [schema, role],
  )
  const statements = rows.map(({ statement }) => statement)
  // Who gives something away must be able to become the new owner; a superuser always is.
  return statements.length === 0
    ? []
    : [`grant ${quoteIdentifier(role)} to current_user`, ...statements]
}
