import { setTimeout as sleep } from 'node:timers/promises'
import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { canary, createTestDatabase, eventually, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { TenantPool } from './tenant-pool.ts'

// The same calls on a bare pg.Pool and on a TenantPool: the same result, shape and error. What differs on purpose stands in docs/reference/postgres.md.

let db: TestDatabase
let tenancy: Tenancy

beforeAll(async () => {
  db = await createTestDatabase()
  for (const id of ['acme', 'globex'])
    await db.query(
      `create schema ${id};
       create table ${id}.item (id int primary key, owner text not null, price numeric, big bigint, doc jsonb, day date, at timestamptz, bytes bytea, list int[], ok bool);
       insert into ${id}.item values (1, '${canary(id, 1)}', 1.50, 9007199254740993, '{"a":[1]}', '2026-01-02', '2026-01-02T03:04:05Z', '\\x00ff', '{1,null,3}', true), (2, '${canary(id, 2)}', null, null, null, null, null, null, null, null);
       create table ${id}.log (id int generated always as identity primary key, item int references ${id}.item, note varchar(5) check (note <> 'bad'));
       create function ${id}.tell() returns int language plpgsql as 'begin raise notice ''told''; return 1; end'`,
    )
  tenancy = createTenancy({ store: memoryTenantStore(['acme', 'globex'].map((id) => ({ id }))) })
})
afterAll(async () => {
  await tenancy.close()
  await db[Symbol.asyncDispose]()
})

type AnyPool = pg.Pool
type Query = (...args: unknown[]) => Promise<unknown>
const q = (target: unknown): Query => (target as { query: Query }).query.bind(target)

/** Members of an error that a caller may rely on. Which file and line of the server raised it is no such thing. */
const errorOf = (error: unknown): unknown => {
  const {
    name,
    message,
    code,
    severity,
    detail,
    hint,
    position,
    schema,
    table,
    column,
    constraint,
    dataType,
    where,
  } = error as pg.DatabaseError
  return {
    thrown: true,
    kind: (error as object).constructor.name,
    name,
    // A statement that comes again has a name here.
    message: message.replace(/"__partywall_\d+"/, '""'),
    code,
    severity,
    detail,
    hint,
    position,
    schema,
    table,
    column,
    constraint,
    dataType,
    where,
  }
}

const resultOf = (result: unknown): unknown =>
  Array.isArray(result)
    ? result.map(resultOf)
    : result instanceof pg.Result
      ? {
          keys: Object.keys(result).toSorted(),
          command: result.command,
          rowCount: result.rowCount,
          oid: result.oid,
          rows: result.rows,
          fields: result.fields.map((field) => ({ ...field })),
          rowAsArray: (result as { rowAsArray?: unknown }).rowAsArray,
        }
      : result

type Call = (pool: AnyPool) => unknown

async function answerOf(pool: AnyPool, call: Call): Promise<unknown> {
  try {
    return resultOf(await call(pool))
  } catch (error) {
    return errorOf(error)
  }
}

const onClient =
  (fn: (client: pg.PoolClient) => unknown): Call =>
  async (pool) => {
    const client = await pool.connect()
    try {
      return await fn(client)
    } finally {
      client.release()
    }
  }

const byCallback = (pool: AnyPool, ...args: unknown[]): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const returned = q(pool)(...args, (error: Error | null | undefined, result: unknown) => {
      if (error) reject(error)
      else resolve(result)
    })
    expect(returned).toBeUndefined()
  })

const ALL = 'select * from item order by id'
const ONE = 'select id, owner from item where id = $1'
const parsers = {
  getTypeParser: (oid: number, format?: string) => (value: unknown) =>
    `${oid}/${format}:${String(value)}`,
}

