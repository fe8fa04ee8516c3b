import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { TenantClient, TenantPool } from './index.ts'

/** What a pg.Pool promises, kept by a TenantPool. What it adds to keep tenants apart is proved in test/isolation. */
const TENANTS = ['acme', 'globex'] as const
let tenancy: Tenancy
let db: TestDatabase
let pool: TenantPool

beforeAll(async () => {
  db = await createTestDatabase()
  tenancy = createTenancy({
    store: memoryTenantStore([
      ...TENANTS.map((id) => ({ id })),
      { id: 'rows', isolation: 'row' },
      { id: 'far', isolation: 'database' },
      { id: 'other', placement: { database: 'elsewhere' } },
    ]),
  })
  for (const [index, id] of TENANTS.entries())
    await db.query(`create schema ${id}; create table ${id}.item (id int primary key, owner text);
      insert into ${id}.item select n, 'canary:${id}:' || n from generate_series(1, ${3 + index}) n`)
})
afterAll(() => db[Symbol.asyncDispose]())
beforeEach(() => {
  pool = new TenantPool(tenancy, { connectionString: db.url, max: 1 })
  return () => pool.end()
})

const inEach = async (
  fn: (id: string, one: string, count: number) => Promise<void>,
): Promise<void> => {
  // Twice over one connection, so that each tenant follows the other.
  for (let round = 0; round < 2; round++)
    for (const [index, id] of TENANTS.entries())
      await tenancy.run(id, () => fn(id, `canary:${id}:1`, 3 + index))
}
/** As wrappers call it, which pass on arguments that they were not given. */
type AnyQuery = (...args: unknown[]) => Promise<pg.QueryResult>
const ONE = 'select owner from item where id = $1'

describe('query', () => {
  it('takes every form of arguments that pg.Pool takes', async () => {
    await inEach(async (_id, owner) => {
      const rows = [{ owner }]
      const config = Object.freeze({ text: ONE, values: [1] })
      expect((await pool.query(ONE, [1])).rows).toEqual(rows)
      expect((await (pool.query as AnyQuery)(ONE, [1], undefined)).rows).toEqual(rows)
      expect(
        (
          await (pool.query as AnyQuery)(
            'select owner from item where id = 1',
            undefined,
            undefined,
          )
        ).rows,
      ).toEqual(rows)
      expect((await pool.query(config)).rows).toEqual(rows)
      expect((await pool.query({ text: ONE }, [1])).rows).toEqual(rows)
      expect((await pool.query({ ...config, rowMode: 'array' })).rows).toEqual([[owner]])
      expect((await pool.query({ ...config, name: 'one' })).rows).toEqual(rows)
      const viaCallback = (
        send: (callback: (error: Error | null, result: pg.QueryResult) => void) => unknown,
      ): Promise<unknown[]> =>
        new Promise((resolve, reject) => {
          send((error, result) => (error ? reject(error) : resolve(result.rows)))
        })
      expect(await viaCallback((cb) => pool.query(ONE, [1], cb as never))).toEqual(rows)
      expect(
        await viaCallback((cb) => pool.query('select owner from item where id = 1', cb as never)),
      ).toEqual(rows)
      expect(await viaCallback((cb) => pool.query(config, cb as never))).toEqual(rows)
      expect(pool.idleCount).toBe(1)
    })
  })

  it('answers as pg does: several results, field names, counts, no rows, errors with position', async () => {
    const plain = new pg.Pool({ connectionString: db.url, max: 1, options: '-c search_path=acme' })
    try {
      const texts = [
        'select owner, id as number from item where id < 3 order by id',
        'select 1 as a; select owner from item where id = 1',
        'update item set owner = owner',
        'select from item',
        '',
        ';',
        '-- nothing',
        'create table if not exists item (id int)',
        'show transaction_isolation',
        'explain (costs off) select owner from item where id = 1',
        'insert into item values (1, null)',
        'select nope from item',
        'selec 1',
        "select 'é', nope",
        "select 'open",
        'select 1/0',
      ]
      const shape = (result: unknown): unknown =>
        [result].flat().map((entry) => {
          const { command, rowCount, rows, fields } = entry as pg.QueryResult
          return {
            command,
            rowCount,
            rows,
            fields: fields.map(({ name, dataTypeID }) => [name, dataTypeID]),
          }
        })
      const answer = (queryable: pg.Pool, text: string): Promise<unknown> =>
        queryable.query(text).then(shape, ({ code, message, position, routine }) => ({
          code,
          message,
          position,
          routine,
        }))
      for (const text of texts)
        expect({ text, answer: await tenancy.run('acme', () => answer(pool, text)) }).toEqual({
          text,
          answer: await answer(plain, text),
        })
    } finally {
      await plain.end()
    }
  })

  it('gives the connection back after an error, and refuses what pg refuses', async () => {
    await inEach(async () => {
      await expect(pool.query('select nope')).rejects.toMatchObject({ code: '42703' })
      await expect(pool.query({ text: 'select nope', rows: 1 } as never)).rejects.toMatchObject({
        code: '42703',
      })
      await expect(pool.query(null as never)).rejects.toThrow('null or undefined query')
      await expect(pool.query('select $1', 'no list' as never)).rejects.toThrow('must be an array')
      const refused = await new Promise((resolve) => {
        pool.query(resolve as never)
      })
      expect(refused).toMatchObject({
        message: expect.stringContaining('function as the first parameter'),
      })
    })
    expect(pool.idleCount).toBe(pool.totalCount)
  })
})

