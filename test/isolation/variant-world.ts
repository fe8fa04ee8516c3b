import { randomBytes } from 'node:crypto'
import { createTenancy, createTenant, memoryTenantStore, type Tenancy } from '@partywall/core'
import {
  createGateRole,
  createTenantRole,
  createTenantSchema,
  TenantPool,
  type TenantPoolOptions,
} from '@partywall/postgres'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'

/** One way to set up a pool. A suite that takes its worlds from here is told nothing else about it. */
export interface PoolVariant {
  readonly name: string
  readonly options: TenantPoolOptions
  /** How the rows of its tenants are kept apart. @defaultValue `'schema'` */
  readonly isolation?: 'schema' | 'row'
  /** Sizes of the pools that it is tried with. One connection shows most, because the next tenant gets what the last one left; more of them show what only happens side by side. */
  readonly poolSizes: readonly number[]
}

/** Every variant; a suite runs over those that it names, or over all. */
export const VARIANTS = {
  schema: { name: 'schemas', options: {}, poolSizes: [1, 4] },
  unnamed: {
    name: 'schemas, nothing prepared',
    options: { preparedStatements: 'off' },
    poolSizes: [1],
  },
  limits: {
    name: 'schemas, limits of time',
    options: { statementTimeoutMs: 20_000, lockTimeoutMs: 10_000 },
    poolSizes: [1],
  },
  pipelined: { name: 'schemas, pipelined', options: { pipelineDepth: 8 }, poolSizes: [1, 4] },
  role: { name: 'a role for each tenant', options: { role: 'per-tenant' }, poolSizes: [1] },
  row: { name: 'rows', isolation: 'row', options: {}, poolSizes: [1] },
} as const satisfies Record<string, PoolVariant>

/** What the server says about the session while a statement of a tenant runs. */
export interface View {
  readonly schema: string
  readonly path: string
  readonly who: string
  readonly tenant: string
  readonly statement_timeout: string
  readonly lock_timeout: string
}

/** The columns that answer with a {@link View}. */
export const VIEW_COLUMNS = `current_schema()::text as schema, current_setting('search_path') as path, current_user::text as who,
  coalesce(current_setting('app.tenant_id', true), '') as tenant, current_setting('statement_timeout') as statement_timeout, current_setting('lock_timeout') as lock_timeout`

/** A row of the table `log`, as it is found from outside of every tenant. */
export interface LogRow {
  /** The tenant in whose place it is. */
  readonly place: string
  readonly unit: string
  readonly owner: string
}

/**
 * Two neighbours and an adversary, with the same ids in all tables, different numbers of rows and a canary in every value, set up for one variant. Tenants have a random part in their ids, because
 * roles belong to a server that other tests use as well.
 */
export interface VariantWorld extends AsyncDisposable {
  readonly db: TestDatabase
  readonly tenancy: Tenancy
  /** The connection string of the pools. */
  readonly url: string
  readonly tenants: readonly [acme: string, globex: string, zeta: string]
  /** A tenant with a record and without a place; where rows of all stand in one, there is none. */
  readonly homeless: string | undefined
  /** What `connection:destroyed` told, oldest first. */
  readonly destroyed: { readonly tenantId: string | undefined; readonly reason: string }[]
  /** Opens a pool that is closed with the world. */
  openPool(options?: TenantPoolOptions): TenantPool
  /** Runs as a tenant, from outside of whatever tenant is active. */
  as<T>(tenantId: string, fn: () => Promise<T> | T): Promise<T>
  /** The rows of `item` that a tenant must see. */
  itemsOf(tenantId: string): { id: number; owner: string }[]
  viewOf(tenantId: string): View
  /** A table of a tenant, or the one that it shares with others, for SQL from outside. */
  tableOf(tenantId: string, table: 'item' | 'log'): string
  /** The rows of all tables `log`, or those whose unit begins so. */
  logs(prefix?: string): Promise<LogRow[]>
  clearLogs(): Promise<void>
}

const COUNTS = [3, 5, 7] as const

/**
 * In `probe`, for everybody: `terminate_me` and `cancel_me` do to their own session what an administrator would, in the middle of a statement.
 */
const PROBE = `create schema probe; grant usage on schema probe to public;
  create function probe.terminate_me() returns text language plpgsql security definer as $$ begin
    perform pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid()); perform pg_catalog.pg_sleep(10); return 'survived'; end $$;
  create function probe.cancel_me() returns text language plpgsql security definer as $$ begin
    perform pg_catalog.pg_cancel_backend(pg_catalog.pg_backend_pid()); perform pg_catalog.pg_sleep(10); return 'survived'; end $$`

/**
 * What every tenant has, in a schema. `strangers` keeps notes in a temporary table, as functions of real applications do, and counts those of others in it.
 *
 * @param own - columns, behind all others, that say whose a row is.
 */
function tablesIn(schema: string, own = ''): string {
  return `create table "${schema}".item (id int not null, owner text not null${own});
    create table "${schema}".log (unit text not null, owner text not null${own});
    create function "${schema}".strangers(who text) returns int language plpgsql as $$ begin
      create temp table if not exists scratch (owner text); insert into scratch values (who);
      return (select count(*) from scratch where owner <> who); end $$;`
}
const itemsSql = (schema: string, tenantId: string, count: number, own = ''): string =>
  `insert into "${schema}".item select n, 'canary:${tenantId}:' || n${own} from generate_series(1, ${count}) n;`

