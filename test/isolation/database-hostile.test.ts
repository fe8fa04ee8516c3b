import type { TenantPool } from '@partywall/postgres'
import { CopyIn, canary, eventually } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  backendOf,
  COUNTS,
  createTenantDatabase,
  itemsOf,
  type TenantDatabase,
} from './database-fixture.ts'

/** SQL that tries to leave something behind, or to get out of its scope. Each on a pool of one connection: what it leaves, the next tenant finds. */
let world: TenantDatabase
const as = <T>(tenantId: string, fn: () => Promise<T> | T): Promise<T> =>
  world.tenancy.context.outside(() => world.tenancy.run(tenantId, async () => fn()))
const quietly = (promise: Promise<unknown>): Promise<void> =>
  promise.then(
    () => undefined,
    () => undefined,
  )
const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'fulfilled',
    (error: unknown) => (error as { code?: string }).code,
  )

beforeAll(async () => {
  world = await createTenantDatabase()
  for (const id of Object.keys(COUNTS))
    await world.db.query(`set local search_path to ${id};
      create function ${id}.make_temp() returns bigint language plpgsql as $$ begin
        create temp table if not exists scratch (owner text); insert into scratch values ('canary:${id}:scratch');
        return (select count(*) from scratch); end $$;
      create function ${id}.set_path() returns void language plpgsql as $$ begin perform set_config('search_path', '${id}', false); end $$;
      create function ${id}.planned() returns text language plpgsql as $$ begin return (select owner from item where id = 1); end $$;
      create function ${id}.planned_sql() returns text language sql as 'select owner from item where id = 1';`)
})
afterAll(() => world[Symbol.asyncDispose]())
beforeEach(async () => {
  await world.db.query('truncate probe.effect, acme.log, globex.log, zeta.log')
  world.destroyed.length = 0
})

/** What globex must find on whatever connection it gets: its own rows, in every way to ask, and a session in which nobody was before. */
async function expectNothingLeft(pool: TenantPool): Promise<void> {
  await as('globex', async () => {
    const own = itemsOf('globex', COUNTS.globex)
    expect((await pool.query('select id, owner from item order by id')).rows).toEqual(own)
    expect(
      (await pool.query('select id, owner from item where id < $1 order by id', [99])).rows,
    ).toEqual(own)
    expect((await pool.query('select planned() as a, planned_sql() as b')).rows).toEqual([
      { a: canary('globex', 1), b: canary('globex', 1) },
    ])
    await expect(pool.query('select owner from scratch')).rejects.toMatchObject({ code: '42P01' })
    // Behind the end of its scope it finds nothing, rather than what somebody else put there.
    await expect(pool.query('commit; select owner from item')).rejects.toMatchObject({
      code: '42P01',
    })
    expect(
      (
        await pool.query(`select current_user = session_user as role, current_setting('app.who', true) as who, current_setting('local.who', true) as local,
          (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks,
          (select count(*)::int from pg_listening_channels()) as channels,
          (select count(*)::int from pg_cursors where is_holdable) as cursors,
          (select count(*)::int from pg_prepared_statements where name not like '\\_\\_partywall%') as prepared,
          current_setting('transaction_isolation') as isolation, current_setting('statement_timeout') as timeout, current_setting('TimeZone') = (select reset_val from pg_settings where name = 'TimeZone') as zone`)
      ).rows[0],
    ).toEqual({
      role: true,
      who: null,
      local: null,
      locks: 0,
      channels: 0,
      cursors: 0,
      prepared: 0,
      isolation: 'read committed',
      timeout: '0',
      zone: true,
    })
    // What it writes is saved, and in its own schema: nobody's transaction is open.
    await pool.query("insert into log values ('mine', 'canary:globex:mine')")
  })
  const { rows } = await world.db.query('select unit from globex.log')
  expect(rows).toEqual([{ unit: 'mine' }])
}