const CALLS: Record<string, Call> = {
  text: (pool) => pool.query(ALL),
  'text and values': (pool) => pool.query(ONE, [1]),
  'no values': (pool) => pool.query('select 1 as one', []),
  'undefined values': (pool) => pool.query(ALL, undefined),
  'a config': (pool) => pool.query({ text: ONE, values: [2] }),
  'a config and values beside it': (pool) => pool.query({ text: ONE }, [2]),
  'a callback': (pool) => byCallback(pool, ALL),
  'values and a callback': (pool) => byCallback(pool, ONE, [1]),
  'a config and a callback': (pool) => byCallback(pool, { text: ONE, values: [1] }),
  'a config, values and a callback': (pool) => byCallback(pool, { text: ONE }, [1]),
  'undefined values and a callback': (pool) => byCallback(pool, ALL, undefined),
  'an error and a callback': (pool) => byCallback(pool, 'select nothing'),
  'array rows': (pool) => pool.query({ text: ALL, rowMode: 'array' }),
  'types in the config': (pool) => pool.query({ text: ALL, types: parsers } as pg.QueryConfig),
  'types in the config, with values': (pool) =>
    pool.query({ text: ONE, values: [1], types: parsers } as pg.QueryConfig),
  binary: (pool) =>
    q(pool)({
      text: 'select 1::int as n, true as ok, $1::int as given',
      values: [7],
      binary: true,
    }),
  pages: (pool) => q(pool)({ text: ALL, rows: 1 }),
  'a named statement': (pool) => pool.query({ name: 'mine', text: ONE, values: [1] }),
  'a named statement with another text': onClient(async (client) => {
    await client.query({ name: 'twice', text: 'select 1' })
    return client.query({ name: 'twice', text: 'select 2' })
  }),
  'several statements': (pool) =>
    pool.query('select 1 as a; select 2 as b, 3 as c; delete from item where id = 99'),
  'several statements, array rows': (pool) =>
    pool.query({ text: 'select 1 as a; select 2 as b', rowMode: 'array' }),
  'several statements and values': (pool) => pool.query('select 1; select $1::int', [1]),
  nothing: (pool) => pool.query(''),
  'a comment': (pool) => pool.query('-- nothing'),
  semicolons: (pool) => pool.query(';;'),
  'extended and nothing': (pool) => q(pool)({ text: '', queryMode: 'extended' }),
  'no rows': (pool) => pool.query('select * from item where false'),
  'no columns': (pool) => pool.query('select from item'),
  'the same column twice': (pool) => pool.query('select 1 as a, 2 as a'),
  'the same column twice, array rows': (pool) =>
    pool.query({ text: 'select 1 as a, 2 as a', rowMode: 'array' }),
  insert: (pool) => pool.query("insert into log (item, note) values (1, 'a')"),
  'insert returning': (pool) =>
    pool.query('insert into log (item, note) values (1, $1) returning note', ['b']),
  update: (pool) => pool.query('update item set ok = ok'),
  delete: (pool) => pool.query('delete from log where id < 0'),
  ddl: onClient(async (client) => [
    resultOf(await client.query('create table made (id int)')),
    resultOf(await client.query('drop table made')),
  ]),
  'values of all kinds': (pool) =>
    pool.query(
      'select $1::int as a, $2::text as b, $3::bool as c, $4::jsonb as d, $5::int[] as e, $6::bytea as f, $7::timestamptz as g, $8::text as h, $9::bigint as i, $10::text[] as j',
      [
        1,
        'ü\n"\\',
        false,
        { a: "'" },
        [1, null],
        Buffer.from([0, 255]),
        new Date(0),
        undefined,
        9007199254740993n,
        ['{}', '"', null, 'a,b'],
      ],
    ),
  toPostgres: (pool) =>
    pool.query('select $1::text as a', [
      { toPostgres: (prepare: (value: unknown) => unknown) => prepare(['x', 1]) },
    ]),
  'toPostgres that throws': (pool) =>
    pool.query('select $1::text as a', [
      {
        toPostgres: () => {
          throw new RangeError('mine')
        },
      },
    ]),
  'a circle': (pool) => {
    const circle: Record<string, unknown> = {}
    circle['self'] = circle
    return pool.query('select $1::jsonb', [circle])
  },
  'NUL in a value': (pool) => pool.query('select $1::text', ['a\0b']),
  'NUL in bytes': (pool) => pool.query('select $1::bytea as a', [Buffer.from('a\0b')]),
  'too few values': (pool) => pool.query('select $1::int, $2::int', [1]),
  'too many values': (pool) => pool.query('select $1::int', [1, 2]),
  'values that are no list': (pool) => q(pool)('select $1::int', 5),
  'a value of the wrong type': (pool) => pool.query(ONE, ['x']),
  'a parameter without a type': (pool) => pool.query('select $1 is null', [1]),
  'no text': (pool) => q(pool)({}),
  'no query': (pool) => q(pool)(undefined),
  'a function': (pool) => q(pool)(() => undefined),
  'a syntax error': (pool) => pool.query('select * form item'),
  'a syntax error with values': (pool) => pool.query('select $1::int form item', [1]),
  'a syntax error behind other characters': (pool) => pool.query("select 'ü😀', nothing from item"),
  'an unknown table': (pool) => pool.query('select * from nowhere'),
  'an unknown column, with a hint': (pool) => pool.query('select owners from item'),
  'a unique key': (pool) => pool.query("insert into item (id, owner) values (1, 'x')"),
  'a foreign key': (pool) => pool.query('insert into log (item) values (99)'),
  'a check': (pool) =>
    pool.query("insert into log (id, note) overriding system value values (-1, 'bad')"),
  'not null': (pool) => pool.query('insert into item (id) values (5)'),
  'too long': (pool) => pool.query("insert into log (note) values ('too long')"),
  'division by zero, after rows': (pool) => pool.query('select 1 / (2 - id) from item order by id'),
  'an error in a function': (pool) =>
    pool.query(
      "do $$ begin raise 'mine' using hint = 'h', detail = 'd', errcode = 'P1234'; end $$",
    ),
  'an error in several statements': (pool) => pool.query('select 1; select nothing; select 2'),
  'a huge result': (pool) =>
    pool.query("select n, repeat('x', 100) as pad from generate_series(1, 20000) n"),
  'a huge value': async (pool) =>
    (await pool.query<{ a: string }>('select $1::text as a', ['x'.repeat(3_000_000)])).rows[0]?.a
      .length,
  'a huge text': async (pool) =>
    (
      await pool.query(
        `select ${Array.from({ length: 1600 }, (_, n) => `${n} as c${n}`).join(', ')}`,
      )
    ).fields.length,
  'many statements': async (pool) =>
    (
      await Promise.all(
        Array.from({ length: 200 }, (_, n) =>
          pool.query<{ n: number }>('select $1::int as n', [n]),
        ),
      )
    ).map(({ rows }) => rows[0]?.n),
  'many texts': async (pool) =>
    (
      await Promise.all(
        Array.from({ length: 200 }, (_, n) => pool.query<{ n: number }>(`select ${n} as n`)),
      )
    ).map(({ rows }) => rows[0]?.n),
  'a cursor': onClient(async (client) => {
    const cursor = client.query(new Cursor('select id from item where id > $1 order by id', [0]))
    const read = [await cursor.read(1), await cursor.read(5), await cursor.read(5)]
    await cursor.close()
    return read
  }),
  'a cursor with an error': onClient((client) =>
    client.query(new Cursor('select 1 / (2 - id) from item order by id', [])).read(9),
  ),
  'a query object': onClient(
    (client) =>
      new Promise((resolve, reject) => {
        const rows: unknown[] = []
        const query = new pg.Query(ALL) as unknown as import('node:events').EventEmitter
        query.on('row', (row) => rows.push(row))
        query.on('end', (result) => resolve([rows, resultOf(result)]))
        query.on('error', reject)
        client.query(query as never)
      }),
  ),
  'a transaction': onClient(async (client) => {
    const steps: unknown[] = []
    for (const text of [
      'begin',
      'select 1 as a',
      'savepoint s',
      'select nothing',
      'select 1',
      'rollback to s',
      'select 2 as b',
      'commit',
    ])
      steps.push(await client.query(text).then(resultOf, errorOf))
    return steps
  }),
  'transaction status': onClient(async (client) => {
    const states: unknown[] = []
    for (const text of ['select 1', 'begin', 'select 1', 'select nothing', 'rollback']) {
      await client.query(text).catch(() => undefined)
      // The error comes ahead of the status.
      await sleep(10)
      states.push(client.getTransactionStatus())
    }
    return states
  }),
  notices: onClient(async (client) => {
    const notices: unknown[] = []
    client.on('notice', ({ message, severity }) => notices.push([message, severity]))
    await client.query('select tell()')
    await client.query('drop table if exists nowhere')
    return notices
  }),
  drain: onClient(async (client) => {
    let drained = 0
    client.on('drain', () => drained++)
    await client.query('select 1')
    await client.query('select 1')
    return drained > 0
  }),
  'a type parser of the client': onClient(async (client) => {
    client.setTypeParser(pg.types.builtins.INT4, (value) => `int ${value}`)
    return client.query('select 1 as a')
  }),
  'query_timeout in the config': async (pool) => {
    try {
      return await q(pool)({ text: 'select pg_sleep(5)', query_timeout: 50 })
    } catch (error) {
      return (error as Error).message
    }
  },
  'a client released twice': async (pool) => {
    const client = await pool.connect()
    client.release()
    try {
      client.release()
      return 'nothing'
    } catch (error) {
      return error instanceof Error
    }
  },
  'a connection that is ended by the server': async (pool) => {
    const client = await pool.connect()
    const errors: unknown[] = []
    client.on('error', (error) => errors.push(error instanceof Error))
    const { rows } = await client.query<{ pid: number }>({
      text: 'select pg_backend_pid() as pid',
      types: pg.types,
    } as pg.QueryConfig)
    const sleeping = client
      .query('select pg_sleep(9)')
      .then(resultOf, (error: { code?: string }) => error.code)
    await sleep(30)
    await db.query('select pg_terminate_backend($1)', [rows[0]?.pid])
    const code = await sleeping
    await eventually(() => expect(errors.length).toBeGreaterThan(0))
    client.release(true)
    return [code, errors[0], (await pool.query('select 1 as a')).rows]
  },
}