describe('connect', () => {
  it('lends clients that are pg.Clients, by promise and by callback', async () => {
    await inEach(async (_id, owner) => {
      const client = await pool.connect()
      expect(client).toBeInstanceOf(pg.Client)
      expect((await client.query(ONE, [1])).rows).toEqual([{ owner }])
      client.release()
      const rows = await new Promise((resolve, reject) => {
        pool.connect((error, lent, done) => {
          if (error || lent === undefined) return reject(error ?? new Error('no client'))
          lent.query(ONE, [1], (queryError: Error | null, result: pg.QueryResult) => {
            done()
            if (queryError) reject(queryError)
            else resolve(result.rows)
          })
        })
      })
      expect(rows).toEqual([{ owner }])
    })
    expect([pool.totalCount, pool.idleCount, pool.waitingCount]).toEqual([1, 1, 0])
  })

  it('takes a new client back that is released inside of the callback', async () => {
    await inEach(async (_id, owner) => {
      await new Promise<void>((resolve, reject) => {
        pool.connect((error, _client, release) => {
          release()
          if (error) reject(error)
          else resolve()
        })
      })
      expect((await pool.query(ONE, [1])).rows).toEqual([{ owner }])
    })
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 1])
  })

  it('reads cursors, whole, in part, failing and abandoned', async () => {
    await inEach(async (_id, owner, count) => {
      const client = await pool.connect()
      const ordered = 'select id, owner from item where id > $1 order by id'
      const cursor = client.query(new Cursor(ordered, [0]))
      expect(await cursor.read(2)).toHaveLength(2)
      expect(await cursor.read(10)).toHaveLength(count - 2)
      expect(await cursor.read(10)).toEqual([])
      const partial = client.query(new Cursor(ordered, [0]))
      expect(await partial.read(1)).toEqual([{ id: 1, owner }])
      await partial.close()
      await expect(client.query(new Cursor('select nope from item')).read(1)).rejects.toMatchObject(
        { code: '42703' },
      )
      expect((await client.query(ONE, [1])).rows).toEqual([{ owner }])
      client.release()
    })
    expect(pool.destroyedCount).toBe(0)
  })

  it('runs onConnect before anybody is served, and verify-like work in it may talk', async () => {
    let connections = 0
    const setUp = async (client: pg.ClientBase): Promise<void> => {
      connections++
      await client.query("set application_name = 'hooked'")
    }
    const hooked = new TenantPool(tenancy, {
      connectionString: db.url,
      max: 1,
      // oxlint-disable-next-line typescript/no-misused-promises -- pg awaits it, its types do not say so
      onConnect: setUp,
    })
    await inEach(async () => {
      expect(
        (await hooked.query("select current_setting('application_name') as name")).rows,
      ).toEqual([{ name: 'hooked' }])
    })
    expect(connections).toBe(1)
    await hooked.end()
  })

  it('gives back a new connection that its callback releases at once', async () => {
    const fresh = new TenantPool(tenancy, { connectionString: db.url, max: 1 })
    await tenancy.run('acme', async () => {
      await new Promise<void>((resolve, reject) => {
        fresh.connect((error, _client, done) => {
          done()
          if (error) reject(error)
          else resolve()
        })
      })
      expect((await fresh.query('select owner from item where id = 1')).rowCount).toBe(1)
    })
    await fresh.end()
  })

  it('does not serve a tenant from its own database whose record names another one', async () => {
    for (const id of ['far', 'other'])
      await expect(tenancy.run(id, () => pool.query('select 1'))).rejects.toMatchObject({
        code: 'ERR_TENANCY_DATABASE_UNAVAILABLE',
        tenantId: id,
        cause: { code: '3D000' },
      })
    expect(pool.totalCount).toBe(0)
  })
})

