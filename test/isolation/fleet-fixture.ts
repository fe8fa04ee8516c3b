import { randomBytes } from 'node:crypto'
import {
  createTenancy,
  createTenant,
  memoryTenantStore,
  type Tenancy,
  type Tenant,
  type TenantInput,
} from '@partywall/core'
import { TenantPool, type TenantPoolOptions } from '@partywall/postgres'
import {
  canary,
  createTestDatabase,
  type RunningServer,
  startTestPostgres,
  type TestDatabase,
} from '@partywall/test-support'
import pg from 'pg'

/** A Postgres of a test's own, beside the one of the run. */
export interface OtherServer extends AsyncDisposable {
  readonly server: RunningServer
  /** Runs SQL as superuser, in a database of it. */
  query(sql: string, database?: string): Promise<pg.QueryResult>
  readonly fields: Readonly<{ host: string; port: number; user: string; password: string }>
}

export async function startOtherServer(): Promise<OtherServer> {
  const server = await startTestPostgres()
  const url = new URL(server.url)
  const fields = {
    host: url.hostname,
    port: Number(url.port),
    user: url.username,
    password: url.password,
  }
  return {
    server,
    fields,
    query: (sql, database = 'postgres') => once({ ...fields, database }, sql),
    [Symbol.asyncDispose]: () => server.stop(),
  }
}

/** One statement, or several, on a connection of its own. */
async function once(config: pg.ClientConfig, sql: string): Promise<pg.QueryResult> {
  const client = new pg.Client(config)
  client.on('error', () => undefined)
  await client.connect()
  try {
    return await client.query(sql)
  } finally {
    await client.end()
  }
}

/** What a tenant of a fleet holds: the same ids everywhere, a canary in each value. */
export function itemSql(schema: string, tenantId: string, count: number, login: string): string {
  return `create schema if not exists "${schema}";
    create table "${schema}".item (id int primary key, owner text not null);
    insert into "${schema}".item select n, '${canary(tenantId, 0).slice(0, -1)}' || n from generate_series(1, ${count}) n;
    create table "${schema}".log (unit text primary key, owner text not null);
    grant usage, create on schema "${schema}" to "${login}"; grant all on all tables in schema "${schema}" to "${login}";`
}

/** The run's own server, with a login that is no superuser; databases and roles of it go away at the end. */
export interface FleetWorld extends AsyncDisposable {
  readonly salt: string
  readonly home: TestDatabase
  /** The login of the pools. */
  readonly login: string
  readonly url: string
  readonly tenancy: Tenancy
  readonly destroyed: { readonly tenantId: string | undefined; readonly reason: string }[]
  tenant(id: string): Tenant
  as<T>(id: string, fn: () => Promise<T> | T): Promise<T>
  openPool(options?: TenantPoolOptions): TenantPool
  /** Creates a database on the server of the run, which goes away at the end. */
  createDatabase(name: string): Promise<void>
  createLogin(name: string, password: string): Promise<void>
  /** Runs SQL as superuser in a database of the run's server. */
  inDatabase(database: string, sql: string): Promise<pg.QueryResult>
  /** Connections of an application name that the run's server has. */
  backends(application: string): Promise<number>
}

export async function createFleetWorld(
  tenants: (salt: string) => readonly TenantInput[],
): Promise<FleetWorld> {
  const salt = randomBytes(4).toString('hex')
  const home = await createTestDatabase()
  const login = `app_${salt}`
  const admin = new URL(home.url)
  const records = new Map(tenants(salt).map((input) => [input.id, createTenant(input)]))
  const tenancy = createTenancy({ store: memoryTenantStore([...records.values()]) })
  const databases: string[] = []
  const roles: string[] = []
  const pools: TenantPool[] = []
  const destroyed: { tenantId: string | undefined; reason: string }[] = []
  tenancy.events.on('connection:destroyed', ({ tenant, reason }) => {
    destroyed.push({ tenantId: tenant?.id, reason })
  })
  const inDatabase = (database: string, sql: string): Promise<pg.QueryResult> =>
    once(
      {
        host: admin.hostname,
        port: Number(admin.port),
        user: admin.username,
        password: decodeURIComponent(admin.password),
        database,
      },
      sql,
    )
  const createLogin = async (name: string, password: string): Promise<void> => {
    await home.query(`create role "${name}" login password '${password}'`)
    roles.push(name)
  }
  await createLogin(login, 'secret')
  const url = Object.assign(new URL(home.url), { username: login, password: 'secret' }).href
  return {
    salt,
    home,
    login,
    url,
    tenancy,
    destroyed,
    tenant(id) {
      const tenant = records.get(id)
      if (tenant === undefined) throw new Error(`no tenant ${id}`)
      return tenant
    },
    as: (id, fn) => tenancy.context.outside(() => tenancy.run(id, async () => fn())),
    openPool(options = {}) {
      const pool = new TenantPool(tenancy, { connectionString: url, max: 2, ...options })
      pools.push(pool)
      return pool
    },
    async createDatabase(name) {
      databases.push(name)
      await home.query(`create database ${pg.escapeIdentifier(name)} template template0`)
    },
    createLogin,
    inDatabase,
    async backends(application) {
      const { rows } = await home.query<{ count: number }>(
        'select count(*)::int as count from pg_stat_activity where application_name = $1',
        [application],
      )
      return rows[0]?.count ?? -1
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(pools.filter(({ ending }) => !ending).map((pool) => pool.end()))
      await tenancy.close()
      const owned = await home.query<{ name: string }>(
        `select datname as name from pg_database where datname like '%' || $1 || '%'`,
        [salt],
      )
      for (const name of new Set([...databases, ...owned.rows.map((row) => row.name)]))
        await home.query(`drop database if exists ${pg.escapeIdentifier(name)} with (force)`)
      await home.query(`drop schema if exists probe cascade`)
      for (const role of roles) await home.query(`drop owned by "${role}" cascade`)
      for (const role of roles) await home.query(`drop role "${role}"`)
      await home[Symbol.asyncDispose]()
    },
  }
}

/** The rows of `item` as a tenant must see them. */
export function itemsOf(tenantId: string, count: number): { id: number; owner: string }[] {
  return Array.from({ length: count }, (_, index) => ({
    id: index + 1,
    owner: canary(tenantId, index + 1),
  }))
}