const POOLS: Record<string, pg.PoolConfig> = {
  default: {},
  'one connection': { max: 1 },
  binary: { binary: true } as pg.PoolConfig,
  types: { types: parsers },
}

/** pg's own parser of binary arrays takes ten seconds over a null in one. */
const BINARY = [
  'text and values',
  'a config',
  'several statements',
  'nothing',
  'binary',
  'a cursor',
  'a syntax error with values',
  'a transaction',
  'a unique key',
]

describe.each(Object.entries(POOLS))('pool: %s', (poolName, options) => {
  test.each(
    Object.entries(CALLS).filter(([name]) => poolName !== 'binary' || BINARY.includes(name)),
  )('%s', async (name, call) => {
    // More at a time than there are connections for would wait for themselves.
    const bare = new pg.Pool({
      ...options,
      connectionString: db.url,
      options: '-c search_path=acme,public,pg_temp',
    })
    bare.on('error', () => undefined)
    const ours = new TenantPool(tenancy, { ...options, connectionString: db.url })
    try {
      for (let round = 0; round < 3; round++) {
        const expected = await answerOf(bare, call)
        const actual = await tenancy.run('acme', () => answerOf(ours, call))
        expect(actual, `${poolName}, ${name}, round ${round}`).toEqual(expected)
      }
    } finally {
      await Promise.all([bare.end(), ours.end()])
    }
  })
})

