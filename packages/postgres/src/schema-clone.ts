import { assertKnownKeys, TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { assertEngine, type DatabaseEngine, engineErrorOf } from './internal/citus.ts'
import { CloneRun, StaleSnapshot } from './internal/clone/clone-run.ts'
import { ownSchemaOf } from './internal/schema-mark.ts'
import { assertNotShared } from './search-path.ts'

export interface CloneTenantSchemaOptions {
  /** Whose rows are copied: none, those of all tables, or of these tables, a partitioned one with all of its partitions. @defaultValue `'none'` */
  readonly data?: 'none' | 'all' | readonly string[] | undefined
  /** Schemas behind the tenant's own in the path that its functions run under; the same as those of the pool. @defaultValue `['public']` */
  readonly sharedSchemas?: readonly string[] | undefined
  /**
   * What to do about texts that name the source's schema (bodies of functions, literals in definitions): they are copied as they are, so they still lead to the source.
   * `'keep'`: they are known to be harmless. @defaultValue `'refuse'`
   */
  readonly namedInText?: 'refuse' | 'keep' | undefined
  /** Locks that the one transaction may take. @defaultValue half of what the server holds for all, `max_locks_per_transaction` x `max_connections` / 2: 3,200 if nobody changed these */
  readonly maxLocks?: number | undefined
  /** `'citus'`: the copy is distributed (docs/guide/citus.md); while rows are copied, nobody can write to the source, because Citus has no snapshot of the whole cluster. @defaultValue `'postgres'` */
  readonly engine?: DatabaseEngine | undefined
}

/**
 * Makes the schema of one tenant a copy of that of another, marked as its own: structure alone, or with rows. One transaction and one snapshot: all of it, or nothing. Safe to repeat and to race: where the schema of
 * `target` is there, nothing is done. Returns whether it was made now.
 *
 * What the source refers to in its own schema, the copy has in its own; what stands in other schemas is shared. Owners and grants are those of the source, with the target's own role in the place of the source's; that
 * role is created if it is needed. Rows are copied before there are constraints and triggers, so no trigger runs; sequences go on where those of the source stand. Before the end the catalogue of both is compared, and a
 * copy that differs is not kept.
 *
 * Others may read and write the source meanwhile; changes of its tables wait. Functions that its generated columns, checks and indexes call run with the rights of `central`, as when a dump is restored.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user owns the schema and may create schemas.
 * @throws {TenancyError} `ERR_TENANCY_SCHEMA_UNCLONABLE`, with the names, if a copy would leave something out, change it, or take too many locks; `ERR_TENANCY_SCHEMA_MISSING` if there is no source;
 * `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a schema is not marked as its tenant's, is `public` or shared; `ERR_TENANCY_TENANT_CHANGED` if tables of the source come and go all the time;
 * `ERR_TENANCY_ENGINE_UNSUPPORTED` if the database cannot distribute schemas and is to; `ERR_TENANCY_OPTION_INVALID`.
 */
export async function cloneTenantSchema(
  central: pg.Pool,
  source: Tenant,
  target: Tenant,
  options: CloneTenantSchemaOptions = {},
): Promise<boolean> {
  const run = new CloneRun(central, resolve(source, target, options))
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const found = await run.look()
    if (found === undefined) return false
    try {
      await run.make(found)
      return true
    } catch (error) {
      if (!(error instanceof StaleSnapshot)) throw engineErrorOf(error, target)
    }
  }
  throw new TenancyError(
    'ERR_TENANCY_TENANT_CHANGED',
    `Tables of tenant ${source.id} came and went while its schema was to be copied.`,
    { tenantId: source.id },
  )
}

/** Each one means that somebody else has come to an end. */
const MAX_ATTEMPTS = 20

function resolve(source: Tenant, target: Tenant, options: CloneTenantSchemaOptions) {
  assertKnownKeys('cloneTenantSchema', options, [
    'data',
    'sharedSchemas',
    'namedInText',
    'maxLocks',
    'engine',
  ])
  const { data = 'none', sharedSchemas = ['public'], namedInText = 'refuse', maxLocks } = options
  const { engine = 'postgres' } = options
  assertEngine(engine)
  const [from, to] = [ownSchemaOf(source), ownSchemaOf(target)]
  for (const tenant of [source, target]) assertNotShared(tenant, sharedSchemas)
  const named = Array.isArray(data) && data.every((name) => typeof name === 'string')
  if (data !== 'none' && data !== 'all' && !named)
    throw invalid(`data must be 'none', 'all' or a list of tables, got ${JSON.stringify(data)}.`)
  if (namedInText !== 'refuse' && namedInText !== 'keep')
    throw invalid(`namedInText must be 'refuse' or 'keep', got ${JSON.stringify(namedInText)}.`)
  if (maxLocks !== undefined && !(Number.isInteger(maxLocks) && maxLocks > 0))
    throw invalid(`maxLocks must be a positive integer, got ${maxLocks}.`)
  if (from === to) throw invalid(`The schema "${from}" cannot be a copy of itself.`)
  return { source, target, from, to, data, sharedSchemas, namedInText, maxLocks, engine }
}

function invalid(message: string): TenancyError {
  return new TenancyError('ERR_TENANCY_OPTION_INVALID', message)
}
