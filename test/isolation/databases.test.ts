import { pipeline } from 'node:stream/promises'
import { physicalName, TenancyError } from '@partywall/core'
import {
  createMigration,
  createTenantDatabase,
  createTenantSchema,
  doctor,
  fingerprintSchema,
  migrateTenant,
  schemaOf,
  type TenantPool,
} from '@partywall/postgres'
import { canary, eventually, foreignCanaries, seededRandom } from '@partywall/test-support'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  createFleetWorld,
  type FleetWorld,
  itemSql,
  itemsOf,
  type OtherServer,
  startOtherServer,
} from './fleet-fixture.ts'

/** Fifty tenants, kept apart in every way at once. Their ids end in the salt of the run, because databases and roles belong to the whole server. */
const KINDS = {
  schema: 18,
  row: 10,
  database: 6,
  'west-schema': 6,
  'west-database': 5,
  login: 5,
} as const
type Kind = keyof typeof KINDS

let world: FleetWorld
let west: OtherServer
const ids: string[] = []
const idsOf = (kind: Kind): string[] => ids.filter((id) => id.startsWith(`${kind}-0`))
const countOf = (id: string): number => 1 + (ids.indexOf(id) % 7)
const as = <T>(id: string, fn: () => Promise<T> | T): Promise<T> => world.as(id, fn)

/** Two tenants whose databases and schemas are called the same, on two servers. */
const twins = (salt: string) =>
  ['home', 'west'].map((place) => ({
    id: `twin-${place}`,
    isolation: 'schema' as const,
    placement: {
      ...(place === 'west' ? { cluster: 'west' } : {}),
      database: `twin_${salt}`,
      schema: 'twin',
    },
  }))

beforeAll(async () => {
  west = await startOtherServer()
  world = await createFleetWorld((salt) =>
    Object.entries(KINDS)
      .flatMap(([kind, count]) =>
        Array.from({ length: count }, (_, n) => {
          const id = `${kind}-0${n}-${salt}`
          ids.push(id)
          const cluster = kind.startsWith('west') ? { cluster: 'west' } : {}
          return {
            id,
            isolation: kind.endsWith('database')
              ? ('database' as const)
              : kind === 'row'
                ? ('row' as const)
                : ('schema' as const),
            placement: cluster,
          }
        }),
      )
      .concat(twins(salt)),
  )
  const { home, login } = world
  await west.query(`create role "${login}" login password 'secret'`)
  await home.query(
    `create schema rows; grant usage on schema rows to "${login}";
     create table rows.item (id int, owner text not null, tenant_id text not null default current_setting('app.tenant_id'), primary key (tenant_id, id));
     create table rows.log (unit text primary key, owner text not null, tenant_id text not null default current_setting('app.tenant_id'));
     grant all on rows.item, rows.log to "${login}";
     ${['item', 'log']
       .map(
         (table) =>
           `alter table rows.${table} enable row level security, force row level security;
            create policy own on rows.${table} using (tenant_id = nullif(current_setting('app.tenant_id', true), '')) with check (tenant_id = nullif(current_setting('app.tenant_id', true), ''));`,
       )
       .join('\n')}`,
  )
  await world.createDatabase(`twin_${world.salt}`)
  await world.inDatabase(`twin_${world.salt}`, itemSql('twin', 'twin-home', 1, login))
  await west.query(`create database twin_${world.salt}`)
  await west.query(itemSql('twin', 'twin-west', 1, login), `twin_${world.salt}`)
  const setUp = openPool({ central: { connectionString: home.url } })
  for (const id of ids) {
    const tenant = world.tenant(id)
    const { isolation, placement } = tenant
    if (isolation === 'row') {
      await home.query(
        `insert into rows.item (id, owner, tenant_id) select n, 'canary:${id}:' || n, '${id}' from generate_series(1, ${countOf(id)}) n`,
      )
      continue
    }
    if (isolation === 'database')
      await createTenantDatabase(setUp.centralOf(placement.cluster), tenant, { connect: [login] })
    const user = id.startsWith('login') ? physicalName('role', id) : login
    if (id.startsWith('login')) await world.createLogin(user, `secret of ${id}`)
    await setUp.centralOf(tenant).query(itemSql(schemaOf(tenant), id, countOf(id), user))
  }
  await setUp.end()
})
afterAll(async () => {
  await world[Symbol.asyncDispose]()
  await west[Symbol.asyncDispose]()
})
beforeEach(() => {
  world.destroyed.length = 0
})