const SQL: Record<string, string> = {
  'SET search_path': 'set search_path = acme',
  'SET SESSION search_path': 'set session search_path to acme, public',
  'SET behind a comment': '/* x */ set /* y */ search_path = acme',
  'SET in a transaction': 'begin; set search_path = acme; commit',
  'set_config for the session': "select set_config('search_path', 'acme', false)",
  'set_config with a computed flag': "select set_config('app.who', 'acme', 1 = 2)",
  'set_config that looks local': "select set_config('app.who', 'a, true)', false)",
  'set_config quoted': `select "set_config"('app.who', 'acme', false)`,
  'two set_config':
    "select set_config('app.who', 'acme', true), set_config('app.who', 'acme', false)",
  'set_config in a CTE': "with x as (select set_config('app.who', 'acme', false)) select * from x",
  'a custom setting called local': "set local.who = 'acme'",
  'UPDATE pg_settings': "update pg_settings set setting = 'acme' where name = 'search_path'",
  'a function that sets the path': 'select set_path()',
  statement_timeout: "set statement_timeout = '1h'",
  TimeZone: "set time zone 'Asia/Kathmandu'",
  'SESSION CHARACTERISTICS':
    'set session characteristics as transaction isolation level serializable',
  'CREATE TEMP TABLE': 'create temp table scratch (owner text)',
  'CREATE TEMP TABLE named as a table':
    "create temporary table item as select 1 as id, 'canary:acme:1'::text as owner",
  'SELECT INTO TEMP': 'select owner into temp scratch from item',
  'CREATE TEMP TABLE AS': 'create temp table scratch as select owner from item',
  'EXPLAIN ANALYZE CREATE TEMP TABLE':
    'explain analyze create temp table scratch as select owner from item',
  'a temp table through the path':
    'begin; set local search_path to pg_temp; create table scratch as select 1 as owner; commit',
  'CREATE TEMP VIEW': 'create temp view item as select 1 as id, $$canary:acme:1$$::text as owner',
  'CREATE TEMP SEQUENCE': 'create temp sequence scratch',
  'a function in pg_temp':
    "create function pg_temp.planned() returns text language sql as 'select $$canary:acme:1$$::text'",
  'a function that makes a temp table': 'select make_temp()',
  'a DO block that makes a temp table':
    'do $$ begin create temp table scratch (owner text); end $$',
  'an advisory lock': 'select pg_advisory_lock(42)',
  'a tried shared advisory lock': 'select pg_try_advisory_lock_shared(42)',
  'an advisory lock in a failing statement': 'select pg_advisory_lock(id), 1 / (id - id) from item',
  'an advisory lock in a failing block':
    "do $$ begin perform pg_advisory_lock(5); raise 'x'; end $$",
  LISTEN: 'listen news',
  PREPARE: 'prepare evil as select owner from item',
  'PREPARE in a failing text':
    'prepare evil as select owner from item; select 1 / (id - id) from item',
  'a cursor WITH HOLD': 'begin; declare held cursor with hold for select owner from item; commit',
  'COMMIT in the middle':
    "insert into log values ('a', 'canary:acme:a'); commit; select owner from item",
  'ROLLBACK in the middle':
    "insert into log values ('a', 'canary:acme:a'); rollback; select owner from item",
  'COMMIT and a session SET': 'commit; set search_path = acme; select owner from item',
  'an open transaction': "begin; insert into log values ('a', 'canary:acme:a')",
  'COMMIT AND CHAIN': 'begin; select 1; commit and chain',
  'ROLLBACK AND CHAIN': 'begin; select 1; rollback and chain',
  'a failed transaction': 'begin; select 1 / (id - id) from item',
  'a nested BEGIN': 'begin; begin; select 1',
  'an error in the middle':
    "set search_path = acme; insert into log values ('a', 'canary:acme:a'); select 1 / (id - id) from item",
  'DISCARD ALL': 'discard all',
  'DISCARD TEMP': 'discard temp',
  'DEALLOCATE ALL': 'deallocate all',
  'DEALLOCATE of our statement': 'deallocate __partywall_scope',
  'RESET ALL': 'reset all',
  'RESET search_path': 'reset search_path',
  'SET ROLE': 'set role none',
  'an unfinished string': "select 'abc",
  'a line comment at the end': 'select 1 --',
  'an unfinished comment': 'select 1 /* abc',
  'a closing comment': '*/ select owner from item',
  'a semicolon': ';',
  'only a comment': '-- nothing',
  'nothing at all': '',
}

