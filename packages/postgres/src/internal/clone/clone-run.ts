import { physicalName, TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { quoteIdentifier, searchPathOf } from '../../search-path.ts'
import { assertCanDistribute, type DatabaseEngine, distributeSchemaSql } from '../citus.ts'
import { readCatalogueLines } from '../schema-catalogue.ts'
import { assertMarked, type MarkedSchema, schemaLock, schemaMark } from '../schema-mark.ts'
import { withTransaction } from '../with-transaction.ts'
import { readFacts, type SchemaFacts } from './facts.ts'
import type { ClonePlan, CloneTask } from './plan.ts'
import { countLocks, findNamings, findRefusals } from './refusals.ts'
import { rolesOf } from './rights.ts'
import { cloneScript, planClone } from './script.ts'
import { CircleError } from './step.ts'

export interface CloneRunOptions {
  readonly source: Tenant
  readonly target: Tenant
  readonly from: string
  readonly to: string
  readonly data: 'none' | 'all' | readonly string[]
  readonly sharedSchemas: readonly string[]
  readonly namedInText: 'refuse' | 'keep'
  readonly maxLocks: number | undefined
  readonly engine: DatabaseEngine
}

/** What was looked up is not what the transaction sees: somebody else was faster. */
export class StaleSnapshot extends Error {}

/** Somebody has a table for himself, or has dropped it. */
class TableTaken extends StaleSnapshot {}

interface Found extends MarkedSchema {
  readonly schema: string
  readonly tables: readonly string[]
}

/** The source before anything is locked. */
export interface FoundSource {
  readonly tables: readonly string[]
  /** Locks that one transaction may take without a word of the caller. */
  readonly locks: number
}

interface Server {
  readonly locked: boolean
  readonly fresh: boolean
  readonly user: string
  readonly version: number
}

/** One call of `cloneTenantSchema`. */
export class CloneRun {
  readonly #central: pg.Pool
  readonly #options: CloneRunOptions

  constructor(central: pg.Pool, options: CloneRunOptions) {
    this.#central = central
    this.#options = options
  }

  /** Waits for all who change one of the two schemas. `undefined` if the target is there. */
  async look(): Promise<FoundSource | undefined> {
    const { source, target, from, to } = this.#options
    const results = (await this.#central.query(
      [
        ...this.#locks('pg_advisory_xact_lock').map((lock) => `select ${lock}`),
        `select pg_catalog.current_setting('max_locks_per_transaction')::int * pg_catalog.current_setting('max_connections')::int / 2 as locks`,
        schemasSql(from, to),
      ].join(';\n'),
    )) as unknown as pg.QueryResult[]
    const rows = (results.at(-1)?.rows ?? []) as Found[]
    const locks = Number(results.at(-2)?.rows[0]?.['locks'])
    const there = rows.find(({ schema }) => schema === to)
    if (there !== undefined) {
      assertMarked(there, to, target)
      return undefined
    }
    const found = rows.find(({ schema }) => schema === from)
    if (found === undefined)
      throw new TenancyError(
        'ERR_TENANCY_SCHEMA_MISSING',
        `There is no schema "${from}" of tenant ${source.id}.`,
        { tenantId: source.id },
      )
    assertMarked(found, from, source)
    await assertCanDistribute(this.#central, this.#options.engine, target)
    return { tables: found.tables, locks }
  }

  /** @throws {StaleSnapshot} if it is to be looked up again. */
  async make(found: FoundSource): Promise<void> {
    try {
      await this.#attempt(found)
    } catch (error) {
      // Outside of the transaction, which holds other locks, and a connection.
      if (error instanceof TableTaken) await this.#waitFor(found.tables)
      throw error
    }
  }

  async #attempt({ tables, locks }: FoundSource): Promise<void> {
    const { from, to, target, sharedSchemas, namedInText, engine } = this.#options
    const { maxLocks = locks } = this.#options
    const assertLocks = (needed: number): void => {
      if (needed > maxLocks)
        throw this.#refusal(
          [`it takes up to ${needed} locks at once, and may take ${maxLocks}`],
          'Raise max_locks_per_transaction on the server, or maxLocks if nobody else needs the locks.',
        )
    }
    // Before the first of them is taken. Each table is locked twice, here and there.
    assertLocks(2 * tables.length)
    await withTransaction(this.#central, async (client) => {
      const server = await this.#enter(client, tables)
      const schema = quoteIdentifier(to)
      await unlessThere(
        client.query(
          `create schema ${schema}; comment on schema ${schema} is '${schemaMark(target.id)}'`,
        ),
      )
      const behind = ['pg_catalog', ...sharedSchemas.map(quoteIdentifier), 'pg_temp'].join(', ')
      const facts = await readFacts(client, from, to, behind)
      const plan = planClone(facts, this.#task(facts, server))
      this.#assertNothing(findRefusals(plan))
      if (namedInText === 'refuse')
        this.#assertNothing(
          findNamings(plan).map((name) => `${name} (names the schema in its text)`),
          "If these texts may stay as they are, pass namedInText: 'keep'; otherwise let them name no schema, and leave it to the search_path.",
        )
      assertLocks(countLocks(plan))
      const roles = await this.#roles(client, plan)
      const script = this.#script(plan, `${schema}, ${behind}`)
      // As a whole and at the end: Citus takes many statements on local tables alone.
      const distribute = engine === 'citus' ? [distributeSchemaSql(schema)] : []
      await this.#withTypedErrors(client.query([...roles, script, ...distribute].join(';\n')))
      await this.#verify(client)
    })
  }

  /** The locks come first: a snapshot that is taken before does not see what happens while it waits. None of them waits, because who is waited for here may wait for another one of them. */
  async #enter(client: pg.PoolClient, tables: readonly string[]): Promise<Server> {
    const { source, from, to, engine, data } = this.#options
    const only = engine === 'citus' ? '' : 'only '
    const names = tables.map((table) => `${only}${quoteIdentifier(from)}.${quoteIdentifier(table)}`)
    // Citus reads each server as of each statement, so the rows must stand still.
    const mode = engine === 'citus' && data !== 'none' ? 'share' : 'access share'
    const results = (await unlessTaken(
      client.query(
        [
          'set transaction isolation level repeatable read',
          ...(names.length === 0 ? [] : [`lock table ${names.join(', ')} in ${mode} mode nowait`]),
          `select ${this.#locks('pg_try_advisory_xact_lock').join(' and ')} as locked,
           -- Whether this snapshot sees what is there now.
           (select pg_catalog.count(*) filter (where pg_catalog.to_regnamespace(pg_catalog.quote_ident(s.name))::pg_catalog.oid is distinct from n.oid) = 0
            from (values ('${from}'), ('${to}')) s (name) left join pg_catalog.pg_namespace n on n.nspname = s.name) as fresh,
           current_user as user, pg_catalog.current_setting('server_version_num')::int as version`,
          schemasSql(from, to),
        ].join(';\n'),
      ),
    )) as unknown as pg.QueryResult[] | undefined
    if (results === undefined) throw new TableTaken()
    const [server] = (results.at(-2)?.rows ?? []) as Server[]
    const found = (results.at(-1)?.rows ?? []) as Found[]
    const [own] = found
    if (
      server?.locked !== true ||
      !server.fresh ||
      found.length !== 1 ||
      own?.schema !== from ||
      own.tables.join('\0') !== tables.join('\0')
    )
      throw new StaleSnapshot()
    assertMarked(own, from, source)
    return server
  }

  /** Waits for whoever has one of the tables for himself, one table at a time and with no other lock in hand. Tables that are gone are no longer waited for. */
  async #waitFor(tables: readonly string[]): Promise<void> {
    for (const table of tables)
      await unlessTaken(
        this.#central.query(
          `select from only ${quoteIdentifier(this.#options.from)}.${quoteIdentifier(table)} limit 0`,
        ),
      )
  }

  /** In one order, whoever clones what from what. Who only reads a schema shares it. */
  #locks(lock: 'pg_advisory_xact_lock' | 'pg_try_advisory_xact_lock'): string[] {
    const { from, to } = this.#options
    return [from, to]
      .sort()
      .map((schema) => schemaLock(schema, schema === from ? `${lock}_shared` : lock))
  }

  #task(facts: SchemaFacts, { user, version }: Server): CloneTask {
    const { source, target, from, to, data } = this.#options
    const chosen = typeof data === 'string' ? new Set<string>() : chosenTables(facts, data, from)
    const role = physicalName('role', source.id)
    return {
      source: from,
      target: to,
      user,
      serverVersion: version,
      engine: this.#options.engine,
      role: (name) => (name === role ? physicalName('role', target.id) : name),
      allRows: data === 'all',
      hasRows: (table) => data === 'all' || chosen.has(table),
    }
  }

  /** The target's own role, if the source's has something to do with the schema. */
  async #roles(client: pg.PoolClient, plan: ClonePlan): Promise<string[]> {
    const { source, target } = this.#options
    const { owners, all } = rolesOf(plan)
    const own = physicalName('role', source.id)
    const others = [...owners].filter((role) => role !== plan.task.user && role !== own)
    if (others.length > 0) {
      const { rows } = await client.query<{ role: string }>(
        "select rolname as role from pg_catalog.pg_roles where rolname = any($1) and not pg_catalog.pg_has_role(current_user, oid, 'member')",
        [others],
      )
      this.#assertNothing(
        rows.map(({ role }) => `what belongs to the role ${role} (which ${plan.task.user} is not)`),
      )
    }
    if (!all.has(own)) return []
    const role = quoteIdentifier(physicalName('role', target.id))
    return [
      // As createTenantRole makes it, and also while that does.
      `do $do$ begin create role ${role} nologin noinherit; exception when duplicate_object or unique_violation then null; end $do$`,
      ...(owners.has(own) ? [`grant ${role} to current_user`] : []),
    ]
  }

  #script(plan: ClonePlan, definitions: string): string {
    const { target, sharedSchemas } = this.#options
    try {
      return cloneScript(plan, { definitions, tenant: searchPathOf(target, { sharedSchemas }) })
    } catch (error) {
      if (!(error instanceof CircleError)) throw error
      throw this.#refusal(
        error.steps.map(({ what }) => `${what} (in a circle of objects that need each other)`),
      )
    }
  }

  /** Rows of some tables alone may point to rows that stay behind. */
  async #withTypedErrors(work: Promise<unknown>): Promise<void> {
    try {
      await work
    } catch (error) {
      if (typeof this.#options.data === 'string' || codeOf(error) !== '23503') throw error
      const { table, constraint } = error as pg.DatabaseError
      throw this.#refusal(
        [
          `table ${table} (by its constraint ${constraint}, its rows need rows that are not copied)`,
        ],
        'Add the tables that the foreign keys of the listed ones point to.',
        error,
      )
    }
  }

  /** The proof: what is there now is what the source is. */
  async #verify(client: pg.PoolClient): Promise<void> {
    const there = new Set(await readCatalogueLines(client, this.#options.to))
    const wanted = new Set(await readCatalogueLines(client, this.#options.from))
    this.#assertNothing(
      [...wanted.symmetricDifference(there)].map((line) => {
        const [kind, name] = JSON.parse(line) as [string, string]
        return `${kind} ${name} (would not be the same)`
      }),
    )
  }

  #assertNothing(names: readonly string[], hint?: string): void {
    if (names.length > 0) throw this.#refusal(names, hint)
  }

  #refusal(names: readonly string[], hint?: string, cause?: unknown): TenancyError {
    const { source, from } = this.#options
    const distinct = [...new Set(names)]
    const more = distinct.length > 10 ? ` and ${distinct.length - 10} more` : ''
    return new TenancyError(
      'ERR_TENANCY_SCHEMA_UNCLONABLE',
      `The schema "${from}" of tenant ${source.id} cannot be copied: ${distinct.slice(0, 10).join(', ')}${more}.`,
      {
        tenantId: source.id,
        ...(hint === undefined ? {} : { hint }),
        ...(cause === undefined ? {} : { cause }),
      },
    )
  }
}

