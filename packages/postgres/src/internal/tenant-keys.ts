import { TENANT_COLUMN } from '../row-isolation/expressions.ts'

/** Whether a relation has a column for the tenant. */
export const hasTenantSql = (relation: string): string =>
  `exists (select from pg_catalog.pg_attribute a where a.attrelid = ${relation} and a.attname = '${TENANT_COLUMN}' and not a.attisdropped)`

/** Whether a foreign key, a row of `pg_constraint`, leads from the tenant to the tenant (`and`), or has it at either end of a pair (`or`). */
export const pairsTenantSql = (key: string, ends: 'and' | 'or' = 'and'): string =>
  `exists (select from unnest(${key}.conkey, ${key}.confkey) pair (own, other)
    join pg_catalog.pg_attribute a on a.attrelid = ${key}.conrelid and a.attnum = pair.own
    join pg_catalog.pg_attribute b on b.attrelid = ${key}.confrelid and b.attnum = pair.other
    where a.attname = '${TENANT_COLUMN}' ${ends} b.attname = '${TENANT_COLUMN}')`

/**
 * Whether a unique or exclusion index, a row of `pg_index`, compares the tenant: as a column of its own, and in an exclusion constraint by equality.
 *
 * @param exclusion - its row of `pg_constraint`, if it has one.
 */
export const includesTenantSql = (index: string, exclusion: string): string =>
  `exists (select from unnest(${index}.indkey::int2[]) with ordinality n (number, position)
    join pg_catalog.pg_attribute a on a.attrelid = ${index}.indrelid and a.attnum = n.number
    where n.position <= ${index}.indnkeyatts and a.attname = '${TENANT_COLUMN}'
      and (${exclusion}.conexclop is null or exists (select from pg_catalog.pg_operator o where o.oid = ${exclusion}.conexclop[n.position] and o.oprname = '=')))`