/** The same things done to a pool of each kind; `as` is where its work runs. */
const expectSame = async (
  fn: (open: (options?: pg.PoolConfig) => pg.Pool) => Promise<unknown>,
): Promise<void> => {
  const results: unknown[] = []
  for (const kind of ['bare', 'ours'] as const) {
    const opened: pg.Pool[] = []
    results.push(
      await tenancy.run('acme', () =>
        fn((options = {}) => {
          const pool =
            kind === 'bare'
              ? new pg.Pool({
                  connectionString: db.url,
                  options: '-c search_path=acme,public,pg_temp',
                  ...options,
                })
              : new TenantPool(tenancy, {
                  connectionString: db.url,
                  maxPerTenant: options.max ?? 10,
                  ...options,
                })
          opened.push(pool)
          return pool
        }),
      ),
    )
    await Promise.all(opened.filter((pool) => !pool.ending).map((pool) => pool.end()))
  }
  expect(results[1]).toEqual(results[0])
}

describe('the life of a pool', () => {
  test('events, in their order, and their clients', () =>
    expectSame(async (open) => {
      const pool = open({ max: 1 })
      const told: unknown[] = []
      for (const event of ['connect', 'acquire', 'release', 'remove'] as const)
        pool.on(event as 'connect', (...args: unknown[]) =>
          told.push([
            event,
            args.map((argument) => argument instanceof pg.Client || (argument ?? undefined)),
          ]),
        )
      await pool.query('select 1')
      await pool.query('select 1', [])
      const client = await pool.connect()
      client.release(true)
      await pool.query('select 1')
      await pool.end()
      const removed = (): number =>
        told.filter((entry) => (entry as unknown[])[0] === 'remove').length
      // Told when the socket is closed, whenever that is.
      await eventually(() => expect(removed()).toBe(2))
      return told.filter((entry) => (entry as unknown[])[0] !== 'remove')
    }))

  test('counts; maxUses, maxLifetimeSeconds and idleTimeoutMillis', () =>
    expectSame(async (open) => {
      const pidOf = async (pool: pg.Pool): Promise<unknown> =>
        (await pool.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]?.pid
      // Who waits for its tenant's turn is not counted as waiting for the pool.
      const counts = (pool: pg.Pool): number[] => [
        pool.totalCount,
        pool.idleCount,
        pool.expiredCount,
      ]
      const used = open({ max: 1, maxUses: 2 })
      const pids = [await pidOf(used), await pidOf(used), await pidOf(used)]
      const old = open({ max: 1, maxLifetimeSeconds: 1 })
      const young = await pidOf(old)
      await eventually(async () => expect(await pidOf(old)).not.toBe(young))
      const idle = open({ max: 2, idleTimeoutMillis: 20 })
      await idle.query('select 1')
      await eventually(() => expect(idle.totalCount).toBe(0))
      const kept = open({ max: 2, min: 1, idleTimeoutMillis: 20 })
      await Promise.all([kept.query('select 1'), kept.query('select 1')])
      await eventually(() => expect(kept.totalCount).toBe(1))
      await sleep(60)
      const busy = open({ max: 1 })
      const client = await busy.connect()
      const waiting = busy.query('select 1')
      const during = counts(busy)
      client.release()
      await waiting
      return [pids[0] === pids[1], pids[1] === pids[2], counts(kept), during, counts(busy)]
    }))

  test('time limits of the pool: query_timeout, statement_timeout, connectionTimeoutMillis', () =>
    expectSame(async (open) => {
      const say = (error: unknown): unknown => [
        (error as Error).message,
        (error as { code?: string }).code,
      ]
      const query = await open({ query_timeout: 50 }).query('select pg_sleep(5)').catch(say)
      const statement = await open({ statement_timeout: 50 }).query('select pg_sleep(5)').catch(say)
      const pool = open({ max: 1, connectionTimeoutMillis: 1000 })
      const client = await pool.connect()
      // Told by a code of its own.
      const connect = await pool.query('select 1').catch(() => 'given up')
      client.release()
      return [query, statement, connect, (await pool.query('select 1 as a')).rows]
    }))

  test('onConnect and verify', () =>
    expectSame(async (open) => {
      const steps: unknown[] = []
      const pool = open({
        max: 1,
        // oxlint-disable-next-line typescript/no-misused-promises -- pg awaits it, its types do not say so
        onConnect: async (client: pg.ClientBase) => {
          await client.query("set application_name = 'mine'")
          steps.push('onConnect')
        },
        verify: (_client: unknown, callback: (error?: Error) => void) => {
          steps.push('verify')
          callback()
        },
      })
      steps.push((await pool.query("select current_setting('application_name') as a")).rows)
      const bad = open({
        verify: (_client: unknown, callback: (error?: Error) => void) =>
          callback(new Error('not verified')),
      })
      steps.push(await bad.query('select 1').catch((error: Error) => error.message))
      const worse = open({
        // oxlint-disable-next-line typescript/no-misused-promises -- pg awaits it, its types do not say so
        onConnect: () => Promise.reject(new Error('not set up')),
      })
      steps.push(
        await worse.query('select 1').catch((error: Error) => error.message),
        worse.totalCount,
      )
      return steps
    }))

  test('a server that is not there', () =>
    expectSame(async (open) => {
      const pool = open({ connectionString: 'postgres://127.0.0.1:1/x' })
      return [
        await pool.query('select 1').catch((error: { code?: string }) => error.code),
        await pool.connect().catch((error: { code?: string }) => error.code),
        pool.totalCount,
      ]
    }))

  test('an idle connection that breaks is told by the event error, and replaced', () =>
    expectSame(async (open) => {
      const pool = open({ max: 1 })
      const errors: unknown[] = []
      pool.on('error', (error, client) =>
        errors.push([(error as { code?: string }).code, client instanceof pg.Client]),
      )
      const { rows } = await pool.query<{ pid: number }>('select pg_backend_pid() as pid')
      await db.query('select pg_terminate_backend($1)', [rows[0]?.pid])
      await eventually(() => expect(errors).toHaveLength(1))
      return [errors, (await pool.query('select 1 as a')).rows]
    }))
})

test('the stack of an error leads to its caller', async () => {
  const pool = new TenantPool(tenancy, { connectionString: db.url })
  const theCaller = async (): Promise<unknown> => await pool.query('select nothing')
  const theTransaction = async (): Promise<unknown> =>
    await pool.transaction(async (query) => await query('select nothing'))
  await tenancy.run('acme', async () => {
    for (const fn of [theCaller, theTransaction])
      expect(await fn().catch((error: Error) => error.stack)).toContain(fn.name)
  })
  await pool.end()
})

test('what is different on purpose: the errors of a pool that has ended', async () => {
  const pool = new TenantPool(tenancy, { connectionString: db.url })
  const [first, second] = [pool.end(), pool.end()]
  await first
  await expect(second).rejects.toThrow('Called end on pool more than once')
  await tenancy.run('acme', () =>
    expect(pool.query('select 1')).rejects.toMatchObject({ code: 'ERR_TENANCY_CLOSED' }),
  )
})
