import type pg from 'pg'

/** What a batch takes: an object by its identity, which survives renames, and how many locks its end takes at most. */
export interface SchemaObject {
  readonly classid: string
  readonly objid: string
  readonly locks: number
}

type Client = Pick<pg.PoolClient, 'query'>

// Members of an extension go with it, parts of another object (an identity's sequence, a range's constructors) with that.
const TOP_LEVEL = `
  d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid = $1::pg_catalog.oid and d.deptype = 'n'
  and not exists (
    select from pg_catalog.pg_depend e where e.classid = d.classid and e.objid = d.objid
      -- A partitioned table is a part of its own columns.
      and (e.refclassid, e.refobjid) <> (e.classid, e.objid)
      and (e.deptype in ('e', 'i') or e.deptype = 'a' and i.type = 'sequence'))`

/**
 * Lists the objects of a schema in an order in which they can be dropped: views (the newest first, for they stand on older ones), tables (partitions and children before their
 * parents), sequences, the rest, and extensions last.
 */
export async function listObjects(client: Client, schemaOid: string): Promise<SchemaObject[]> {
  const { rows } = await client.query<SchemaObject>(
    `with recursive above (relid, ancestor, steps) as (
       select h.inhrelid, h.inhparent, 1 from pg_catalog.pg_inherits h join pg_catalog.pg_class c on c.oid = h.inhrelid
       where c.relnamespace = $1::pg_catalog.oid and c.relkind in ('r', 'p', 'f')
       union
       select a.relid, h.inhparent, a.steps + 1 from above a join pg_catalog.pg_inherits h on h.inhrelid = a.ancestor
     ), depth as (select relid, max(steps) as steps from above group by relid)
     select d.classid::text as classid, d.objid::text as objid,
       -- A dependent has at most one of its own: an index for a constraint or a TOAST table, an array type for a row type.
       (2 + 2 * (select count(distinct (e.classid, e.objid)) from pg_catalog.pg_depend e where e.refclassid = d.classid and e.refobjid = d.objid))::int as locks
     from pg_catalog.pg_depend d cross join lateral pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
     left join depth t on t.relid = d.objid
     where ${TOP_LEVEL}
     order by case i.type when 'view' then 1 when 'materialized view' then 1 when 'table' then 2 when 'foreign table' then 2
       when 'sequence' then 3 when 'extension' then 5 else 4 end, coalesce(t.steps, 0) desc, d.objid desc`,
    [schemaOid],
  )
  return rows
}

/** Lists the foreign keys of a schema's tables; those of partitions go with the one of the partitioned table. */
export async function listForeignKeys(client: Client, schemaOid: string): Promise<SchemaObject[]> {
  const { rows } = await client.query<SchemaObject>(
    `select c.tableoid::text as classid, c.oid::text as objid,
       -- The constraint, both tables and four triggers, and as much for each partition.
       (8 * (1 + (select count(*) from pg_catalog.pg_constraint p where p.conparentid = c.oid)))::int as locks
     from pg_catalog.pg_constraint c
     where c.contype = 'f' and c.conparentid = 0 and c.connamespace = $1::pg_catalog.oid order by c.conrelid, c.oid`,
    [schemaOid],
  )
  return rows
}

/** Cuts a list into runs of at most `size` locks; an object that needs more stands alone. */
export function inBatches(objects: readonly SchemaObject[], size: number): SchemaObject[][] {
  const batches: SchemaObject[][] = []
  let left = 0
  for (const object of objects) {
    const batch = batches.at(-1)
    if (batch === undefined || object.locks > left) {
      batches.push([object])
      left = size - object.locks
    } else {
      batch.push(object)
      left -= object.locks
    }
  }
  return batches
}

export interface DropPlan {
  /** Tables to lock before anybody is asked who depends on them. */
  readonly lock: string[]
  readonly drop: string[]
}

/** Turns a batch into statements, by what its objects are called now. Objects that are gone, or were moved to another schema, are left out. */
export async function planDrop(
  client: Client,
  schemaOid: string,
  batch: readonly SchemaObject[],
): Promise<DropPlan> {
  const { rows } = await client.query<{ type: string; identity: string; lockable: boolean }>(
    `select i.type, i.identity, coalesce(c.relkind in ('r', 'p'), false) as lockable
     from unnest($2::pg_catalog.oid[], $3::pg_catalog.oid[]) with ordinality b (classid, objid, position)
     join pg_catalog.pg_depend d on d.classid = b.classid and d.objid = b.objid
     cross join lateral pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
     left join pg_catalog.pg_class c on c.oid = d.objid and d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
     where ${TOP_LEVEL} order by b.position`,
    [schemaOid, batch.map(({ classid }) => classid), batch.map(({ objid }) => objid)],
  )
  return {
    lock: rows.filter(({ lockable }) => lockable).map(({ identity }) => identity),
    drop: rows.map(
      ({ type, identity }) => `drop ${STATEMENT_TYPE[type] ?? type} if exists ${identity} cascade`,
    ),
  }
}

/** Where the server calls an object otherwise than its DROP statement does. ROUTINE fits aggregates as well, whatever their arguments look like. */
const STATEMENT_TYPE: Readonly<Record<string, string>> = {
  function: 'routine',
  procedure: 'routine',
  aggregate: 'routine',
  'statistics object': 'statistics',
}

/** As {@link planDrop}, for foreign keys. */
export async function planForeignKeys(
  client: Client,
  schemaOid: string,
  batch: readonly SchemaObject[],
): Promise<string[]> {
  const { rows } = await client.query<{ sql: string }>(
    `select pg_catalog.format('alter table %I.%I drop constraint %I', n.nspname, t.relname, c.conname) as sql
     from pg_catalog.pg_constraint c join pg_catalog.pg_class t on t.oid = c.conrelid
     join pg_catalog.pg_namespace n on n.oid = c.connamespace
     where c.oid = any($2::pg_catalog.oid[]) and c.connamespace = $1::pg_catalog.oid order by c.conrelid, c.oid`,
    [schemaOid, batch.map(({ objid }) => objid)],
  )
  return rows.map(({ sql }) => sql)
}

/** The number of objects of a schema: tables, views, sequences, types, functions and so on. An index or a constraint is part of its table. */
export async function countObjects(client: Client, schemaOid: string): Promise<number> {
  const { rows } = await client.query<{ count: string }>(
    `select count(*) as count from pg_catalog.pg_depend d
     where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid = $1::pg_catalog.oid and d.deptype = 'n'`,
    [schemaOid],
  )
  return Number(rows[0]?.count ?? 0)
}
