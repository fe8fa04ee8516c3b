import { createTenancy, memoryTenantStore, type Tenancy, type TenantScope } from '@partywall/core'
import {
  createGateRole,
  createTenantRole,
  TenantPool,
  type TenantPoolOptions,
} from '@partywall/postgres'
import { createTestDatabase, startTestServers, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { backendMemory } from './backend-memory.ts'
import { type BenchResult, ratios } from './bench-result.ts'
import { farServer } from './far-server.ts'

const TENANTS = 100
const ROWS = 100
const CONNECTIONS = 10
const SQL = 'select id, body from item where id = $1'

/** S1 to S8 and S18 of the targets: what scoping a statement costs against a bare pool, and against the usual ways of doing it. */
export async function postgres({ quick }: { quick: boolean }): Promise<BenchResult[]> {
  await using servers = await startTestServers()
  process.env['PARTYWALL_TEST_POSTGRES_URL'] = servers.postgresUrl
  await using database = await createTestDatabase()
  await using fleet = await createFleet(database)
  const measure = fleet.measure

  const repetitions = quick ? 5 : 15
  const units = quick ? 1_500 : 6_000
  const near1 = await measure(database.url, 1, units / 3, repetitions, [
    'bare',
    'qualified by hand',
    'scoped',
  ])
  const near10 = await measure(database.url, 10, units, repetitions, [
    'bare',
    'qualified by hand',
    'scoped',
    'scoped, unnamed',
    'scoped, by role',
    'awaited SET',
    'begin, SET LOCAL, commit',
    'bare, text only',
    'scoped, text only',
  ])
  const near50 = await measure(database.url, 50, units, repetitions, [
    'bare',
    'qualified by hand',
    'scoped',
    'multiplexed',
  ])
  await using far = await farServer(database.url, 1)
  const far1 = await measure(far.url, 1, quick ? 60 : 300, repetitions, [
    'bare',
    'scoped',
    'bare transaction of two',
    'naive tenant transaction of two',
    'scoped transaction of two',
  ])
  const far10 = await measure(far.url, 10, quick ? 600 : 3_000, repetitions, [
    'bare',
    'scoped',
    'awaited SET',
    'begin, SET LOCAL, commit',
  ])
  const far50 = await measure(far.url, 50, quick ? 1_500 : 6_000, repetitions, [
    'bare',
    'scoped',
    'multiplexed',
  ])

  const of = (figures: Record<string, number>, name: string, base = 'bare'): number =>
    (figures[name] ?? Number.NaN) / (figures[base] ?? Number.NaN)
  return [
    ...(await fleet.roundTrips()),
    {
      id: 'S2',
      measure: 'scoped against hand-qualified, N=100, C=10',
      value: of(near10, 'scoped', 'qualified by hand'),
      parts: {
        'C=1': of(near1, 'scoped', 'qualified by hand'),
        'C=50': of(near50, 'scoped', 'qualified by hand'),
        'hand-qualified against bare, C=10': of(near10, 'qualified by hand'),
      },
    },
    {
      id: 'S3',
      measure: 'scoped, unnamed, against bare pool, N=100, C=10',
      value: of(near10, 'scoped, unnamed'),
      parts: {
        'auto-named, C=10': of(near10, 'scoped'),
        'auto-named, C=1': of(near1, 'scoped'),
        'auto-named, C=50': of(near50, 'scoped'),
        'auto-named, 1 ms, C=10': of(far10, 'scoped'),
        'text without parameters, C=10': of(near10, 'scoped, text only', 'bare, text only'),
      },
    },
    {
      id: 'S4',
      measure: 'time of a scoped query against a bare one, 1 ms, C=1',
      value: 1 / of(far1, 'scoped'),
      parts: {},
    },
    {
      id: 'S5',
      measure: 'scoped against awaited SET, loopback, C=10',
      value: of(near10, 'scoped', 'awaited SET'),
      parts: {
        '1 ms, C=10': of(far10, 'scoped', 'awaited SET'),
        'against begin, SET LOCAL, commit, loopback': of(
          near10,
          'scoped',
          'begin, SET LOCAL, commit',
        ),
        'against begin, SET LOCAL, commit, 1 ms': of(far10, 'scoped', 'begin, SET LOCAL, commit'),
      },
    },
    {
      id: 'S6',
      measure: 'multiplexed 8 deep against bare pool, C=50, pool 10, loopback',
      value: of(near50, 'multiplexed'),
      parts: {
        '1 ms': of(far50, 'multiplexed'),
        'scoped without it, loopback': of(near50, 'scoped'),
        'scoped without it, 1 ms': of(far50, 'scoped'),
      },
    },
    {
      id: 'S7',
      measure: 'time of a tenant transaction of two against naive, 1 ms',
      value: 1 / of(far1, 'scoped transaction of two', 'naive tenant transaction of two'),
      parts: {
        'against a bare transaction':
          1 / of(far1, 'scoped transaction of two', 'bare transaction of two'),
      },
    },
    {
      id: 'S8',
      measure: 'role mode against path mode, C=10',
      value: of(near10, 'scoped, by role', 'scoped'),
      parts: {},
    },
    ...(await backendMemory(database, quick ? 600 : 5_000)),
  ]
}

interface Fleet extends AsyncDisposable {
  measure(
    url: string,
    concurrency: number,
    units: number,
    repetitions: number,
    names: readonly string[],
  ): Promise<Record<string, number>>
  roundTrips(): Promise<BenchResult[]>
}

/** A hundred tenants with a table each, a gate role, and the ways of asking them. */
async function createFleet(database: TestDatabase): Promise<Fleet> {
  const ids = Array.from({ length: TENANTS }, (_, index) => `t${index}`)
  for (const id of ids)
    await database.query(
      `create schema ${id}; create table ${id}.item (id int primary key, body text); insert into ${id}.item select n, '${id}' from generate_series(1, ${ROWS}) n`,
    )
  await database.query(
    `create table public.item (id int primary key, body text); insert into public.item select n, 'bare' from generate_series(1, ${ROWS}) n`,
  )
  const tenancy = createTenancy({ store: memoryTenantStore(ids.map((id) => ({ id }))) })
  const scopes: TenantScope[] = []
  for (const id of ids)
    await tenancy.run(id, (scope) => {
      scopes.push(scope)
    })
  const central = new pg.Pool({ connectionString: database.url, max: 2 })
  const gate = { name: `gate_${database.name}`, password: 'bench' }
  await createGateRole(central, gate)
  for (const { tenant } of scopes)
    await createTenantRole(central, tenant, { gate: gate.name, sharedSchemas: [] })
  // An ordinary login, as applications have: a superuser is asked for no privilege at all.
  const login = { name: `login_${database.name}`, password: 'bench' }
  await database.query(
    `create role ${login.name} login password '${login.password}'; grant select on public.item to ${login.name};
     ${ids.map((id) => `grant usage on schema ${id} to ${login.name}; grant select on ${id}.item to ${login.name}`).join(';')}`,
  )
  await database.query('analyze')

  return {
    async measure(url, concurrency, units, repetitions, names) {
      const ways = openWays(url, { tenancy, scopes, gate, login, concurrency, units })
      try {
        await ways.warmUp(names)
        const chosen = names.map((name) => [name, ways.variants[name] as () => Promise<number>])
        return await ratios(Object.fromEntries(chosen), 'bare', repetitions)
      } finally {
        await ways.end()
      }
    },
    async roundTrips() {
      await using proxy = await farServer(database.url, 0)
      const pool = new TenantPool(tenancy, {
        connectionString: proxy.url,
        max: 1,
        sharedSchemas: [],
      })
      const count = async (fn: () => Promise<unknown>): Promise<number> => {
        await proxy.roundTrips()
        await tenancy.run(scopes[0] as TenantScope, fn)
        return proxy.roundTrips()
      }
      const query = (): Promise<unknown> => pool.query(SQL, [1])
      await count(query)
      const result = {
        id: 'S1',
        measure: 'round trips of a scoped query',
        unit: 'round trips',
        value: await count(query),
        parts: {
          'when it is prepared': await count(query),
          'a tenant transaction of two statements': await count(() =>
            pool.transaction(async (run) => {
              await run(SQL, [1])
              await run(SQL, [2])
            }),
          ),
        },
      }
      await pool.end()
      return [result]
    },
    async [Symbol.asyncDispose]() {
      await tenancy.close()
      // Roles belong to the whole server, which outlives the run where the environment named it.
      for (const { tenant } of scopes)
        await central.query(`drop owned by "tenant-${tenant.id}"; drop role "tenant-${tenant.id}"`)
      for (const { name } of [gate, login])
        await central.query(`drop owned by ${name}; drop role ${name}`)
      await central.end()
    },
  }
}

interface Login {
  readonly name: string
  readonly password: string
}

interface Parts {
  readonly tenancy: Tenancy
  readonly scopes: readonly TenantScope[]
  readonly gate: Login
  readonly login: Login
  readonly concurrency: number
  readonly units: number
}

interface Ways {
  readonly variants: Readonly<Record<string, () => Promise<number>>>
  warmUp(names: readonly string[]): Promise<void>
  end(): Promise<void>
}

/** The ways of asking, each with a pool of its own. */
function openWays(url: string, { tenancy, scopes, gate, login, concurrency, units }: Parts): Ways {
  const urlOf = ({ name, password }: Login): string =>
    Object.assign(new URL(url), { username: name, password }).href
  const connectionString = urlOf(login)
  const bare = new pg.Pool({ connectionString, max: CONNECTIONS })
  // Nothing but its own tables in the path: the tenants of the bench hold a table of the same name as public.
  const open = (options: TenantPoolOptions = {}): TenantPool =>
    new TenantPool(tenancy, {
      connectionString,
      max: CONNECTIONS,
      sharedSchemas: [],
      ...options,
    })
  const pools = {
    scoped: open(),
    'scoped, unnamed': open({ preparedStatements: 'off' }),
    'scoped, by role': open({ connectionString: urlOf(gate), role: 'per-tenant' }),
    multiplexed: open({ pipelineDepth: 8 }),
  }
  const pick = (unit: number): number => (unit * 7919) % TENANTS
  const row = (unit: number): number => 1 + (unit % ROWS)
  const within = (unit: number, fn: () => Promise<unknown>): Promise<unknown> =>
    tenancy.run(scopes[pick(unit)] as TenantScope, fn)
  const withClient = async (fn: (client: pg.PoolClient) => Promise<unknown>): Promise<void> => {
    const client = await bare.connect()
    try {
      await fn(client)
    } finally {
      client.release()
    }
  }
  const works: Record<string, (unit: number) => Promise<unknown>> = {
    bare: (unit) => bare.query(SQL, [row(unit)]),
    'qualified by hand': (unit) =>
      bare.query(`select id, body from t${pick(unit)}.item where id = $1`, [row(unit)]),
    'bare, text only': (unit) => bare.query(`select id, body from item where id = ${row(unit)}`),
    'scoped, text only': (unit) =>
      within(unit, () =>
        pools['scoped, unnamed'].query(`select id, body from item where id = ${row(unit)}`),
      ),
    'awaited SET': (unit) =>
      withClient(async (client) => {
        await client.query(`set search_path to t${pick(unit)}`)
        await client.query(SQL, [row(unit)])
      }),
    'begin, SET LOCAL, commit': (unit) =>
      withClient(async (client) => {
        await client.query('begin')
        await client.query(`set local search_path to t${pick(unit)}`)
        await client.query(SQL, [row(unit)])
        await client.query('commit')
      }),
    'bare transaction of two': (unit) =>
      withClient(async (client) => {
        await client.query('begin')
        await client.query(SQL, [row(unit)])
        await client.query(SQL, [row(unit)])
        await client.query('commit')
      }),
    'naive tenant transaction of two': (unit) =>
      withClient(async (client) => {
        await client.query('begin')
        await client.query(`set local search_path to t${pick(unit)}`)
        await client.query(SQL, [row(unit)])
        await client.query(SQL, [row(unit)])
        await client.query('commit')
      }),
    'scoped transaction of two': (unit) =>
      within(unit, () =>
        pools.scoped.transaction(async (query) => {
          await query(SQL, [row(unit)])
          await query(SQL, [row(unit)])
        }),
      ),
  }
  for (const [name, pool] of Object.entries(pools))
    works[name] = (unit) => within(unit, () => pool.query(SQL, [row(unit)]))
  const loop =
    (work: (unit: number) => Promise<unknown>, count: number, callers: number) =>
    async (): Promise<number> => {
      let next = 0
      const start = performance.now()
      await Promise.all(
        Array.from({ length: callers }, async () => {
          while (next < count) await work(next++)
        }),
      )
      return count / (performance.now() - start)
    }
  return {
    variants: Object.fromEntries(
      Object.entries(works).map(([name, work]) => [name, loop(work, units, concurrency)]),
    ),
    // A name is given when a text comes for the second time, on each connection and in each tenant; a steady state has all of them.
    async warmUp(names) {
      const named = names.map((name) => name.replace(' transaction of two', ''))
      for (const name of new Set(named))
        if (name in pools && name !== 'scoped, unnamed')
          await loop(
            works[name] as (unit: number) => Promise<unknown>,
            TENANTS * Math.min(concurrency, CONNECTIONS) * 5,
            concurrency,
          )()
    },
    async end() {
      await Promise.all([bare, ...Object.values(pools)].map((pool) => pool.end()))
    },
  }
}