/** The tables of all tenants in one schema, and a role that row security holds for. */
function rowSql(role: string): string {
  const policies = ['item', 'log'].map(
    (
      table,
    ) => `alter table ${table} enable row level security; alter table ${table} force row level security;
      create policy own on ${table} using (tenant_id = nullif(current_setting('app.tenant_id', true), '')) with check (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
      grant select, insert, update, delete on ${table} to ${role};`,
  )
  return `${tablesIn('public', ", tenant_id text not null default current_setting('app.tenant_id')")}
    create role ${role} login password 'secret'; ${policies.join('')}`
}

/** @param server - another server than the one of the run. */
export async function createVariantWorld(
  { options: variant, isolation = 'schema' }: PoolVariant,
  server?: string,
): Promise<VariantWorld> {
  const db = await createTestDatabase(server)
  const salt = randomBytes(4).toString('hex')
  const tenants = [`acme-${salt}`, `globex-${salt}`, `zeta-${salt}`] as const
  const byRow = isolation === 'row'
  const homeless = byRow ? undefined : `nowhere-${salt}`
  const countOf = (tenantId: string): number => COUNTS[tenants.indexOf(tenantId as never)] ?? 0
  const perRole = variant.role === 'per-tenant'
  /** Who the pool logs in as; the superuser of the test otherwise. */
  const login = perRole || byRow ? `login_${salt}` : undefined
  const owner = new pg.Pool({ connectionString: db.url, max: 1 })
  owner.on('error', () => undefined)
  await owner.query(PROBE)
  if (perRole && login !== undefined)
    await createGateRole(owner, { name: login, password: 'secret' })
  if (byRow && login !== undefined) await owner.query(rowSql(login))
  for (const id of tenants) {
    if (byRow) {
      await owner.query(itemsSql('public', id, countOf(id), `, '${id}'`))
      continue
    }
    const tenant = createTenant({ id })
    await createTenantSchema(owner, tenant)
    await owner.query(tablesIn(id) + itemsSql(id, id, countOf(id)))
    if (perRole && login !== undefined) await createTenantRole(owner, tenant, { gate: login })
  }
  const tenancy = createTenancy({
    store: memoryTenantStore(
      [...tenants, homeless].flatMap((id) => (id === undefined ? [] : [{ id, isolation }])),
    ),
  })
  const destroyed: { tenantId: string | undefined; reason: string }[] = []
  tenancy.events.on('connection:destroyed', ({ tenant, reason }) => {
    destroyed.push({ tenantId: tenant?.id, reason })
  })
  const url =
    login === undefined
      ? db.url
      : Object.assign(new URL(db.url), { username: login, password: 'secret' }).href
  const { statementTimeoutMs, lockTimeoutMs } = variant
  const seconds = (limit: unknown): string =>
    typeof limit === 'number' ? `${limit / 1_000}s` : '0'
  const tableOf = (tenantId: string, table: string): string =>
    `"${byRow ? 'public' : tenantId}".${table}`
  const pools: TenantPool[] = []
  return {
    db,
    tenancy,
    url,
    tenants,
    homeless,
    destroyed,
    openPool(options = {}) {
      const pool = new TenantPool(tenancy, {
        connectionString: url,
        central: { connectionString: db.url },
        max: 1,
        // The whole pool, so that a test can fill it from one tenant.
        maxPerTenant: options.max ?? 1,
        ...variant,
        ...options,
      })
      pools.push(pool)
      return pool
    },
    as: (tenantId, fn) => tenancy.context.outside(() => tenancy.run(tenantId, async () => fn())),
    itemsOf: (tenantId) =>
      Array.from({ length: countOf(tenantId) }, (_, index) => ({
        id: index + 1,
        owner: canary(tenantId, index + 1),
      })),
    viewOf: (tenantId) => ({
      schema: byRow ? 'public' : tenantId,
      path: byRow ? '"public", pg_temp' : `"${tenantId}", "public", pg_temp`,
      who: perRole ? `tenant-${tenantId}` : (login ?? new URL(db.url).username),
      tenant: byRow ? tenantId : '',
      statement_timeout: seconds(statementTimeoutMs),
      lock_timeout: seconds(lockTimeoutMs),
    }),
    tableOf,
    async logs(prefix = '') {
      const places = byRow
        ? ['select tenant_id as place, unit, owner from public.log']
        : tenants.map((id) => `select '${id}' as place, unit, owner from ${tableOf(id, 'log')}`)
      const sql = `select * from (${places.join(' union all ')}) logs where starts_with(unit, $1) order by 1, 2`
      return (await db.query<LogRow>(sql, [prefix])).rows
    },
    async clearLogs() {
      await db.query(`truncate ${[...new Set(tenants.map((id) => tableOf(id, 'log')))].join(', ')}`)
    },
    async [Symbol.asyncDispose]() {
      // A client that a test keeps on purpose would hold end() back for ever; the database is dropped under it.
      const closing = pools.filter((pool) => !pool.ending).map((pool) => pool.end())
      await tenancy.close()
      await Promise.race([
        Promise.allSettled(closing),
        new Promise<void>((resolve) => {
          setTimeout(resolve, 500)
        }),
      ])
      const roles = perRole ? tenants.map((id) => `"tenant-${id}"`) : []
      for (const role of login === undefined ? roles : [...roles, login])
        await owner.query(`drop owned by ${role} cascade; drop role ${role}`)
      await owner.end()
      await db[Symbol.asyncDispose]()
    },
  }
}