describe('transaction', () => {
  it('commits what fn returned from, and rolls back what threw', async () => {
    await inEach(async (id) => {
      await pool.transaction(async (query) => {
        await query('insert into item values (100, $1)', [`canary:${id}:100`])
      })
      await expect(
        pool.transaction(async (query) => {
          await query('delete from item where id = 100')
          throw new Error('mine')
        }),
      ).rejects.toThrow('mine')
      expect((await pool.query('delete from item where id = 100 returning owner')).rows).toEqual([
        { owner: `canary:${id}:100` },
      ])
    })
  })

  it('says so when a failed statement was ignored', async () => {
    await inEach(async () => {
      await expect(
        pool.transaction(async (query) => {
          await query('insert into item values (101, null)')
          await query('select nope').catch(() => undefined)
        }),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_TRANSACTION_ABORTED' })
      expect((await pool.query('select from item where id = 101')).rowCount).toBe(0)
    })
    expect(pool.destroyedCount).toBe(0)
  })
})

describe('options and the end', () => {
  it.each([
    [{ Client: pg.Client }, 'its own Client'],
    [{ sharedSchemas: 'public' }, 'list of schema names'],
    [{ sharedSchemas: ['pg_catalog'] }, 'pg_catalog'],
    [{ sharedSchemas: ['a"b'] }, 'no schema name'],
    [{ sharedSchemas: ['x'.repeat(64)] }, 'no schema name'],
    [{ pipeline: true }, 'pipeline'],
    [{ options: '-c search_path=acme' }, 'search_path'],
    [{ max: 1, central: { maxx: 1, max: 1, host: 'h', databse: 'x' } }, ''],
  ])('refuses %j', (options, message) => {
    if (message === '') return expect(() => new TenantPool(tenancy, options as never)).not.toThrow()
    expect(() => new TenantPool(tenancy, options as never)).toThrow(
      expect.objectContaining({
        code: 'ERR_TENANCY_OPTION_INVALID',
        message: expect.stringContaining(message),
      }),
    )
  })

  it('ends its connections and those of central, once', async () => {
    const short = new TenantPool(tenancy, { connectionString: db.url, max: 2 })
    await tenancy.run('acme', () => short.query('select 1'))
    await short.central.query('select 1')
    await new Promise<void>((resolve) => {
      short.end(resolve)
    })
    expect([short.totalCount, short.central.totalCount]).toEqual([0, 0])
    await expect(tenancy.run('acme', () => short.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_CLOSED',
    })
  })

  it('survives a connection of central that breaks while it is checked out', async () => {
    const client = await pool.central.connect()
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
    const broken = new Promise<void>((resolve) => {
      client.once('end', resolve)
    })
    await db.query('select pg_terminate_backend($1)', [rows[0]?.pid])
    await broken
    await expect(client.query('select 1')).rejects.toThrow('not queryable')
    client.release(true)
    expect((await pool.central.query('select 1 as one')).rows).toEqual([{ one: 1 }])
  })

  it('tells those who wait for a connection that it has ended', async () => {
    const short = new TenantPool(tenancy, { connectionString: db.url, max: 1 })
    const client = await tenancy.run('acme', () => short.connect())
    const waiting = Promise.allSettled([
      tenancy.run('globex', () => short.query('select 1')),
      tenancy.run('acme', () => short.connect()),
      new Promise((resolve, reject) => {
        void tenancy.run('globex', () =>
          short.query('select 1', (error) => (error ? reject(error) : resolve(undefined))),
        )
      }),
    ])
    // Their look-up of the tenant is asynchronous.
    await new Promise((resolve) => setTimeout(resolve, 20))
    const ended = short.end()
    for (const outcome of await waiting)
      expect(outcome).toMatchObject({ reason: { code: 'ERR_TENANCY_CLOSED' } })
    client.release()
    await ended
    expect(short.totalCount).toBe(0)
  })

  it('a TenantClient by itself does not talk', async () => {
    const client = new TenantClient(db.url)
    await client.connect()
    await expect(client.query('select 1')).rejects.toMatchObject({
      code: 'ERR_TENANCY_USE_AFTER_RELEASE',
    })
    await client.end()
  })
})