function openPool(options: Parameters<FleetWorld['openPool']>[0] = {}): TenantPool {
  const { password, user, ...address } = west.fields
  return world.openPool({
    rowSchema: 'rows',
    clusters: {
      west: { ...address, user: world.login, password: 'secret', central: { user, password } },
    },
    login: ({ id }) => (id.startsWith('login') ? 'per-tenant' : 'shared'),
    credentials: ({ id }) => ({ password: `secret of ${id}` }),
    ...options,
  })
}

describe('D1 fifty tenants in schemas, rows, databases, another cluster and logins of their own', () => {
  it.each([
    [1, { maxConnections: 2, maxPerDatabase: 1 }, 300],
    [4, { maxConnections: 8, maxPerDatabase: 4 }, 1200],
  ])(
    'D1 pool of %i, fleet of %o: every row and every write of %i mixed units carries the canary of its caller',
    async (max, databases, units) => {
      const random = seededRandom()
      const pool = openPool({ max, databases })
      const expected = new Map<string, Set<string>>(ids.map((id) => [id, new Set()]))
      const foreign: unknown[] = []
      let checked = 0
      const check = (id: string, rows: readonly unknown[], length: number): void => {
        checked++
        if (foreignCanaries(rows, id).length > 0 || rows.length !== length)
          foreign.push({ id, rows, length })
      }
      const SELECT = 'select id, owner from item order by id'
      const write = 'insert into log (unit, owner) values ($1, $2)'
      const kinds: ((id: string, unit: string) => Promise<void>)[] = [
        async (id) => check(id, (await pool.query(SELECT)).rows, countOf(id)),
        async (id) =>
          check(id, (await pool.query('select owner from item where id = $1', [1])).rows, 1),
        async (id, unit) => {
          await pool.query(write, [unit, canary(id, unit)])
          expected.get(id)?.add(unit)
        },
        async (id, unit) => {
          await pool.transaction(async (query) => {
            await query(write, [unit, canary(id, unit)])
            check(id, (await query(SELECT)).rows, countOf(id))
          })
          expected.get(id)?.add(unit)
        },
        async (id, unit) => {
          await pool
            .transaction(async (query) => {
              await query(write, [unit, canary(id, unit)])
              throw new Error('mine')
            })
            .catch((error: Error) => {
              if (error.message !== 'mine') throw error
            })
        },
        async (id) => {
          await pool.query('select no_such_column from item').catch((error: pg.DatabaseError) => {
            if (error.code !== '42703') throw error
          })
          check(id, (await pool.query(SELECT)).rows, countOf(id))
        },
        (id) =>
          new Promise((resolve, reject) => {
            pool.connect((error, client, done) => {
              if (client === undefined) return reject(error ?? new Error('No client.'))
              client.query(SELECT, (failure: Error | null, result: pg.QueryResult) => {
                done()
                if (failure) return reject(failure)
                check(id, result.rows, countOf(id))
                resolve()
              })
            })
          }),
      ]
      let next = 0
      const worker = async (): Promise<void> => {
        while (next < units) {
          const unit = `${max}-${next++}`
          const id = random.pick(ids)
          const kind = random.pick(kinds)
          await as(id, () => kind(id, unit))
        }
      }
      await Promise.all(Array.from({ length: 32 }, worker))
      expect(foreign).toEqual([])
      expect(checked).toBeGreaterThan(units / 2)
      for (const id of ids) {
        const { rows } = await as(id, () =>
          pool.query<{ unit: string; owner: string }>('select unit, owner from log order by unit'),
        )
        const own = rows.filter(({ unit }) => unit.startsWith(`${max}-`))
        expect(own.map(({ unit }) => unit)).toEqual([...(expected.get(id) ?? [])].sort())
        expect(own.every(({ unit, owner }) => owner === canary(id, unit))).toBe(true)
      }
      // Nobody took anybody's connection for unclean, and nothing is left lent out.
      expect(world.destroyed).toEqual([])
      expect(pool.databaseCounts.total - pool.databaseCounts.idle).toBe(0)
      expect(pool.databaseCounts.total).toBeLessThanOrEqual(databases.maxConnections)
      await pool.end()
    },
    120_000,
  )
})