/** The ids of tables by their names, and those of all partitions of theirs. */
function chosenTables(facts: SchemaFacts, names: readonly string[], schema: string): Set<string> {
  const tables = facts.of('table')
  const unknown = names.filter((name) => !tables.some((table) => table.name === name))
  if (unknown.length > 0)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `data: there is no table ${unknown.join(', ')} in the schema "${schema}".`,
    )
  const chosen = new Set(tables.filter(({ name }) => names.includes(name)).map(({ id }) => id))
  for (let before = -1; before !== chosen.size; ) {
    before = chosen.size
    for (const { id, partitionBound, parents } of tables)
      if (partitionBound !== null && (parents ?? []).some((parent) => chosen.has(parent)))
        chosen.add(id)
  }
  return chosen
}

// Tables by pg_depend, which alone has an index by schema: pg_class is large where tenants are many.
const schemasSql = (from: string, to: string): string => `
  select n.nspname as schema, n.oid::text as oid, pg_catalog.obj_description(n.oid, 'pg_namespace') as mark, coalesce((
    select pg_catalog.array_agg(c.relname::text order by c.relname::text collate "C")
    from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = d.objid and c.relkind in ('r', 'p')
    where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.refobjid = n.oid and d.deptype = 'n'), '{}') as tables
  from pg_catalog.pg_namespace n where n.nspname in ('${from}', '${to}')`

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

/** No such table, no such schema, and a lock that somebody else has. */
const TAKEN: ReadonlySet<unknown> = new Set(['42P01', '3F000', '55P03'])

/** `undefined` for a table that is gone, or that somebody has for himself. */
async function unlessTaken<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (TAKEN.has(codeOf(error))) return undefined
    throw error
  }
}

/** Who creates a schema by hand takes no lock of ours. */
async function unlessThere(work: Promise<unknown>): Promise<void> {
  try {
    await work
  } catch (error) {
    if (codeOf(error) === '42P06' || codeOf(error) === '23505') throw new StaleSnapshot()
    throw error
  }
}