describe('hostile SQL leaves nothing to the next tenant', () => {
  it.each(Object.entries(SQL))('D1 D3 %s, by pool.query', async (_name, text) => {
    const pool = world.openPool()
    await quietly(as('acme', () => pool.query(text)))
    await expectNothingLeft(pool)
    await pool.end()
  })

  it.each(Object.entries(SQL))(
    'D1 D3 %s, on a client, in the extended protocol too, and released',
    async (_name, text) => {
      const pool = world.openPool()
      await as('acme', async () => {
        const client = await pool.connect()
        await quietly(client.query('select owner from item where id = $1', [1]))
        for (const statement of text.split(';')) await quietly(client.query(statement))
        await quietly(client.query({ text, queryMode: 'extended' } as pg.QueryConfig))
        await quietly(client.query(text))
        client.release()
      })
      await expectNothingLeft(pool)
      await pool.end()
    },
  )

  it.each(Object.entries(SQL))('D1 D3 %s, inside pool.transaction', async (_name, text) => {
    const pool = world.openPool()
    await quietly(as('acme', () => pool.transaction((query) => query(text))))
    await expectNothingLeft(pool)
    await pool.end()
  })
})

describe('the caller stays in its own tenant', () => {
  const owners = async (client: Pick<pg.PoolClient, 'query'>): Promise<unknown[]> => [
    (await client.query('select owner from item where id = 1')).rows[0]?.owner,
    (await client.query('select owner from item where id = $1', [1])).rows[0]?.owner,
  ]

  it.each(['acme', 'globex'])(
    'D1 %s keeps its scope through COMMIT AND CHAIN, ROLLBACK AND CHAIN, savepoints and nested BEGINs',
    async (id) => {
      const pool = world.openPool()
      const own = [canary(id, 1), canary(id, 1)]
      await as(id, async () => {
        const client = await pool.connect()
        for (const step of [
          'begin',
          'select 1',
          'commit and chain',
          'savepoint a',
          'rollback to a',
          'release a',
          'rollback and chain',
          'begin',
          'savepoint b',
        ]) {
          await client.query(step)
          expect(await owners(client)).toEqual(own)
        }
        await quietly(client.query('select 1 / (id - id) from item'))
        await client.query('rollback to b')
        expect(await owners(client)).toEqual(own)
        await client.query('commit')
        expect(await owners(client)).toEqual(own)
        await client.query({ text: 'begin', queryMode: 'extended' } as pg.QueryConfig)
        await client.query('savepoint c')
        await client.query('rollback to c')
        expect(await owners(client)).toEqual(own)
        await client.query('rollback')
        client.release()
      })
      expect(pool.destroyedCount).toBe(0)
    },
  )

  const BEGINS = [
    'begin isolation level serializable',
    'BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE;',
    'start transaction isolation level serializable, read only',
    '  begin /* why */ work isolation -- because\n level serializable',
    'begin transaction read only isolation level serializable',
    '-- first\nbegin isolation level serializable not deferrable ;  ',
    'start\ttransaction\nread write, isolation level\n serializable',
  ]
  it.each(BEGINS)(
    'D1 %j opens a serializable transaction in the right tenant, in every protocol',
    async (begin) => {
      const pool = world.openPool()
      for (const id of ['acme', 'globex'])
        await as(id, async () => {
          const client = await pool.connect()
          for (const config of [
            begin,
            { text: begin, queryMode: 'extended' },
            { text: begin, name: 'begin' },
            { text: begin, name: 'begin' },
          ] as pg.QueryConfig[]) {
            expect((await client.query(config)).command).toMatch(/^(BEGIN|START)/)
            expect((await client.query('show transaction_isolation')).rows).toEqual([
              { transaction_isolation: 'serializable' },
            ])
            expect(await owners(client)).toEqual([canary(id, 1), canary(id, 1)])
            await client.query('rollback')
          }
          client.release()
        })
      expect(pool.destroyedCount).toBe(0)
    },
  )

  it('D1 SET TRANSACTION right behind BEGIN reaches the server in time', async () => {
    const pool = world.openPool()
    await as('acme', async () => {
      const client = await pool.connect()
      await client.query('begin')
      await client.query('set transaction isolation level serializable, read only')
      expect(
        (
          await client.query(
            "select current_setting('transaction_isolation') as i, current_setting('transaction_read_only') as r, owner from item where id = 1",
          )
        ).rows,
      ).toEqual([{ i: 'serializable', r: 'on', owner: canary('acme', 1) }])
      await client.query('commit')
      client.release()
    })
  })

  it('D1 a transaction opened in the extended protocol is one, also where an earlier tenant left temporary tables', async () => {
    const pool = world.openPool()
    await as('acme', () => pool.query('select make_temp()'))
    await as('globex', async () => {
      const client = await pool.connect()
      await client.query({ text: 'begin', queryMode: 'extended' } as pg.QueryConfig)
      await client.query('insert into log values ($1, $2)', ['undone', canary('globex', 1)])
      await client.query('rollback')
      client.release()
    })
    expect((await world.db.query('select * from globex.log')).rows).toEqual([])
  })

  it('D1 a scope statement that another tenant replaced enters nobody', async () => {
    const names = ['scope', 'first', 'first_again', 'next'].map((name) => `__partywall_${name}`)
    await world.db.query(`create or replace function probe.hijack() returns void language plpgsql as $$ declare wanted text; begin
      foreach wanted in array array[${names.map((name) => `'${name}'`).join(', ')}] loop
        if exists (select from pg_prepared_statements p where p.name = wanted) then execute 'deallocate ' || wanted; end if;
        execute 'prepare ' || wanted || '(text, text) as select 1, pg_catalog.set_config(''search_path'', ''acme'', true), $1, $2';
      end loop; end $$`)
    const pool = world.openPool()
    await as('acme', () => pool.query('select 1'))
    await quietly(as('acme', () => pool.query('select probe.hijack()')))
    for (const send of [
      () => pool.query<{ owner: string }>('select owner from item where id = $1', [1]),
      () => pool.query<{ owner: string }>('select owner from item where id = 1'),
    ]) {
      const outcome = await as('globex', send).then(
        ({ rows }) => rows[0]?.owner,
        () => 'an error',
      )
      expect(['an error', canary('globex', 1)]).toContain(outcome)
    }
    await expectNothingLeft(pool)
  })

  it('D1 temp tables that functions make on demand are of one checkout', async () => {
    const pool = world.openPool()
    for (const id of ['acme', 'globex', 'acme', 'zeta'])
      await as(id, async () => {
        expect((await pool.query('select make_temp() as n')).rows).toEqual([{ n: '1' }])
        const client = await pool.connect()
        await client.query('begin')
        expect((await client.query('select make_temp() as n')).rows).toEqual([{ n: '1' }])
        expect((await client.query('select make_temp() as n')).rows).toEqual([{ n: '2' }])
        await client.query('commit')
        expect((await client.query('select owner from scratch')).rows).toEqual([
          { owner: canary(id, 'scratch') },
          { owner: canary(id, 'scratch') },
        ])
        client.release()
      })
  })

  it('D1 temp tables of another tenant are not met behind a first statement that could not be parsed', async () => {
    const pool = world.openPool()
    for (const text of ['select 1; selec 2', 'selec 2', 'select 1; select (']) {
      await as('acme', () => pool.query('select make_temp()'))
      await as('globex', async () => {
        const client = await pool.connect()
        expect(await codeOf(client.query(text))).toBe('42601')
        expect((await client.query('select make_temp() as n')).rows).toEqual([{ n: '1' }])
        client.release()
      })
    }
  })

  it.each(['select 1', 'select 1; select 2'])(
    'D1 temp tables of another tenant are not met behind a scope that was cancelled: %s',
    async (text) => {
      const pool = world.openPool()
      await as('acme', () => pool.query('select make_temp()'))
      const admin = new pg.Client(world.db.url)
      await admin.connect()
      // The schema of globex cannot be looked up: the session has not met it yet.
      await admin.query('begin; lock table pg_catalog.pg_namespace in access exclusive mode')
      try {
        await as('globex', async () => {
          const client = await pool.connect()
          const sent = codeOf(client.query(text))
          let told: unknown
          void sent.then((code) => (told = code))
          await eventually(async () => {
            await admin.query('select pg_cancel_backend($1)', [
              (client as unknown as { processID: number }).processID,
            ])
            return told !== undefined
          })
          expect(told).toBe('ERR_TENANCY_SCOPE_FAILED')
          await admin.query('rollback')
          expect((await client.query('select make_temp() as n')).rows).toEqual([{ n: '1' }])
          client.release()
        })
      } finally {
        await admin.end()
      }
      await expectNothingLeft(pool)
    },
  )

  it('D1 a BEGIN in front of a text that cannot be parsed opens a transaction, which has failed', async () => {
    const pool = world.openPool()
    const text = 'select 1; selec 2'
    await as('acme', async () => {
      const client = await pool.connect()
      await client.query('begin isolation level serializable')
      expect(await client.query(text).catch((cause: unknown) => cause)).toMatchObject({
        code: '42601',
        position: '11',
      })
      expect(await codeOf(client.query("insert into log values ('a', 'a')"))).toBe('25P02')
      expect((await client.query('commit')).command).toBe('ROLLBACK')
      client.release()
      await expect(
        pool.transaction(async (query) => {
          await quietly(query(text))
          await quietly(query("insert into log values ('b', 'b')"))
        }),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_TRANSACTION_ABORTED' })
    })
    expect((await world.db.query('select * from acme.log')).rows).toEqual([])
    expect(pool.destroyedCount).toBe(0)
    await expectNothingLeft(pool)
  })

  it('D1 a statement name that tenants share: the rows of the caller, and an error where the tables differ, never wrong rows', async () => {
    const pool = world.openPool()
    const read = (id: string, text = 'select * from item where id = $1'): Promise<unknown> =>
      as(id, async () => (await pool.query({ name: `shared ${text}`, text, values: [1] })).rows)
    for (let round = 0; round < 8; round++)
      for (const id of ['acme', 'globex', 'zeta'])
        expect(await read(id)).toEqual([{ id: 1, owner: canary(id, 1) }])
    await world.db.query(
      "alter table globex.item add column extra text default 'canary:globex:extra'",
    )
    try {
      for (const id of ['acme', 'globex', 'acme', 'zeta', 'globex']) {
        const outcome = await read(id).catch((error: unknown) => (error as { code?: string }).code)
        const own = {
          id: 1,
          owner: canary(id, 1),
          ...(id === 'globex' ? { extra: canary('globex', 'extra') } : {}),
        }
        if (outcome !== '0A000') expect(outcome).toEqual([own])
        else expect(id).not.toBe('acme')
      }
    } finally {
      await world.db.query('alter table globex.item drop column extra')
    }
  })

  it.each(['in autocommit', 'in a transaction'])(
    'D11 COPY FROM STDIN %s writes to the tenant of its caller',
    async (how) => {
      const pool = world.openPool()
      for (const id of ['acme', 'globex'])
        await as(id, async () => {
          const client = await pool.connect()
          if (how !== 'in autocommit') await client.query('begin')
          const copy = client.query(new CopyIn('copy log from stdin'))
          await copy.begun
          copy.write(`c\tcanary:${id}:c\n`)
          copy.end()
          expect(await copy.done).toBe('COPY 1')
          if (how !== 'in autocommit') await client.query('commit')
          const broken = client.query(new CopyIn('copy log from stdin'))
          await broken.begun
          broken.write('no tab\n')
          broken.end()
          await expect(broken.done).rejects.toMatchObject({ code: '22P04' })
          client.release()
        })
      for (const id of ['acme', 'globex'])
        expect((await world.db.query(`select owner from ${id}.log`)).rows).toEqual([
          { owner: canary(id, 'c') },
        ])
      expect(pool.totalCount).toBe(1)
    },
  )

  it('D1 statements that the server sends on after an error keep their place', async () => {
    const pool = world.openPool()
    await as('acme', async () => {
      expect(await codeOf(pool.query('select 1; select nothing; select 2'))).toBe('42703')
      const error = await pool.query('selec 1').catch((cause: unknown) => cause as pg.DatabaseError)
      expect(error).toMatchObject({ code: '42601', position: '1' })
      expect(
        await pool.query('select 1; select nope').catch((cause: unknown) => cause),
      ).toMatchObject({ code: '42703', position: '18' })
    })
    expect(pool.destroyedCount).toBe(0)
    await expectNothingLeft(pool)
  })
})

describe('connections that are lost or late', () => {
  const kill = async (pid: number): Promise<void> => {
    await world.db.query('select pg_terminate_backend($1)', [pid])
    await eventually(
      async () =>
        (await world.db.query('select 1 from pg_stat_activity where pid = $1', [pid])).rowCount ===
        0,
    )
  }
  const POINTS: Record<string, (pool: TenantPool) => Promise<unknown>> = {
    'while idle in the pool': async (pool) => kill(await backendOf(pool)),
    'while checked out and idle': async (pool) => {
      const client = await pool.connect()
      const pid = await backendOf(client)
      try {
        await kill(pid)
        await client.query("insert into log values ('lost', 'x')")
      } finally {
        client.release()
      }
    },
    'with a BEGIN held back': async (pool) => {
      const client = await pool.connect()
      const pid = await backendOf(client)
      try {
        await client.query('begin')
        await kill(pid)
        await client.query("insert into log values ('lost', 'x')")
      } finally {
        await quietly(client.query('rollback'))
        client.release()
      }
    },
    'in a transaction': (pool) =>
      pool.transaction(async (query) => {
        await query("insert into log values ('lost', 'x')")
        const { rows } = await query<{ pid: number }>('select pg_backend_pid() as pid')
        await kill(rows[0]?.pid ?? 0)
        await query('select 1')
      }),
    'by the statement itself': (pool) =>
      pool.query('select pg_terminate_backend(pg_backend_pid()), owner from item'),
    'by the statement itself, with parameters': (pool) =>
      pool.query('select pg_terminate_backend($1), owner from item where pg_sleep(1) is null', [0]),
    'by a statement in a transaction': (pool) =>
      pool.transaction((query) => query('select pg_terminate_backend(pg_backend_pid())')),
  }
  it.each(Object.entries(POINTS))(
    'F1 F2 terminated %s: an error at most, and the next tenant is served by another connection',
    async (_name, lose) => {
      const pool = world.openPool()
      await quietly(as('acme', () => lose(pool)))
      // The news may reach the pool with its next statement, as with pg.Pool.
      await quietly(as('globex', () => pool.query('select 1')))
      await expectNothingLeft(pool)
      expect((await world.db.query("select * from acme.log where unit = 'lost'")).rows).toEqual([])
      expect(pool.totalCount).toBe(1)
    },
  )

  it.each<[string, (pool: TenantPool) => Promise<unknown>]>([
    ['text', (pool: TenantPool) => pool.query('select pg_sleep(0.4), owner from item')],
    ['parameters', (pool: TenantPool) => pool.query('select pg_sleep($1), owner from item', [0.4])],
    [
      'a transaction',
      (pool: TenantPool) =>
        pool.transaction(async (query) => {
          await query("insert into log values ('late', 'x')")
          await query('select pg_sleep(0.4)')
        }),
    ],
  ])("F2 query_timeout on %s: the late answer is nobody else's", async (_name, send) => {
    const pool = world.openPool({ query_timeout: 80 })
    await expect(as('acme', () => send(pool))).rejects.toThrow('timeout')
    expect(world.destroyed.map(({ reason }) => reason)).toEqual(['an unfinished statement'])
    await pool.end()
    const next = world.openPool()
    await expectNothingLeft(next)
    expect((await world.db.query('select * from acme.log')).rows).toEqual([])
  })

  it('F2 statement_timeout in a transaction fails it and leaves the connection clean', async () => {
    const pool = world.openPool({ statement_timeout: 60 })
    const before = await as('acme', () => backendOf(pool))
    await expect(
      as('acme', () => pool.transaction((query) => query('select pg_sleep(1)'))),
    ).rejects.toMatchObject({ code: '57014' })
    expect(await as('globex', () => backendOf(pool))).toBe(before)
  })
})

describe('callbacks run as who gave them', () => {
  const who = (): string => world.tenancy.current()?.tenant.id ?? 'none'

  it('C1 C8 pool.query(cb), client.query(cb), row events and queued pool.connect(cb)', async () => {
    const pool = world.openPool()
    const seen: [string, string, string][] = []
    const unit = (id: string): Promise<void> =>
      as(id, async () => {
        const steps: Promise<void>[] = []
        const step = (run: (done: () => void, fail: (error: Error) => void) => void): void => {
          steps.push(new Promise((resolve, reject) => run(resolve, reject)))
        }
        step((done, fail) =>
          pool.query('select pg_sleep(0.01), owner from item where id = 1', (error, result) => {
            seen.push([id, who(), result?.rows[0]?.owner])
            if (error) fail(error)
            else done()
          }),
        )
        step((done, fail) =>
          pool.connect((error, client, release) => {
            seen.push([id, who(), canary(id, 1)])
            if (error || client === undefined) return fail(error ?? new Error('no client'))
            client.query(
              'select owner from item where id = $1',
              [1],
              (queryError: Error | null, result: pg.QueryResult) => {
                seen.push([id, who(), result?.rows[0]?.owner])
                const query = client.query(
                  new pg.Query('select owner from item where id = 1'),
                ) as unknown as NodeJS.EventEmitter
                query.on('row', (row: { owner: string }) => void seen.push([id, who(), row.owner]))
                query.on('error', fail)
                query.on('end', () => {
                  seen.push([id, who(), canary(id, 1)])
                  release()
                  if (queryError) fail(queryError)
                  else done()
                })
              },
            )
          }),
        )
        await Promise.all(steps)
      })
    await Promise.all(Array.from({ length: 6 }, () => ['acme', 'globex', 'zeta'].map(unit)).flat())
    expect(seen).toHaveLength(18 * 5)
    for (const [id, context, owner] of seen) expect([context, owner]).toEqual([id, canary(id, 1)])
  })

  it('C1 nothing of a tenant stays in the context of the connections that it opened', async () => {
    const pool = world.openPool()
    const seen: string[] = []
    for (const event of ['connect', 'acquire', 'release'] as const)
      pool.on(event as 'connect', () => void seen.push(`${event} ${who()}`))
    await as('acme', () => pool.query('select 1'))
    expect(seen[0]).toBe('connect none')
  })
})