/** COPY FROM STDIN as a query object, as pg-copy-streams makes them. */
async function copyIn(client: pg.PoolClient, text: string, data: string): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      const query = {
        submit: (connection: { query(text: string): void }) => connection.query(text),
        handleCopyInResponse(connection: {
          sendCopyFromChunk(chunk: Buffer): void
          endCopyFrom(): void
        }) {
          connection.sendCopyFromChunk(Buffer.from(data))
          connection.endCopyFrom()
        },
        handleCommandComplete: () => undefined,
        handleReadyForQuery: () => resolve(),
        handleError: reject,
      }
      client.query(query as unknown as pg.Submittable)
    })
  } finally {
    client.release()
  }
}

describe('what a TenantPool gives, in other databases', () => {
  let pool: TenantPool
  /** One of each place that is not the pool's own database. */
  const elsewhere = (): string[] =>
    (['database', 'west-schema', 'west-database', 'login'] as const).map(
      (kind) => idsOf(kind)[0] as string,
    )
  beforeAll(() => {
    pool = openPool({ max: 1, databases: { maxConnections: 3, maxPerDatabase: 1 } })
  })
  afterAll(() => pool.end())

  it('is where the record says: the database, the server and the login', async () => {
    const [home] = (await world.home.query('select system_identifier from pg_control_system()'))
      .rows
    const places = await Promise.all(
      elsewhere().map((id) =>
        as(id, async () => {
          const { rows } = await pool.query(
            "select current_database() as database, session_user::text as login, current_user::text as role, current_setting('search_path') as path",
          )
          return rows[0]
        }),
      ),
    )
    const { login, salt } = world
    expect(home).toBeDefined()
    expect(places).toEqual([
      {
        database: `tenant-database-00-${salt}`,
        login,
        role: login,
        path: '"public", pg_temp',
      },
      {
        database: 'postgres',
        login,
        role: login,
        path: `"west-schema-00-${salt}", "public", pg_temp`,
      },
      {
        database: `tenant-west-database-00-${salt}`,
        login,
        role: login,
        path: '"public", pg_temp',
      },
      {
        database: world.home.name,
        login: `tenant-login-00-${salt}`,
        role: `tenant-login-00-${salt}`,
        path: `"login-00-${salt}", "public", pg_temp`,
      },
    ])
  })

  it('callbacks, query objects, cursors, streams, COPY, transactions and Kysely', async () => {
    const db = new Kysely<{ item: { id: number; owner: string } }>({
      dialect: new PostgresDialect({ pool }),
    })
    for (const id of elsewhere())
      await as(id, async () => {
        const all = itemsOf(id, countOf(id))
        const called = await new Promise((resolve, reject) => {
          pool.query('select id, owner from item order by id', (error: Error, result) => {
            if (error) reject(error)
            else resolve(world.tenancy.require().tenant.id === id ? result.rows : 'lost')
          })
        })
        expect(called).toEqual(all)
        expect(await db.selectFrom('item').selectAll().orderBy('id').execute()).toEqual(all)
        const client = await pool.connect()
        expect(client).toBeInstanceOf(pg.Client)
        const cursor = client.query(new Cursor('select id, owner from item order by id'))
        expect(await cursor.read(99)).toEqual(all)
        await cursor.close()
        const streamed: unknown[] = []
        await pipeline(
          client.query(new QueryStream('select id, owner from item order by id')),
          async (rows: AsyncIterable<unknown>) => {
            for await (const row of rows) streamed.push(row)
          },
        )
        expect(streamed).toEqual(all)
        await client.query('begin isolation level serializable')
        await client.query("insert into item values (99, 'mine')")
        await client.query('rollback')
        client.release()
        expect((await pool.query('select id, owner from item order by id')).rows).toEqual(all)
        // COPY FROM STDIN by itself, and its end; the rows land with this tenant.
        await copyIn(
          await pool.connect(),
          'copy log from stdin',
          `copied\t${canary(id, 'copied')}\n`,
        )
        expect(
          (await pool.query("delete from log where unit = 'copied' returning owner")).rows,
        ).toEqual([{ owner: canary(id, 'copied') }])
      })
  })

  it('destroys what may carry something to the next, counts it, and tells it', async () => {
    for (const id of elsewhere()) {
      const before = pool.destroyedCount
      await as(id, () => pool.query("set application_name = 'mine'"))
      expect(pool.destroyedCount).toBe(before + 1)
    }
    expect(world.destroyed.map(({ tenantId }) => tenantId)).toEqual(elsewhere())
    await as(elsewhere()[0] as string, async () => {
      const client = await pool.connect()
      client.release()
      await expect(client.query('select 1')).rejects.toMatchObject({
        code: 'ERR_TENANCY_USE_AFTER_RELEASE',
      })
    })
  })

  it('two databases of one name on two servers are two', async () => {
    for (let n = 0; n < 3; n++)
      for (const id of ['twin-home', 'twin-west']) {
        const { rows } = await as(id, () => pool.query('select id, owner from item'))
        expect(rows).toEqual(itemsOf(id, 1))
      }
  })

  it('two tenants of one database do not read each other, and a schema that vanished is told', async () => {
    const [first, second] = idsOf('west-schema') as [string, string]
    const before = await as(first, () => pool.query('select pg_backend_pid() as pid'))
    const after = await as(second, () =>
      pool.query('select pg_backend_pid() as pid, (select owner from item where id = 1) as owner'),
    )
    // The same connection.
    expect(after.rows).toEqual([{ pid: before.rows[0].pid, owner: canary(second, 1) }])
    await west.query(`alter schema "${second}" rename to away`)
    await expect(as(second, () => pool.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_MISSING',
      tenantId: second,
    })
    expect((await as(first, () => pool.query('select 1 as one'))).rows).toEqual([{ one: 1 }])
    await west.query(`alter schema away rename to "${second}"`)
  })

  it('runs onConnect and tells the events of pg.Pool about every connection', async () => {
    const told: string[] = []
    const hooked = openPool({
      max: 1,
      databases: { maxConnections: 1 },
      // oxlint-disable-next-line typescript/no-misused-promises -- pg awaits it, its types do not say so
      onConnect: async (client: pg.ClientBase) => {
        await client.query("set application_name = 'hooked'")
      },
    })
    for (const event of ['connect', 'acquire', 'release', 'remove', 'error'] as const)
      hooked.on(event as 'connect', () => told.push(event))
    const [a, b] = elsewhere() as [string, string]
    for (const id of [a, b])
      expect(
        (await as(id, () => hooked.query("select current_setting('application_name') as name")))
          .rows,
      ).toEqual([{ name: 'hooked' }])
    // The idle one of the first made room for the second, which is nobody's checkout.
    const round = ['connect', 'acquire', 'release']
    expect(told).toEqual([...round, 'remove', ...round])
    const { rows } = await as(b, () => hooked.query('select pg_backend_pid() as pid'))
    told.length = 0
    await west.query(`select pg_terminate_backend(${rows[0].pid})`)
    await eventually(() => told.includes('remove'))
    expect(told).toEqual(['error', 'remove'])
    expect((await as(b, () => hooked.query('select 1 as one'))).rows).toEqual([{ one: 1 }])
    await hooked.end()
  })

  it('unknown and suspended tenants, and those of a cluster that is not there, make no pool', async () => {
    const fresh = openPool()
    await expect(as('nobody', () => fresh.query('select 1'))).rejects.toSatisfy(TenancyError.is)
    const strange = openPool({ clusters: {} })
    const id = idsOf('west-schema')[0] as string
    await expect(as(id, () => strange.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_CLUSTER_UNKNOWN',
      tenantId: id,
    })
    await expect(as(id, () => strange.connect())).rejects.toMatchObject({
      code: 'ERR_TENANCY_CLUSTER_UNKNOWN',
    })
    expect(() => strange.centralOf('west')).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_CLUSTER_UNKNOWN' }),
    )
    // That tenant alone.
    const neighbour = idsOf('database')[0] as string
    expect((await as(neighbour, () => strange.query('select 1 as one'))).rows).toHaveLength(1)
    expect(fresh.databaseCounts).toEqual({ databases: 0, total: 0, idle: 0, waiting: 0 })
    await fresh.end()
    await strange.end()
  })

  it('end() closes every connection, and tells those who wait', async () => {
    const ending = openPool({
      max: 1,
      application_name: `ending-${world.salt}`,
      databases: { maxConnections: 1 },
    })
    const [a, b] = idsOf('database') as [string, string]
    const client = await as(a, () => ending.connect())
    const waiting = as(b, () => ending.query('select 1'))
    await eventually(() => ending.databaseCounts.waiting === 1)
    const ended = ending.end()
    // As with pg.Pool; and the first call is not forgotten over it.
    await expect(ending.end()).rejects.toThrow('more than once')
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_TENANCY_CLOSED' })
    expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }])
    client.release()
    await ended
    expect(ending.databaseCounts).toEqual({ databases: 0, total: 0, idle: 0, waiting: 0 })
    expect(await world.backends(`ending-${world.salt}`)).toBe(0)
    await expect(as(a, () => ending.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_CLOSED',
    })
  })

  it('waits no longer than checkoutTimeoutMs, and frees the turn of the tenant', async () => {
    const short = openPool({
      max: 2,
      maxPerTenant: 1,
      checkoutTimeoutMs: 500,
      databases: { maxConnections: 1 },
    })
    const [a, b] = idsOf('database') as [string, string]
    const client = await as(a, () => short.connect())
    await expect(as(b, () => short.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_POOL_EXHAUSTED',
      tenantId: b,
    })
    expect(short.databaseCounts.waiting).toBe(0)
    client.release()
    expect((await as(b, () => short.query('select 1 as one'))).rows).toEqual([{ one: 1 }])
    await short.end()
  })
})

