import type pg from 'pg'

/**
 * Names what stands outside of a schema and would fall with it: views, columns, constraints, functions of other schemas, and things of the whole database such as event triggers.
 *
 * `DROP ... CASCADE` follows `pg_depend` and does not stop at the border of a schema, so this follows it too, from the schema itself. What only exists as a part of something in
 * the schema is inside, wherever it is stored: TOAST tables, and the triggers that a foreign key of the schema puts on the table it points to. Bodies of functions are text, of
 * which the server records nothing.
 */
export async function findForeignDependents(
  client: Pick<pg.PoolClient, 'query'>,
  schemaOid: string,
): Promise<string[]> {
  const { rows } = await client.query<{ name: string }>(FOREIGN_DEPENDENTS, [schemaOid])
  return rows.map(({ name }) => name)
}

// A dependent of one column does not take the whole table along, hence the third member of the key.
const FOREIGN_DEPENDENTS = `
with recursive reached (classid, objid, objsubid) as (
  select 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid, $1::pg_catalog.oid, 0
  union
  select d.classid, d.objid, d.objsubid
  from reached r join pg_catalog.pg_depend d
    on d.refclassid = r.classid and d.refobjid = r.objid and (r.objsubid = 0 or d.refobjsubid = r.objsubid)
), placed as (
  select r.classid, r.objid, r.objsubid, k.relname as kind, case k.relname
    when 'pg_class' then (select o.relnamespace from pg_catalog.pg_class o where o.oid = r.objid)
    when 'pg_rewrite' then (select t.relnamespace from pg_catalog.pg_rewrite o join pg_catalog.pg_class t on t.oid = o.ev_class where o.oid = r.objid)
    when 'pg_attrdef' then (select t.relnamespace from pg_catalog.pg_attrdef o join pg_catalog.pg_class t on t.oid = o.adrelid where o.oid = r.objid)
    when 'pg_policy' then (select t.relnamespace from pg_catalog.pg_policy o join pg_catalog.pg_class t on t.oid = o.polrelid where o.oid = r.objid)
    when 'pg_trigger' then (
      select coalesce(c.connamespace, t.relnamespace) from pg_catalog.pg_trigger o
      join pg_catalog.pg_class t on t.oid = o.tgrelid
      left join pg_catalog.pg_constraint c on c.oid = o.tgconstraint and o.tgisinternal
      where o.oid = r.objid)
    when 'pg_constraint' then (select o.connamespace from pg_catalog.pg_constraint o where o.oid = r.objid)
    when 'pg_proc' then (select o.pronamespace from pg_catalog.pg_proc o where o.oid = r.objid)
    when 'pg_type' then (select o.typnamespace from pg_catalog.pg_type o where o.oid = r.objid)
    when 'pg_operator' then (select o.oprnamespace from pg_catalog.pg_operator o where o.oid = r.objid)
    when 'pg_opclass' then (select o.opcnamespace from pg_catalog.pg_opclass o where o.oid = r.objid)
    when 'pg_opfamily' then (select o.opfnamespace from pg_catalog.pg_opfamily o where o.oid = r.objid)
    when 'pg_amop' then (select f.opfnamespace from pg_catalog.pg_amop o join pg_catalog.pg_opfamily f on f.oid = o.amopfamily where o.oid = r.objid)
    when 'pg_amproc' then (select f.opfnamespace from pg_catalog.pg_amproc o join pg_catalog.pg_opfamily f on f.oid = o.amprocfamily where o.oid = r.objid)
    when 'pg_collation' then (select o.collnamespace from pg_catalog.pg_collation o where o.oid = r.objid)
    when 'pg_conversion' then (select o.connamespace from pg_catalog.pg_conversion o where o.oid = r.objid)
    when 'pg_statistic_ext' then (select o.stxnamespace from pg_catalog.pg_statistic_ext o where o.oid = r.objid)
    when 'pg_ts_config' then (select o.cfgnamespace from pg_catalog.pg_ts_config o where o.oid = r.objid)
    when 'pg_ts_dict' then (select o.dictnamespace from pg_catalog.pg_ts_dict o where o.oid = r.objid)
    when 'pg_ts_parser' then (select o.prsnamespace from pg_catalog.pg_ts_parser o where o.oid = r.objid)
    when 'pg_ts_template' then (select o.tmplnamespace from pg_catalog.pg_ts_template o where o.oid = r.objid)
    when 'pg_extension' then (select o.extnamespace from pg_catalog.pg_extension o where o.oid = r.objid)
  end as namespace
  from reached r join pg_catalog.pg_class k on k.oid = r.classid
), abroad as (
  -- A view is reached by its rule; people know the view.
  select distinct
    case p.kind when 'pg_rewrite' then 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid else p.classid end as classid,
    case p.kind when 'pg_rewrite' then (select o.ev_class from pg_catalog.pg_rewrite o where o.oid = p.objid) else p.objid end as objid,
    p.objsubid
  from placed p
  where p.namespace is distinct from $1::pg_catalog.oid
    and p.namespace is distinct from 'pg_toast'::pg_catalog.regnamespace
    -- These have no schema and no meaning without what they belong to.
    and p.kind not in ('pg_namespace', 'pg_default_acl', 'pg_cast', 'pg_transform', 'pg_publication_rel', 'pg_publication_namespace')
)
select distinct i.type || ' ' || i.identity as name
from abroad a cross join lateral pg_catalog.pg_identify_object(a.classid, a.objid, a.objsubid) i
where i.identity is not null
  -- Row types and array types go without saying.
  and not exists (
    select from pg_catalog.pg_type t left join pg_catalog.pg_type e on e.oid = t.typelem
    where a.classid = 'pg_catalog.pg_type'::pg_catalog.regclass and t.oid = a.objid and (t.typrelid <> 0 or e.typarray = t.oid))
order by 1`
