import { createMigration, type Migration } from './migrations.ts'
import { TENANT_POLICY } from './row-isolation/expressions.ts'
import { UNBOUND_RIGHTS_SQL } from './row-isolation/facts-sql.ts'
import { assertNoErrors } from './row-isolation-apply.ts'
import type { RowIsolationPlan } from './row-isolation-plan.ts'
import { quoteIdentifier } from './search-path.ts'

/**
 * A plan as a migration: an SQL text that can be checked in, read by others, and applied like any other, in one transaction, by a user who owns the tables. Write `sql` to a file, or put the migration into a set.
 *
 * Rights that no policy bounds are taken from whoever has them where the migration runs, for roles are not the same on every server. Rows that have no tenant there make it fail, unless the plan was made with
 * `tenantIdForExistingRows`.
 *
 * @throws {TenancyError} `ERR_TENANCY_ROW_ISOLATION_FAILED` for a plan with findings that are errors.
 */
export function rowIsolationMigration(plan: RowIsolationPlan, id: string): Migration {
  assertNoErrors(plan)
  const statements = plan.statements.filter(({ step }) => step !== 'grant').map(({ sql }) => sql)
  return createMigration(
    id,
    [
      '-- Isolates tables by rows. See "Row isolation" in the reference of Partywall.',
      // Whatever the path of the migration is, the functions of the server are meant; it is put back for those that come after.
      "select pg_catalog.set_config('partywall.path', pg_catalog.current_setting('search_path'), true), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);",
      ...statements.map((sql) => `${sql};`),
      revokeSql(plan.options.schema),
      "select pg_catalog.set_config('search_path', pg_catalog.current_setting('partywall.path'), true);",
      '',
    ].join('\n'),
  )
}

/** The name of the schema holds neither quotes nor backslashes, see assertSchemaName; it may hold the end of a dollar quote. */
function revokeSql(schema: string): string {
  const name = quoteIdentifier(schema)
  return `revoke create on schema ${name} from public;
select set_config('partywall.schema', '${schema}', true);
do $revoke$
declare found record;
begin
  for found in
    select c.oid::regclass as relation, rights.* from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_policy p on p.polrelid = c.oid and p.polname = '${TENANT_POLICY}'
    cross join lateral (
      select case acl.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(acl.grantee)) end as grantee, string_agg(distinct acl.privilege_type, ', ') as privileges
      from ${UNBOUND_RIGHTS_SQL} group by acl.grantee
    ) rights
    where n.nspname = current_setting('partywall.schema')
  loop
    execute format('revoke %s on %s from %s cascade', found.privileges, found.relation, found.grantee);
  end loop;
end $revoke$;`
}
