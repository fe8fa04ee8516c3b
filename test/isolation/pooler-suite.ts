import type { TenantPool } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'
import { itemsOf } from './database-fixture.ts'
import { createPooledWorld, type PooledWorld, type PooledWorldOptions } from './pooler-fixture.ts'

/** Where a part of the suite runs. */
export type PooledGround = Omit<PooledWorldOptions, 'counts'>

export const SELECT = 'select id, owner from item order by id'
export const INSERT = 'insert into log values ($1, $2) returning owner'

export const quietly = (promise: Promise<unknown>): Promise<void> =>
  promise.then(
    () => undefined,
    () => undefined,
  )
export const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'fulfilled',
    (error: unknown) => (error as { code?: string }).code,
  )

/** Rows D13 about transactions, inside of a `describe`. */
export function transactionRows(ground: PooledGround): void {
  const { connections } = ground

  let world: PooledWorld
  let pool: TenantPool
  beforeAll(async () => {
    world = await createPooledWorld({ counts: { acme: 3, globex: 5 }, ...ground })
    pool = world.openPool({ max: 2 })
  })
  afterAll(() => world?.[Symbol.asyncDispose]())
  beforeEach(async () => {
    for (const id of world.tenantIds) await world.db.query(`truncate "${id}".log`)
  })
  const units = async (id: string): Promise<string[]> =>
    (await world.db.query<{ unit: string }>(`select unit from "${id}".log order by unit`)).rows.map(
      ({ unit }) => unit,
    )
  const each = async (
    fn: (client: pg.PoolClient, id: string, write: (unit: string) => Promise<unknown>) => unknown,
  ): Promise<void> => {
    for (const id of world.tenantIds)
      await world.as(id, async () => {
        const client = await pool.connect()
        try {
          await fn(client, id, (unit) => client.query(INSERT, [unit, canary(id, unit)]))
        } finally {
          client.release()
        }
      })
  }

  it('D13 also after a ROLLBACK TO SAVEPOINT: what follows belongs to it, and goes with it', async () => {
    await each(async (client, _id, write) => {
      await client.query('begin')
      await write('before')
      await client.query('savepoint a')
      await quietly(client.query('select 1 / (id - id) from item'))
      await client.query('rollback to savepoint a')
      await write('after')
      await client.query('release savepoint a')
      await client.query('rollback')
      await client.query('begin')
      await write('kept')
      await client.query('savepoint a')
      await write('gone')
      await client.query('rollback to a')
      await client.query('commit')
    })
    for (const id of world.tenantIds) expect(await units(id)).toEqual(['kept'])
    expect(world.destroyed).toEqual([])
  })

  it('D13 also when it is chained, and when it has made temporary tables itself', async () => {
    await each(async (client, id, write) => {
      await client.query('begin')
      await client.query('select strangers($1)', [id])
      await write('first')
      await client.query('commit and chain')
      await write('second')
      // Its own notes: on the same session, because the chain was not broken.
      expect((await client.query('select strangers($1) as n', [id])).rows).toEqual([{ n: 0 }])
      await client.query('rollback and chain')
      await write('third')
      await client.query('savepoint a')
      await client.query('rollback to a')
      await write('fourth')
      await client.query('rollback')
    })
    for (const id of world.tenantIds) expect(await units(id)).toEqual(['first'])
    expect(world.destroyed).toEqual([])
  })

  it('D13 also where its first statement finds what a stranger left', async () => {
    const stranger = await world.openStranger()
    const [acme = '', globex = ''] = world.tenantIds
    for (const begin of ['begin', 'begin isolation level serializable']) {
      for (let n = 0; n < connections; n++)
        for (const text of [
          `set search_path to "${globex}"`,
          'create temp table if not exists item (id int, owner text)',
        ])
          await stranger.query(text)
      await world.as(acme, async () => {
        await pool.transaction(async (query) => {
          const { rows } = await query(
            "select owner, current_setting('transaction_isolation') as level from item where id = $1",
            [1],
          )
          expect(rows).toEqual([
            {
              owner: canary(acme, 1),
              level: begin === 'begin' ? 'read committed' : 'serializable',
            },
          ])
          await query(INSERT, [begin, canary(acme, begin)])
        }, begin)
        await quietly(
          pool.transaction(async (query) => {
            await query(INSERT, ['thrown', canary(acme, 'thrown')])
            throw new Error('changed my mind')
          }, begin),
        )
      })
    }
    expect(await units(acme)).toEqual(['begin', 'begin isolation level serializable'])
    expect(await units(globex)).toEqual([])
    await stranger.end()
  })

  it('D2 D13 a statement that is cut off by time goes to nobody, and the others go on', async () => {
    const impatient = world.openPool({ query_timeout: 100 })
    const [acme = '', globex = ''] = world.tenantIds
    await expect(
      world.as(acme, () => impatient.query('select pg_sleep(1), owner from item limit 1')),
    ).rejects.toThrow(/timeout/)
    for (const id of [globex, acme, globex])
      expect(
        (await world.as(id, () => pool.query('select owner from item where id = $1', [1]))).rows,
      ).toEqual([{ owner: canary(id, 1) }])
    await impatient.end()
  })

  it('D13 a login with a base path is refused before a statement runs, with the remedy', async () => {
    const { user } = new pg.Client(world.url)
    const change = async (path: string): Promise<void> => {
      await world.db.query(`alter role ${user} set search_path = ${path}`)
      await world.reconnect()
    }
    await change('public')
    try {
      const [acme = ''] = world.tenantIds
      for (const ask of [
        () => pool.query(INSERT, ['refused', canary(acme, 'refused')]),
        () => pool.query(`select 1; insert into log values ('refused', 'canary:${acme}:refused')`),
        () => pool.transaction((query) => query(INSERT, ['refused', canary(acme, 'refused')])),
      ])
        await expect(world.as(acme, ask)).rejects.toMatchObject({
          code: 'ERR_TENANCY_SCOPE_FAILED',
          message: expect.stringContaining("alter role ... set search_path = ''"),
        })
      expect(await units(acme)).toEqual([])
    } finally {
      await change("''")
      world.destroyed.length = 0
    }
  })
}

