import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { type Tenancy, TenancyError } from '@partywall/core'
import type { QueryResult } from 'pg'
import { quoteIdentifier, schemaOf, searchPathOf } from './search-path.ts'
import { findShadowedTables, shadowError } from './shadowed-tables.ts'
import type { TenantPool, TransactionQuery } from './tenant-pool.ts'

/** One SQL file. Never edited once a tenant has it. */
export interface Migration {
  /** The file name without `.sql`; migrations run in the order of their ids. */
  readonly id: string
  readonly sql: string
  /** SHA-256 of the text with LF line ends, in hexadecimal. */
  readonly checksum: string
}

/** The migrations of one owner, a plugin for example. Sets do not know of each other. */
export interface MigrationSet {
  readonly name: string
  readonly migrations: readonly Migration[]
  /** Tables (`orders`) and columns (`orders.customer_id`) that must be in the tenant's own schema afterwards. */
  readonly requires?: readonly string[] | undefined
}

/** Makes a migration from its text. */
export function createMigration(id: string, sql: string): Migration {
  const text = sql.replaceAll('\r\n', '\n')
  return Object.freeze({ id, sql: text, checksum: createHash('sha256').update(text).digest('hex') })
}

/**
 * Reads the `*.sql` files of a folder, in the order of their names.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` if the folder cannot be read.
 */
export async function loadMigrations(folder: URL): Promise<Migration[]> {
  try {
    const names = (await readdir(folder)).filter((name) => name.endsWith('.sql')).sort()
    const base = folder.href.endsWith('/') ? folder : new URL(`${folder.href}/`)
    return await Promise.all(
      names.map(async (name) =>
        createMigration(
          name.slice(0, -'.sql'.length),
          await readFile(new URL(encodeURIComponent(name), base), 'utf8'),
        ),
      ),
    )
  } catch (cause) {
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `The migrations in ${folder.href} cannot be read.`,
      { cause },
    )
  }
}

const ledgerSql = (ledger: string): string => `create table if not exists ${ledger} (
  set_name text not null,
  position integer not null,
  id text not null,
  checksum text not null,
  applied_at timestamptz not null default now(),
  primary key (set_name, id),
  unique (set_name, position)
)`

/**
 * Applies what is pending of a set to the active tenant, in one transaction: all of it, or nothing. Safe to repeat and to race. Returns the ids that were applied now.
 *
 * @throws {TenancyError} `ERR_TENANCY_MIGRATION_CHANGED` if an applied migration was edited, removed or preceded by a new one; `ERR_TENANCY_MIGRATION_FAILED` with the server's error as cause;
 * `ERR_TENANCY_SHARED_TABLE_SHADOWED` if a table of the tenant also stands in a shared schema; `ERR_TENANCY_CONTEXT_MISSING`.
 */
export async function migrateTenant(
  tenancy: Tenancy,
  pool: TenantPool,
  set: MigrationSet,
): Promise<string[]> {
  const { tenant } = tenancy.require()
  if (tenant.isolation === 'row')
    throw new TenancyError(
      'ERR_TENANCY_ISOLATION_UNSUPPORTED',
      `Tenant ${tenant.id} shares its tables with all tenants of row isolation; they are migrated once for all.`,
      {
        tenantId: tenant.id,
        hint: 'Run the migrations through pool.central, and applyRowIsolation after them.',
      },
    )
  const schema = schemaOf(tenant)
  const sharedSchemas = pool.sharedSchemas.filter((shared) => shared !== schema)
  const failed = (message: string, cause?: unknown): TenancyError =>
    new TenancyError(
      'ERR_TENANCY_MIGRATION_FAILED',
      `${message} (tenant ${tenant.id}, ${set.name})`,
      { cause, tenantId: tenant.id },
    )
  return pool.transaction(async (query) => {
    // One key per schema: tenants do not wait for each other. It ends with the transaction, also behind a pooler.
    await query("select pg_advisory_xact_lock(hashtextextended('partywall:migrate:' || $1, 0))", [
      schema,
    ])
    // Qualified: a migration may leave another search_path behind, and a schema without the right to it is skipped by the path.
    const path = searchPathOf(tenant, pool)
    const ledger = `${quoteIdentifier(schema)}.partywall_migrations`
    await query(ledgerSql(ledger))
    const pending = await pendingOf(query, ledger, set)
    const first = set.migrations.length - pending.length
    for (const [index, { id, sql, checksum }] of pending.entries()) {
      try {
        assertSameTransaction(await query(sql))
        await assertSamePath(query, path)
        await query(
          `insert into ${ledger} (set_name, position, id, checksum) values ($1, $2, $3, $4)`,
          [set.name, first + index, id, checksum],
        )
      } catch (cause) {
        throw failed(`Migration ${id} failed.`, cause)
      }
    }
    const missing = await missingOf(query, schema, set.requires ?? [])
    if (missing.length > 0) throw failed(`The schema lacks ${missing.join(', ')}.`)
    const shadowed = await findShadowedTables({ query }, { schemas: [schema], sharedSchemas })
    if (shadowed.length > 0) throw shadowError(shadowed)
    return pending.map(({ id }) => id)
  })
}

/** A text that changes the path makes its tables elsewhere, in a shared schema for example, and would be noted as applied. */
async function assertSamePath(query: TransactionQuery, expected: string): Promise<void> {
  const { rows } = await query<{ path: string }>("select current_setting('search_path') as path")
  if (rows[0]?.path !== expected) throw new Error('It changes the search_path.')
}

async function pendingOf(
  query: TransactionQuery,
  ledger: string,
  { name, migrations }: MigrationSet,
): Promise<readonly Migration[]> {
  const { rows } = await query<{ id: string; checksum: string }>(
    `select id, checksum from ${ledger} where set_name = $1 order by position`,
    [name],
  )
  for (const [index, { id, checksum }] of rows.entries()) {
    const migration = migrations[index]
    if (migration?.id === id && migration.checksum === checksum) continue
    const known = migrations.find((candidate) => candidate.id === id)
    const what =
      known === undefined
        ? 'was removed'
        : known.checksum !== checksum
          ? 'was edited'
          : 'is preceded by a new one'
    throw new TenancyError(
      'ERR_TENANCY_MIGRATION_CHANGED',
      `Migration ${id} of ${name} was applied and ${what}.`,
      known === undefined
        ? {
            hint: 'Put the file back: tenants have what it made. A new migration may take that away.',
          }
        : {},
    )
  }
  return migrations.slice(rows.length)
}

/** Text may hold statements that end the transaction: what is in front of one stays, and what is behind it is no longer all or nothing. */
function assertSameTransaction(results: QueryResult | readonly QueryResult[]): void {
  const ending = [results].flat().find(({ command }) => ENDS_TRANSACTION.has(command))
  if (ending !== undefined)
    throw new Error(
      `The text holds a ${ending.command}; it ran up to there outside of the transaction.`,
    )
}

const ENDS_TRANSACTION = new Set(['COMMIT', 'ROLLBACK', 'PREPARE TRANSACTION'])

async function missingOf(
  query: TransactionQuery,
  schema: string,
  requires: readonly string[],
): Promise<string[]> {
  if (requires.length === 0) return []
  const { rows } = await query<{ name: string }>(
    `select c.relname as name from pg_class c where c.relnamespace = $1::regnamespace
     union all
     select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
     where c.relnamespace = $1::regnamespace and a.attnum > 0 and not a.attisdropped`,
    [quoteIdentifier(schema)],
  )
  const present = new Set(rows.map(({ name }) => name))
  return requires.filter((name) => !present.has(name))
}
