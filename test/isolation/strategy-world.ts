import { randomBytes } from 'node:crypto'
import {
  createTenancy,
  createTenant,
  memoryTenantStore,
  physicalName,
  type Tenancy,
  type Tenant,
} from '@partywall/core'
import {
  applyRowIsolation,
  createGateRole,
  createTenantDatabase,
  createTenantRole,
  createTenantSchema,
  dropTenantDatabase,
  TenantPool,
  type TenantPoolOptions,
} from '@partywall/postgres'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'

/** One of the ways to keep tenants apart, set up as the documentation says. */
export interface Strategy {
  readonly isolation: 'schema' | 'row' | 'database'
  /** Who acts: the login of the application, a role for each tenant behind a gate, a login for each tenant. */
  readonly acts: 'login' | 'role' | 'own-login'
  readonly options?: TenantPoolOptions
}

export const STRATEGIES: Readonly<Record<string, Strategy>> = {
  schema: { isolation: 'schema', acts: 'login' },
  'schema, shared connections': {
    isolation: 'schema',
    acts: 'login',
    options: { pipelineDepth: 8 },
  },
  'schema, as behind a pooler': {
    isolation: 'schema',
    acts: 'role',
    options: { pooler: 'transaction' },
  },
  'schema, a role for each tenant': { isolation: 'schema', acts: 'role' },
  'schema, a login for each tenant': { isolation: 'schema', acts: 'own-login' },
  row: { isolation: 'row', acts: 'login' },
  'row, a role for each tenant': { isolation: 'row', acts: 'role' },
  database: { isolation: 'database', acts: 'login' },
  'database, a role for each tenant': { isolation: 'database', acts: 'role' },
}

const COUNTS = [3, 5, 7] as const
const PASSWORD = 'secret'

/** `note` is for writes, and `log` for those that may come twice; `strangers` keeps notes in a temporary table, as functions of real applications do, and counts those of others in it. */
const TABLES = `create table item (id int primary key, owner text not null);
  create table part (id int primary key, item_id int references item, owner text not null);
  create table note (unit text primary key, owner text not null);
  create table log (unit text not null, owner text not null);
  create function strangers(who text) returns int language plpgsql as $$ begin
    create temp table if not exists scratch (owner text); insert into scratch values (who);
    return (select count(*) from scratch where owner <> who); end $$;`

/** Two neighbours and an adversary, with the same ids in all tables, different numbers of rows and a canary in every value; and `nowhere-...`, of which there is a record and nothing else. */
export interface StrategyWorld extends AsyncDisposable {
  readonly db: TestDatabase
  /** The connection string of the pools. */
  readonly url: string
  readonly tenancy: Tenancy
  readonly tenants: readonly [acme: string, globex: string, zeta: string]
  readonly destroyed: { readonly tenantId: string | undefined; readonly reason: string }[]
  /** A superuser's connections to the database that a tenant is in. */
  outside(tenantId: string): Pick<TestDatabase, 'query'>
  /** A qualified name for a table of a tenant, as it is written from another tenant. */
  nameOf(tenantId: string, table: string): string
  openPool(options?: TenantPoolOptions): TenantPool
  as<T>(tenantId: string, fn: () => Promise<T> | T): Promise<T>
  itemsOf(tenantId: string): { id: number; owner: string }[]
  /** All notes of a tenant, from outside. */
  notesOf(tenantId: string): Promise<{ unit: string; owner: string }[]>
}