/** What a stranger leaves in the one connection that everybody gets; each statement is a transaction of its own. */
const RESIDUE: Readonly<Record<string, (other: string) => readonly string[]>> = {
  "another tenant's search_path": (other) => [`set search_path to "${other}"`],
  'a search_path with pg_temp in front': (other) => [
    "create temp table item as select 1 as id, 'canary:stranger:1'::text as owner",
    `set search_path to pg_temp, "${other}"`,
  ],
  'a temporary table named as a table': () => [
    "create temp table item as select 1 as id, 'canary:stranger:1'::text as owner",
  ],
  'temporary tables that functions look for': () => [
    "create temp table scratch as select 'stranger'::text as owner",
  ],
  'a temporary table that no tenant has': () => [
    "create temp table only_here as select 'canary:stranger:1'::text as owner",
  ],
  'a temporary view and a function': () => [
    "create temp view only_here as select 'canary:stranger:1'::text as owner",
    "create function pg_temp.strangers(text) returns int language sql as 'select 99'",
  ],
  'names of prepared statements': () => [
    "prepare __partywall_next as select 'canary:stranger:1'",
    "prepare __partywall_first as select 'canary:stranger:1'",
    "prepare __partywall_first_again as select 'canary:stranger:1'",
    "prepare __partywall_next_role as select 'canary:stranger:1'",
    "prepare __partywall_first_role as select 'canary:stranger:1'",
    `prepare "item-by-id" as select 'canary:stranger:1'::text as owner`,
    'prepare "__partywall_1" as select 1',
  ],
  'a custom setting': (other) => [
    `select set_config('app.tenant_id', '${other}', false), set_config('app.who', '${other}', false)`,
  ],
  'a time zone, a date style and an encoding': () => [
    "set time zone 'Asia/Kathmandu'; set datestyle to 'SQL, DMY'; set client_encoding to 'LATIN1'",
  ],
  'an advisory lock and a subscription': () => ['select pg_try_advisory_lock(7)', 'listen news'],
  'a cursor that outlives its transaction': (other) => [
    `declare held cursor with hold for select '${other}'`,
  ],
  'its own RESET ALL and DISCARD ALL': () => ['reset all', 'discard all'],
}