describe('tools', () => {
  it('migrations, schemas and fingerprints work in every place', async () => {
    const pool = openPool({ central: { connectionString: world.home.url } })
    const set = {
      name: 'shop',
      migrations: [createMigration('1', 'create table orders (id int primary key, item_id int)')],
      requires: ['orders.item_id'],
    }
    const places = (['schema', 'database', 'west-schema', 'west-database', 'login'] as const).map(
      (kind) => idsOf(kind)[1] as string,
    )
    const prints = new Set<string>()
    for (const id of places) {
      const tenant = world.tenant(id)
      if (tenant.isolation === 'schema')
        await pool
          .centralOf(tenant)
          .query(`comment on schema "${schemaOf(tenant)}" is 'partywall tenant ${id}'`)
      expect(await createTenantSchema(pool.centralOf(tenant), tenant)).toBe(false)
      expect(await as(id, () => migrateTenant(world.tenancy, pool, set))).toEqual(['1'])
      expect(await as(id, () => migrateTenant(world.tenancy, pool, set))).toEqual([])
      if (tenant.isolation === 'schema' && !id.startsWith('login'))
        prints.add(await fingerprintSchema(pool.centralOf(tenant), schemaOf(tenant)))
    }
    // Grants by the login's name: both servers have it.
    expect(prints.size).toBe(1)
    await pool.end()
  })

  it('doctor compares the schemas of those tenants whose records name the place', async () => {
    const pool = openPool()
    const unmarked = async (place?: { cluster: string }): Promise<readonly string[]> => {
      const { tenancy } = world
      const { findings } = await doctor(pool.centralOf('west'), { tenancy, place })
      const found = findings.find(({ code }) => code === 'PARTYWALL_TENANT_SCHEMA_UNMARKED')
      return found?.evidence ?? []
    }
    // Made by hand, each of them but the one that the migrations above have marked.
    const evidence = (await unmarked({ cluster: 'west' })).join()
    for (const id of idsOf('west-schema').filter((_, n) => n !== 1)) expect(evidence).toContain(id)
    // Those of the pool's own database are not here, and nobody says so of these.
    expect(await unmarked()).toEqual([])
    await pool.end()
  })

  it('centralOf is audited inside a tenant, and is the home database without a place', async () => {
    const pool = openPool()
    const doors: (string | undefined)[] = []
    const off = world.tenancy.events.on('isolation:bypassed', ({ door, from }) => {
      doors.push(door, from?.tenant.id)
    })
    const id = idsOf('database')[0] as string
    expect(pool.centralOf(undefined)).toBe(pool.central)
    expect(pool.centralOf(world.tenant(idsOf('schema')[0] as string))).toBe(pool.central)
    expect(doors).toEqual([])
    await as(id, () => pool.centralOf('west'))
    expect(doors).toEqual(['pool.centralOf', id])
    const central = pool.centralOf('west')
    expect((await central.query('select current_database() as name')).rows).toEqual([
      { name: 'postgres' },
    ])
    off()
    await pool.end()
    expect(() => pool.centralOf('west')).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_CLOSED' }),
    )
  })
})