/** @param server - a superuser's connection string of another server than that of the run. */
export async function createStrategyWorld(
  { isolation, acts, options: fixed = {} }: Strategy,
  server?: string,
): Promise<StrategyWorld> {
  await using stack = new AsyncDisposableStack()
  const db = stack.use(await createTestDatabase(server))
  const salt = randomBytes(4).toString('hex')
  const tenants = [`acme-${salt}`, `globex-${salt}`, `zeta-${salt}`] as const
  const records = tenants.map((id) => createTenant({ id, isolation }))
  const central = new pg.Pool({ connectionString: db.url, max: 2 })
  central.on('error', () => undefined)
  const login = `login_${salt}`
  const roles = acts === 'login' ? [] : tenants.map((id) => physicalName('role', id))
  stack.defer(async () => {
    for (const tenant of records)
      if (isolation === 'database')
        await dropTenantDatabase(central, tenant, { confirm: tenant.id })
    for (const role of [...roles, login])
      await central.query(
        `do $$ begin if exists (select from pg_roles where rolname = '${role}') then drop owned by "${role}" cascade; drop role "${role}"; end if; end $$`,
      )
    await central.end()
  })
  if (acts === 'role') await createGateRole(central, { name: login, password: PASSWORD })
  else await central.query(`create role ${login} login password '${PASSWORD}'`)
  const homes = new Map<string, pg.Pool>()
  for (const [index, tenant] of records.entries()) {
    const home = await homeOf(tenant)
    homes.set(tenant.id, home)
    await furnish(home, tenant, index)
  }

  async function homeOf(tenant: Tenant): Promise<pg.Pool> {
    if (isolation !== 'database') return central
    await createTenantDatabase(central, tenant, { connect: acts === 'own-login' ? [] : [login] })
    const url = new URL(db.url)
    url.pathname = `/${physicalName('database', tenant.id)}`
    const pool = new pg.Pool({ connectionString: url.href, max: 1 })
    pool.on('error', () => undefined)
    stack.defer(() => pool.end())
    return pool
  }

  /** Makes the tables, the rows and the rights of one tenant. */
  async function furnish(home: pg.Pool, tenant: Tenant, index: number): Promise<void> {
    const schema = isolation === 'schema' ? tenant.id : 'public'
    const client = await home.connect()
    const create = async (): Promise<void> => {
      await client.query(`set search_path to "${schema}"; ${TABLES} reset search_path`)
    }
    if (isolation === 'schema') await createTenantSchema(central, tenant)
    if (isolation !== 'row' || index === 0) await create()
    client.release(true)
    if (isolation === 'row' && index === 0)
      await applyRowIsolation(home, {
        schema,
        role: acts === 'role' ? 'per-tenant' : 'none',
      })
    const [columns, value] = isolation === 'row' ? [', tenant_id', `, '${tenant.id}'`] : ['', '']
    await home.query(
      `insert into "${schema}".item (id, owner${columns}) select n, 'canary:${tenant.id}:' || n${value} from generate_series(1, ${COUNTS[index]}) n`,
    )
    if (acts === 'login')
      await home.query(
        // Migrations of a tenant with tables of its own run in its pool.
        `grant usage${isolation === 'row' ? '' : ', create'} on schema "${schema}" to ${login}; grant select, insert, update, delete on all tables in schema "${schema}" to ${login}`,
      )
    else
      await createTenantRole(home, tenant, {
        ...(acts === 'role' ? { gate: login } : { login: { password: PASSWORD } }),
        sharedSchemas: [],
      })
    // A pooler refuses the setting at the start of a connection; the gate role brings it.
  }

  const tenancy = createTenancy({
    store: memoryTenantStore([...tenants, `nowhere-${salt}`].map((id) => ({ id, isolation }))),
  })
  const destroyed: { tenantId: string | undefined; reason: string }[] = []
  tenancy.events.on('connection:destroyed', ({ tenant, reason }) => {
    destroyed.push({ tenantId: tenant?.id, reason })
  })
  const pools: TenantPool[] = []
  stack.defer(async () => {
    await tenancy.close()
    await Promise.race([
      Promise.allSettled(pools.filter((pool) => !pool.ending).map((pool) => pool.end())),
      // A client that a test keeps on purpose would hold this back for ever.
      new Promise<void>((resolve) => {
        setTimeout(resolve, 500)
      }),
    ])
  })
  const url = Object.assign(new URL(db.url), { username: login, password: PASSWORD }).href
  const owned = stack.move()
  return {
    db,
    url,
    tenancy,
    tenants,
    destroyed,
    outside: (tenantId) => homes.get(tenantId) as pg.Pool,
    nameOf: (tenantId, table) =>
      isolation === 'schema' ? `"${tenantId}".${table}` : `public.${table}`,
    openPool(options = {}) {
      const max = options.max ?? 1
      const pool = new TenantPool(tenancy, {
        connectionString: url,
        central: { connectionString: db.url },
        sharedSchemas: [],
        max,
        maxPerTenant: max,
        databases: { maxConnections: Math.max(2, max), maxPerDatabase: max },
        ...(acts === 'role' ? { role: 'per-tenant' } : {}),
        ...(acts === 'own-login'
          ? { login: 'per-tenant', credentials: () => ({ password: PASSWORD }) }
          : {}),
        ...fixed,
        ...options,
      })
      pools.push(pool)
      return pool
    },
    as: (tenantId, fn) => tenancy.context.outside(() => tenancy.run(tenantId, async () => fn())),
    itemsOf: (tenantId) =>
      Array.from({ length: COUNTS[tenants.indexOf(tenantId as never)] ?? 0 }, (_, index) => ({
        id: index + 1,
        owner: canary(tenantId, index + 1),
      })),
    async notesOf(tenantId) {
      const where = isolation === 'row' ? `where tenant_id = '${tenantId}'` : ''
      const schema = isolation === 'schema' ? tenantId : 'public'
      const { rows } = await (homes.get(tenantId) as pg.Pool).query<{
        unit: string
        owner: string
      }>(`select unit, owner from "${schema}".note ${where} order by unit`)
      return rows
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
