/**
 * Two members of a `with recursive`: which relation each view reads. A view depends on what it reads through its SELECT rule; of a view over a view, `reaches` also tells what the inner one reads.
 */
export const REACHES_SQL = `
view_reads as (
  select distinct rule.ev_class as view, d.refobjid as relation
  from pg_catalog.pg_rewrite rule
  join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = rule.oid
    and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> rule.ev_class
  where rule.ev_type = '1'
),
reaches as (
  select view, relation from view_reads
  union
  select reaches.view, view_reads.relation from reaches join view_reads on view_reads.view = reaches.relation
)`

/** Whether a view, a row of `pg_class`, reads with the rights of whoever asks. */
export const securityInvokerSql = (view: string): string =>
  `coalesce((select bool_or(o.option_value::boolean) from pg_catalog.pg_options_to_table(${view}.reloptions) o where o.option_name = 'security_invoker'), false)`
