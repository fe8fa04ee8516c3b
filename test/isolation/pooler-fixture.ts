import { randomBytes } from 'node:crypto'
import { createTenancy, createTenant, memoryTenantStore, type Tenancy } from '@partywall/core'
import {
  createGateRole,
  createTenantRole,
  createTenantSchema,
  TenantPool,
  type TenantPoolOptions,
} from '@partywall/postgres'
import {
  createTestDatabase,
  startPgBouncer,
  type TestDatabase,
  type TestPgBouncer,
} from '@partywall/test-support'
import pg from 'pg'

export interface PooledWorldOptions {
  /** Rows of `item` by tenant; the ids get a salt, because their roles belong to the whole server. */
  readonly counts: Readonly<Record<string, number>>
  /** Connections that the pooler has. */
  readonly connections: number
  readonly role?: 'none' | 'per-tenant'
  readonly maxPreparedStatements?: number | undefined
}

/** Tenants in a database behind a PgBouncer in transaction mode, and whoever else uses its connections. */
export interface PooledWorld extends AsyncDisposable {
  readonly db: TestDatabase
  readonly tenancy: Tenancy
  readonly pooler: TestPgBouncer
  /** Rows of `item` by tenant id. */
  readonly counts: Readonly<Record<string, number>>
  readonly tenantIds: readonly string[]
  /** The address of the pooler, with the login that the tenants' pools have. */
  readonly url: string
  /** What `connection:destroyed` told. */
  readonly destroyed: string[]
  as<T>(tenantId: string, fn: () => Promise<T> | T): Promise<T>
  openPool(options?: TenantPoolOptions): TenantPool
  /** A plain client of the same login: another application on the same connections of the pooler. */
  openStranger(): Promise<pg.Client>
}

/** As in `database-fixture.ts`: `strangers` keeps notes in a temporary table and counts those of others in it. */
function tenantSql(tenantId: string, count: number): string {
  const schema = `"${tenantId}"`
  return `create table ${schema}.item (id int primary key, owner text not null);
    insert into ${schema}.item select n, 'canary:${tenantId}:' || n from generate_series(1, ${count}) n;
    create table ${schema}.log (unit text primary key, owner text not null);
    create function ${schema}.strangers(who text) returns int language plpgsql as $$ begin
      create temp table if not exists scratch (owner text); insert into scratch values (who);
      return (select count(*) from scratch where owner <> who); end $$;`
}

export async function createPooledWorld({
  counts: given,
  connections,
  role = 'none',
  maxPreparedStatements,
}: PooledWorldOptions): Promise<PooledWorld> {
  const salt = randomBytes(4).toString('hex')
  const counts = Object.fromEntries(
    Object.entries(given).map(([name, count]) => [`${name}-${salt}`, count]),
  )
  const tenantIds = Object.keys(counts)
  const login = { name: `pooled_${salt}`, password: 'secret' }
  const db = await createTestDatabase()
  const central = new pg.Pool({ connectionString: db.url, max: 2 })
  central.on('error', () => undefined)
  if (role === 'per-tenant') await createGateRole(central, login)
  else await db.query(`create role ${login.name} login password '${login.password}'`)
  // What the pool cannot send at the login.
  await db.query(`alter role ${login.name} set search_path = ''`)
  for (const id of tenantIds) {
    const tenant = createTenant({ id })
    await createTenantSchema(central, tenant)
    await db.query(tenantSql(id, counts[id] ?? 0))
    if (role === 'per-tenant') await createTenantRole(central, tenant, { gate: login.name })
    else
      await db.query(
        `grant usage, create on schema "${id}" to ${login.name}; grant all on all tables in schema "${id}" to ${login.name}`,
      )
  }
  const pooler = await startPgBouncer({
    postgresUrl: db.url,
    poolMode: 'transaction',
    poolSize: connections,
    users: [login],
    maxPreparedStatements,
  })
  const url = pooler.urlOf(login)
  const tenancy = createTenancy({ store: memoryTenantStore(tenantIds.map((id) => ({ id }))) })
  const destroyed: string[] = []
  tenancy.events.on('connection:destroyed', ({ reason }) => destroyed.push(reason))
  const pools: TenantPool[] = []
  const clients: pg.Client[] = []
  return {
    db,
    tenancy,
    pooler,
    counts,
    tenantIds,
    url,
    destroyed,
    as: (tenantId, fn) => tenancy.context.outside(() => tenancy.run(tenantId, async () => fn())),
    openPool(options = {}) {
      const max = options.max ?? 1
      const pool = new TenantPool(tenancy, {
        connectionString: url,
        max,
        maxPerTenant: max,
        pooler: 'transaction',
        role,
        ...options,
      })
      pools.push(pool)
      return pool
    },
    async openStranger() {
      const client = new pg.Client(url)
      client.on('error', () => undefined)
      await client.connect()
      clients.push(client)
      return client
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(clients.map((client) => client.end().catch(() => undefined)))
      await Promise.all(pools.filter((pool) => !pool.ending).map((pool) => pool.end()))
      await tenancy.close()
      await pooler[Symbol.asyncDispose]()
      const roles = [
        login.name,
        ...(role === 'none' ? [] : tenantIds.map((id) => `"tenant-${id}"`)),
      ]
      for (const name of roles)
        await central.query(`drop owned by ${name} cascade; drop role ${name}`)
      await central.end()
      await db[Symbol.asyncDispose]()
    },
  }
}
