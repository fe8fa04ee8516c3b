/**
 * A member of a `with recursive`, `view_reads (relation, view)`: the views that read the given tables, also through other views. A view depends on what it reads through its SELECT rule. It goes up from the tables, by an index:
 * where tenants are many, so are the views of the database.
 *
 * @param tables - the name of a relation with a column `oid`.
 */
export const viewReadsSql = (tables: string): string => `
view_reads (relation, view) as (
  select t.oid, rule.ev_class
  from ${tables} t ${readersOf('t.oid')}
  union
  select r.relation, rule.ev_class
  from view_reads r ${readersOf('r.view')}
)`

function readersOf(relation: string): string {
  return `join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = ${relation} and d.classid = 'pg_catalog.pg_rewrite'::regclass
    join pg_catalog.pg_rewrite rule on rule.oid = d.objid and rule.ev_type = '1' and rule.ev_class <> ${relation}`
}

/** Whether a view, a row of `pg_class`, reads with the rights of whoever asks. */
export const securityInvokerSql = (view: string): string =>
  `coalesce((select bool_or(o.option_value::boolean) from pg_catalog.pg_options_to_table(${view}.reloptions) o where o.option_name = 'security_invoker'), false)`
