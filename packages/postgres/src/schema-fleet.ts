import { MARK_PREFIX } from './internal/schema-mark.ts'
import type { Queryable } from './shadowed-tables.ts'

/** One schema that is marked as a tenant's. */
export interface TenantSchemaSummary {
  readonly tenantId: string
  readonly schema: string
  /** Tables, partitioned ones and partitions included. */
  readonly tables: number
  /** Bytes on disk of tables and materialized views with their indexes and TOAST tables; only with `sizes`. */
  readonly bytes?: number
}

export interface FleetOverviewOptions {
  /** Adds up sizes too: the server looks at the files of every table, which takes far longer than the rest. @defaultValue `false` */
  readonly sizes?: boolean | undefined
}

/**
 * All schemas of this database that are marked as tenants', by tenant, in one query whatever their number. Schemas without a mark, `public` among them, are not listed.
 *
 * @param central - a pool outside of every tenant, `pool.central`.
 */
export async function fleetOverview(
  central: Queryable,
  { sizes = false }: FleetOverviewOptions = {},
): Promise<TenantSchemaSummary[]> {
  const { rows } = await central.query<{
    tenantId: string
    schema: string
    tables: string
    bytes?: string
  }>(
    `select pg_catalog.substr(d.description, pg_catalog.length($1::text) + 1) as "tenantId", n.nspname as schema,
       count(*) filter (where c.relkind in ('r', 'p')) as tables
       ${sizes ? ", coalesce(sum(pg_catalog.pg_total_relation_size(c.oid)) filter (where c.relkind in ('r', 'm')), 0) as bytes" : ''}
     from pg_catalog.pg_namespace n
     join pg_catalog.pg_description d on d.objoid = n.oid and d.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.objsubid = 0
     left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relkind in ('r', 'p', 'm')
     where pg_catalog.starts_with(d.description, $1) and pg_catalog.substr(d.description, pg_catalog.length($1::text) + 1) ~ '^[a-z0-9-]+$'
     group by 1, 2 order by 1, 2`,
    [MARK_PREFIX],
  )
  return rows.map(({ tenantId, schema, tables, bytes }) => ({
    tenantId,
    schema,
    tables: Number(tables),
    ...(bytes === undefined ? {} : { bytes: Number(bytes) }),
  }))
}
