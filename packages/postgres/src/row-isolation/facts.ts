import { TenancyError } from '@partywall/core'
import type pg from 'pg'
import { FACTS_SQL } from './facts-sql.ts'

/** A number that names a table, an index or a constraint of one database. */
type Oid = string

/** The column of the tenant, as it is. */
export interface TenantColumnFacts {
  readonly type: string
  /** NOT NULL, and known to hold for every row. */
  readonly notNull: boolean
  readonly default: string | null
  readonly generated: boolean
  /** Equal means the same bytes. */
  readonly deterministic: boolean
  /** The validated checks of the table that are about this column alone, as Postgres prints them. */
  readonly checks: readonly string[]
}

export interface PolicyFacts {
  readonly name: string
  readonly permissive: boolean
  readonly command: string
  /** For every role. */
  readonly everybody: boolean
  readonly using: string | null
  readonly check: string | null
}

/** A table, of whatever kind, or a materialized view. */
export interface RelationFacts {
  readonly oid: Oid
  readonly name: string
  /** Qualified and quoted. */
  readonly sql: string
  readonly kind: 'r' | 'p' | 'f' | 'm'
  readonly isPartition: boolean
  readonly isTyped: boolean
  readonly secured: boolean
  readonly forced: boolean
  /** No policy holds for its owner, FORCE or not. */
  readonly ownerIsExempt: boolean
  readonly ownerIsTenant: boolean
  readonly parents: readonly Oid[]
  /** Partitions and children in other schemas. */
  readonly childrenOutside: readonly string[]
  readonly tenantColumn: TenantColumnFacts | null
  /** The name of a constraint of ours, whatever it says. */
  readonly hasTenantCheck: boolean
  /** A valid index over all rows begins with the tenant. */
  readonly hasTenantIndex: boolean
  readonly policies: readonly PolicyFacts[]
  /** Roles other than the owner, quoted, or `public`, that have rights that no policy bounds, on the table or on a column. */
  readonly dangerousGrants: readonly { readonly role: string; readonly privileges: string }[]
  /** Enabled triggers of its own that an UPDATE fires. */
  readonly updateTriggers: readonly { readonly name: string; readonly enabled: 'O' | 'A' }[]
  /** Publications that send some of its columns, and not the tenant. */
  readonly publications: readonly string[]
}

/** A primary key, a unique constraint or index, or an exclusion constraint; not the copies that partitions have of one. */
export interface KeyFacts {
  readonly index: Oid
  readonly table: Oid
  readonly indexName: string
  readonly indexSql: string
  /** Absent for an index that is no constraint. */
  readonly constraint: {
    readonly name: string
    readonly definition: string
    /** What stands behind the lists of columns: DEFERRABLE, and the like. */
    readonly suffix: string
    readonly comment: string | null
  } | null
  readonly kind: 'primary' | 'unique' | 'exclusion' | 'index'
  readonly method: string
  readonly includesTenant: boolean
  readonly valid: boolean
  /** Only some rows are in it. */
  readonly partial: boolean
  /** `CREATE UNIQUE INDEX ...`. */
  readonly definition: string
  /** What the definition begins with, up to the parenthesis of its columns. */
  readonly head: string
  /** The same, without the ONLY of partitioned tables: their partitions get the index as well. */
  readonly newHead: string
  readonly options: string | null
  readonly tablespace: string | null
  readonly clustered: boolean
  readonly replicaIdentity: boolean
  readonly comment: string | null
  readonly statistics: readonly { readonly column: number; readonly target: number }[]
  /** What else depends on it and would have to be dropped with it. */
  readonly dependents: readonly string[]
}

export interface ForeignKeyFacts {
  readonly oid: Oid
  /** Quoted. */
  readonly name: string
  readonly from: Oid
  readonly fromSql: string
  readonly to: Oid
  readonly toSql: string
  /** Both tables are of the schema. */
  readonly fromInside: boolean
  readonly toInside: boolean
  /** The table that it leads to has row security and a tenant. */
  readonly toIsolated: boolean
  /** Quoted. */
  readonly columns: readonly string[]
  readonly references: readonly string[]
  readonly nullable: boolean
  /** The tenant refers to the tenant. */
  readonly pairsTenant: boolean
  /** A column of the tenant takes part, in whatever place. */
  readonly namesTenant: boolean
  readonly match: 'f' | 'p' | 's'
  readonly onUpdate: ReferentialAction
  readonly onDelete: ReferentialAction
  /** The columns that ON DELETE SET NULL or SET DEFAULT is about, quoted; empty: all. */
  readonly deleteColumns: readonly string[]
  readonly deferrable: boolean
  readonly deferred: boolean
  readonly validated: boolean
  readonly enforced: boolean
  readonly period: boolean
  readonly comment: string | null
  readonly triggersDisabled: boolean
}

/** NO ACTION, RESTRICT, CASCADE, SET NULL, SET DEFAULT. */
export type ReferentialAction = 'a' | 'r' | 'c' | 'n' | 'd'

export interface ViewFacts {
  readonly sql: string
  readonly inside: boolean
  readonly materialized: boolean
  readonly invoker: boolean
  /** Tables that it reads, also through other views. */
  readonly reads: readonly Oid[]
}

/** What the catalogue says about one schema. */
export interface SchemaFacts {
  readonly schemaSql: string
  readonly version: number
  /** No policy holds for the role that reads this. */
  readonly readerIsExempt: boolean
  /** PUBLIC may create objects in the schema. */
  readonly anybodyCreates: boolean
  /** Types that have an operator class for GiST, as btree_gist makes them. */
  readonly gistTypes: readonly string[]
  readonly relations: readonly RelationFacts[]
  readonly keys: readonly KeyFacts[]
  readonly foreignKeys: readonly ForeignKeyFacts[]
  readonly views: readonly ViewFacts[]
  /** Rules, other than those that make views, that act with the rights of an owner for whom no policy holds. */
  readonly rules: readonly { readonly name: string; readonly relations: readonly Oid[] }[]
  /** SECURITY DEFINER functions of such owners. */
  readonly definers: readonly string[]
}

/** `pg_catalog` alone in the path, so that expressions are printed in one way and nobody's operators are taken for the server's. */
export const CATALOGUE_PATH =
  "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)"

/** Everything that row isolation has to know, in one query over `pg_catalog`. Behind {@link CATALOGUE_PATH}, in the same transaction. @throws {TenancyError} `ERR_TENANCY_SCHEMA_MISSING`, `ERR_TENANCY_ISOLATION_UNSUPPORTED`. */
export async function readSchemaFacts(
  client: Pick<pg.PoolClient, 'query'>,
  schema: string,
): Promise<SchemaFacts> {
  const { rows } = await client.query<{ facts: SchemaFacts }>(FACTS_SQL, [schema])
  const facts = rows[0]?.facts
  if (facts === undefined)
    throw new TenancyError('ERR_TENANCY_SCHEMA_MISSING', `There is no schema "${schema}".`)
  if (facts.version < 150_000)
    throw new TenancyError(
      'ERR_TENANCY_ISOLATION_UNSUPPORTED',
      'Row isolation needs PostgreSQL 15: views with security_invoker, and ON DELETE SET NULL for some columns.',
    )
  return facts
}