/** Whatever the connection is in: each tenant reads its own rows, in every way to ask, and nothing else. */
async function expectOwnWorld(world: PooledWorld, pool: TenantPool, round: string): Promise<void> {
  for (const id of world.tenantIds)
    await world.as(id, async () => {
      const count = world.counts[id] ?? 0
      const own = itemsOf(id, count)
      const first = [{ owner: canary(id, 1) }]
      expect((await pool.query(SELECT)).rows).toEqual(own)
      expect((await pool.query('select owner from item where id = $1', [1])).rows).toEqual(first)
      expect(
        (
          await pool.query({
            name: 'item-by-id',
            text: 'select owner from item where id = $1',
            values: [1],
          })
        ).rows,
      ).toEqual(first)
      const several = (await pool.query(`select 1; ${SELECT}`)) as unknown as pg.QueryResult[]
      expect(several[1]?.rows).toEqual(own)
      await pool.transaction(async (query) => {
        expect((await query(SELECT)).rows).toEqual(own)
        expect((await query('select owner from item where id = $1', [1])).rows).toEqual(first)
        await query('insert into log values ($1, $2)', [round, canary(id, round)])
      }, 'begin isolation level serializable')
      expect((await pool.query('select strangers($1) as n', [id])).rows).toEqual([{ n: 0 }])
      for (const sql of ['select owner from only_here', 'select owner from scratch where false'])
        expect(await codeOf(pool.query(sql)), sql).toBe('42P01')
      // Behind the end of its scope it finds nothing, rather than what somebody else put there.
      expect(await codeOf(pool.query('commit; select owner from item'))).toBe('42P01')
      expect(await codeOf(pool.query('rollback; select owner from item'))).toBe('42P01')
    })
  for (const id of world.tenantIds) {
    const { rows } = await world.db.query(`select owner from "${id}".log where unit = $1`, [round])
    expect(rows).toEqual([{ owner: canary(id, round) }])
  }
}

/** Rows D13 about what is left in sessions, inside of a `describe`. */
export function residueRows(ground: PooledGround): void {
  const { connections, role } = ground

  let world: PooledWorld
  let round = 0
  beforeAll(async () => {
    world = await createPooledWorld({ counts: { acme: 3, globex: 5 }, ...ground })
  })
  afterAll(() => world?.[Symbol.asyncDispose]())
  beforeEach(async () => {
    // Sessions without a past.
    await world.reconnect()
  })

  const residue: Record<string, (other: string) => readonly string[]> = {
    ...RESIDUE,
    ...(role !== 'per-tenant'
      ? {}
      : { "another tenant's role": (other: string) => [`set role "tenant-${other}"`] }),
  }

  /** Leaves it in every connection of the pooler: all of them are held at one time. */
  async function leave(statements: readonly string[]): Promise<void> {
    const strangers = await Promise.all(
      Array.from({ length: connections }, () => world.openStranger()),
    )
    for (const one of strangers) await one.query('begin')
    for (const one of strangers) {
      await one.query('commit')
      for (const text of statements) await quietly(one.query(text))
    }
    await Promise.all(strangers.map((one) => one.end()))
  }

  it('D13 what a stranger leaves between two transactions of one checkout changes nothing either', async () => {
    const pool = world.openPool()
    const [id = '', other = ''] = world.tenantIds
    // All of it at once, but for what would take the rest away.
    const left = Object.values(residue)
      .flatMap((sql) => sql(other))
      .filter((text) => !/^(?:reset|discard) all$/.test(text))
    await world.as(id, async () => {
      const client = await pool.connect()
      try {
        for (let n = 0; n < 2; n++) {
          await leave(left)
          expect((await client.query(SELECT)).rows).toEqual(itemsOf(id, world.counts[id] ?? 0))
          await leave(left)
          expect((await client.query('select strangers($1) as n', [id])).rows).toEqual([{ n: 0 }])
          await leave(left)
          expect(await codeOf(client.query('select owner from only_here where $1', [true]))).toBe(
            '42P01',
          )
          await leave(left)
          expect(await codeOf(client.query('rollback; select owner from item'))).toBe('42P01')
          await leave(left)
          await client.query('begin')
          expect((await client.query('select strangers($1) as n', [id])).rows).toEqual([{ n: 0 }])
          await client.query('commit')
        }
      } finally {
        client.release()
      }
    })
    await pool.end()
  })

  it.each(Object.entries(residue))('D13 %s changes nothing that a tenant reads', async (_, sql) => {
    const pool = world.openPool({ max: 2 })
    for (const other of world.tenantIds) {
      await leave(sql(other))
      await expectOwnWorld(world, pool, `round ${++round}`)
    }
    await pool.end()
  })

  it.each(Object.entries(residue))(
    'D13 %s is not found behind the end of a scope',
    async (_, sql) => {
      const pool = world.openPool()
      const [id = '', other = ''] = world.tenantIds
      for (const text of ['commit', 'rollback', 'select 1; rollback'])
        for (const name of ['item', 'only_here', 'scratch']) {
          await leave(sql(other))
          const asked = world.as(id, () => pool.query(`${text}; select owner from ${name}`))
          expect(await codeOf(asked), `${text}; ${name}`).toBe('42P01')
        }
      await pool.end()
    },
  )
}
