import { createTenancy, memoryTenantStore, type TenantScope } from '@partywall/core'
import { TenantPool } from '@partywall/postgres'
import { createFaultProxy, createTestDatabase, startTestServers } from '@partywall/test-support'
import pg from 'pg'
import { type BenchResult, ratios } from './bench-result.ts'

const TENANTS = 100
const ROWS = 100
const SQL = 'select id, body from item where id = $1'

/** S1, S3, S4, S5 and S7 of the targets: what scoping a statement costs against a bare pool, and against the usual ways. */
export async function scope({ quick }: { quick: boolean }): Promise<BenchResult[]> {
  await using servers = await startTestServers()
  process.env['PARTYWALL_TEST_POSTGRES_URL'] = servers.postgresUrl
  await using database = await createTestDatabase()
  const ids = Array.from({ length: TENANTS }, (_, index) => `t${index}`)
  for (const id of ids)
    await database.query(
      `create schema ${id}; create table ${id}.item (id int primary key, body text); insert into ${id}.item select n, '${id}' from generate_series(1, ${ROWS}) n`,
    )
  await database.query(
    "create table public.item (id int primary key, body text); insert into public.item select n, 'bare' from generate_series(1, 100) n",
  )
  await using tenancy = createTenancy({ store: memoryTenantStore(ids.map((id) => ({ id }))) })
  const scopes: TenantScope[] = []
  for (const id of ids) await tenancy.run(id, (entered) => scopes.push(entered))

  const measure = async (
    url: string,
    concurrency: number,
    units: number,
    repetitions: number,
  ): Promise<Record<string, number>> => {
    const bare = new pg.Pool({ connectionString: url, max: 10 })
    // Nothing but its own tables in the path: the tenants of the bench hold a table of the same name as public.
    const scoped = new TenantPool(tenancy, { connectionString: url, max: 10, sharedSchemas: [] })
    const unnamed = new TenantPool(tenancy, {
      connectionString: url,
      max: 10,
      sharedSchemas: [],
      preparedStatements: 'off',
    })
    // A name is given when a text comes for the second time, on each connection and in each tenant.
    for (let unit = 0; unit < TENANTS * 10 * 6; unit += concurrency)
      await Promise.all(
        Array.from({ length: concurrency }, (_, n) =>
          tenancy.run(scopes[(unit + n) % TENANTS] as TenantScope, () => scoped.query(SQL, [1])),
        ),
      )
    const pick = (unit: number): number => (unit * 7919) % TENANTS
    const within = (unit: number, fn: () => Promise<unknown>): Promise<unknown> =>
      tenancy.run(scopes[pick(unit)] as TenantScope, fn)
    const row = (unit: number): number => 1 + (unit % ROWS)
    const loop = (work: (unit: number) => Promise<unknown>) => async (): Promise<number> => {
      let next = 0
      const start = performance.now()
      await Promise.all(
        Array.from({ length: concurrency }, async () => {
          while (next < units) await work(next++)
        }),
      )
      return units / (performance.now() - start)
    }
    const withClient = async (fn: (client: pg.PoolClient) => Promise<unknown>): Promise<void> => {
      const client = await bare.connect()
      try {
        await fn(client)
      } finally {
        client.release()
      }
    }
    try {
      return await ratios(
        {
          bare: loop((unit) => bare.query(SQL, [row(unit)])),
          'qualified by hand': loop((unit) =>
            bare.query(`select id, body from t${pick(unit)}.item where id = $1`, [row(unit)]),
          ),
          scoped: loop((unit) => within(unit, () => scoped.query(SQL, [row(unit)]))),
          'scoped, unnamed': loop((unit) => within(unit, () => unnamed.query(SQL, [row(unit)]))),
          'scoped, text only': loop((unit) =>
            within(unit, () => scoped.query(`select id, body from item where id = ${row(unit)}`)),
          ),
          'bare, text only': loop((unit) =>
            bare.query(`select id, body from item where id = ${row(unit)}`),
          ),
          'awaited SET': loop((unit) =>
            withClient(async (client) => {
              await client.query(`set search_path to t${pick(unit)}`)
              await client.query(SQL, [row(unit)])
            }),
          ),
          'bare transaction of two': loop((unit) =>
            withClient(async (client) => {
              await client.query('begin')
              await client.query(SQL, [row(unit)])
              await client.query(SQL, [row(unit)])
              await client.query('commit')
            }),
          ),
          'naive tenant transaction of two': loop((unit) =>
            withClient(async (client) => {
              await client.query('begin')
              await client.query(`set local search_path to t${pick(unit)}`)
              await client.query(SQL, [row(unit)])
              await client.query(SQL, [row(unit)])
              await client.query('commit')
            }),
          ),
          'scoped transaction of two': loop((unit) =>
            within(unit, () =>
              scoped.transaction(async (query) => {
                await query(SQL, [row(unit)])
                await query(SQL, [row(unit)])
              }),
            ),
          ),
        },
        'bare',
        repetitions,
      )
    } finally {
      await Promise.all([bare.end(), scoped.end(), unnamed.end()])
    }
  }

  const repetitions = quick ? 3 : 9
  const units = quick ? 400 : 2_000
  const near1 = await measure(database.url, 1, units, repetitions)
  const near10 = await measure(database.url, 10, units * 2, repetitions)
  const near50 = await measure(database.url, 50, units * 2, repetitions)
  await using proxy = await createFaultProxy(database.url, { latencyMs: 1 })
  const far1 = await measure(proxy.url, 1, quick ? 40 : 150, repetitions)
  const far10 = await measure(proxy.url, 10, quick ? 200 : 800, repetitions)

  const of = (figures: Record<string, number>, name: string, base = 'bare'): number =>
    (figures[name] ?? Number.NaN) / (figures[base] ?? Number.NaN)
  return [
    {
      id: 'S2',
      measure: 'scoped against hand-qualified, N=100, C=10',
      value: of(near10, 'scoped', 'qualified by hand'),
      parts: {
        'C=1': of(near1, 'scoped', 'qualified by hand'),
        'C=50': of(near50, 'scoped', 'qualified by hand'),
      },
    },
    {
      id: 'S3',
      measure: 'scoped, auto-named, against bare pool, N=100, C=10',
      value: of(near10, 'scoped'),
      parts: {
        'unnamed, C=10': of(near10, 'scoped, unnamed'),
        'C=1': of(near1, 'scoped'),
        'C=50': of(near50, 'scoped'),
        'text without parameters, C=10': of(near10, 'scoped, text only', 'bare, text only'),
        'with 1 ms each way, C=10': of(far10, 'scoped'),
      },
    },
    {
      id: 'S4',
      measure: 'time of a scoped query against a bare one, 1 ms each way, C=1',
      value: 1 / of(far1, 'scoped'),
      parts: {},
    },
    {
      id: 'S5',
      measure: 'scoped against awaited SET, loopback, C=10',
      value: of(near10, 'scoped', 'awaited SET'),
      parts: { 'with 1 ms each way, C=10': of(far10, 'scoped', 'awaited SET') },
    },
    {
      id: 'S7',
      measure: 'time of a tenant transaction of two against naive, 1 ms each way',
      value: 1 / of(far1, 'scoped transaction of two', 'naive tenant transaction of two'),
      parts: {
        'against a bare transaction':
          1 / of(far1, 'scoped transaction of two', 'bare transaction of two'),
      },
    },
  ]
}
