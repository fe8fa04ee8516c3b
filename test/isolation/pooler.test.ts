import type { TenantPool } from '@partywall/postgres'
import { assertPooler, probePooler } from '@partywall/postgres'
import {
  CopyIn,
  canary,
  foreignCanaries,
  type SeededRandom,
  seededRandom,
  whyNoPgBouncer,
} from '@partywall/test-support'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { itemsOf } from './database-fixture.ts'
import { createPooledWorld, type PooledWorld } from './pooler-fixture.ts'

const missing = await whyNoPgBouncer()
const skipped = missing === undefined ? '' : ` (SKIPPED: ${missing})`

const CONNECTIONS = [1, 4]
const ROLES = ['none', 'per-tenant'] as const
const GROUNDS = CONNECTIONS.flatMap((connections) => ROLES.map((role) => ({ connections, role })))

const SELECT = 'select id, owner from item order by id'
const INSERT = 'insert into log values ($1, $2) returning owner'

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

describe.skipIf(missing)(`D13 the hazard is real${skipped}`, () => {
  let world: PooledWorld
  beforeAll(async () => {
    world = await createPooledWorld({ counts: { acme: 3, globex: 5 }, connections: 1 })
  })
  afterAll(() => world?.[Symbol.asyncDispose]())

  it('D13 a session SET that was awaited is found by whoever comes next, and reads the rows of its tenant', async () => {
    const [acme = '', globex = ''] = world.tenantIds
    const [one, other] = [await world.openStranger(), await world.openStranger()]
    await other.query(`set search_path to "${globex}"`)
    await one.query(`set search_path to "${acme}"`)
    const { rows } = await other.query('select owner from item where id = 1')
    expect(rows).toEqual([{ owner: canary(acme, 1) }])
    await one.query('reset search_path')
  })

  it('D13 the probe finds it, and a pool that is not made for it is refused', async () => {
    expect(await probePooler(world.url)).toMatchObject({
      mode: 'transaction',
      sessionState: 'leaks',
      basePath: '""',
    })
    const pool = world.openPool({ pooler: 'none' })
    await expect(assertPooler(pool)).rejects.toMatchObject({
      code: 'ERR_TENANCY_POOLER_UNSAFE',
      status: 500,
    })
    expect(await assertPooler(world.openPool())).toMatchObject({ mode: 'transaction' })
  })
})

/** One unit of work of a tenant, which hands every row that it sees to `check`. */
interface UnitContext {
  readonly pool: TenantPool
  readonly id: string
  readonly unit: string
  readonly count: number
  readonly random: SeededRandom
  check(rows: readonly unknown[], length?: number): void
  wrote(): void
  odd(what: unknown): void
}

const UNITS: readonly ((context: UnitContext) => Promise<void>)[] = [
  async ({ pool, check, count }) => check((await pool.query(SELECT)).rows, count),
  async ({ pool, check }) =>
    check((await pool.query('select owner from item where id <= $1', [1])).rows, 1),
  async ({ pool, check, count }) => {
    const results = (await pool.query(
      `select owner from item where id = 1; ${SELECT}`,
    )) as unknown as pg.QueryResult[]
    check(results[0]?.rows ?? [], 1)
    check(results[1]?.rows ?? [], count)
  },
  // One name for all tenants, and for both pools.
  async ({ pool, check }) => {
    const text = 'select owner from item where id = $1'
    check((await pool.query({ name: 'item-by-id', text, values: [1] })).rows, 1)
  },
  async ({ pool, id, unit, check, wrote }) => {
    check((await pool.query(INSERT, [unit, canary(id, unit)])).rows, 1)
    wrote()
  },
  async ({ pool, id, unit, check, count, wrote }) => {
    await pool.transaction(async (query) => {
      await query(`insert into log values ('${unit}', '${canary(id, unit)}')`)
      check((await query(SELECT)).rows, count)
    }, 'begin isolation level serializable')
    wrote()
  },
  async ({ pool, id, unit, check, odd }) => {
    const failed = await pool
      .transaction(async (query) => {
        check((await query(INSERT, [unit, canary(id, unit)])).rows, 1)
        throw new Error('changed my mind')
      })
      .catch((error: unknown) => (error as Error).message)
    if (failed !== 'changed my mind') odd(failed)
  },
  async ({ pool, id, unit, check, count, wrote }) => {
    await pool.transaction(async (query) => {
      await query('savepoint a')
      await quietly(query('select 1 / (id - id) from item'))
      await query('rollback to a')
      check((await query(SELECT)).rows, count)
      await query(INSERT, [unit, canary(id, unit)])
      await query('release a')
    })
    wrote()
  },
  async ({ pool, id, unit, check, count }) => {
    const client = await pool.connect()
    try {
      await client.query('begin isolation level repeatable read')
      await client.query(INSERT, [unit, canary(id, unit)])
      check((await client.query(SELECT)).rows, count)
      await client.query('rollback')
      // Another connection of the server, very likely.
      check((await client.query(SELECT)).rows, count)
    } finally {
      client.release()
    }
  },
  async ({ pool, unit, odd }) => {
    const code = await codeOf(
      pool.query('insert into log select $1 || 1 / (id - id), owner from item', [unit]),
    )
    if (code !== '22012') odd(code)
  },
  async ({ pool, id, unit, odd }) => {
    const code = await codeOf(
      pool.transaction(async (query) => {
        await query(INSERT, [unit, canary(id, unit)])
        await quietly(query('select nothing'))
      }),
    )
    if (code !== 'ERR_TENANCY_TRANSACTION_ABORTED') odd(code)
  },
  // Each leaves a temporary table behind that no command tag tells of.
  async ({ pool, id, random, odd }) => {
    const sql = `select strangers('${id}') as n`
    const rows = await random.pick<() => Promise<unknown[]>>([
      async () => (await pool.query(sql)).rows,
      async () => (await pool.query('select strangers($1) as n', [id])).rows,
      async () =>
        ((await pool.query(`select 1; ${sql}`)) as unknown as pg.QueryResult[])[1]?.rows ?? [],
      () => pool.transaction(async (query) => (await query(sql)).rows),
      () =>
        pool.transaction(
          async (query) => (await query(sql)).rows,
          'begin isolation level serializable',
        ),
    ])()
    if (JSON.stringify(rows) !== '[{"n":0}]') odd({ strangers: rows })
  },
  async ({ pool, check, count }) => {
    const client = await pool.connect()
    const cursor = client.query(new Cursor<{ owner: string }>(SELECT))
    const rows = await cursor.read(1)
    check([...rows, ...(await cursor.read(100))], count)
    await cursor.close()
    client.release()
  },
  async ({ pool, id, unit, wrote }) => {
    const client = await pool.connect()
    const copy = client.query(new CopyIn('copy log from stdin'))
    await copy.begun
    copy.write(`${unit}\t${canary(id, unit)}\n`)
    copy.end()
    await copy.done
    client.release()
    wrote()
  },
]

/** What an application that knows nothing of tenants does to a session. */
function pollution(tenantId: string, role: (typeof ROLES)[number]): string[] {
  return [
    `set search_path to "${tenantId}"`,
    "set search_path to pg_temp, public; set time zone 'Asia/Kathmandu'",
    "select set_config('app.tenant_id', 'stranger', false)",
    "create temp table if not exists item (id int, owner text); insert into item values (1, 'canary:stranger:1')",
    "create temp table if not exists scratch (owner text); insert into scratch values ('stranger')",
    'create temp table if not exists log (unit text primary key, owner text)',
    'select pg_try_advisory_lock(1)',
    'listen news',
    'prepare __partywall_next as select 1',
    'prepare __partywall_first as select 1',
    'prepare "item-by-id" as select 1',
    'declare held cursor with hold for select 1',
    'reset all',
    'discard temp',
    ...(role === 'none' ? [] : [`set role "tenant-${tenantId}"`, 'reset role']),
  ]
}

describe.skipIf(missing)(`D13 fifty tenants behind PgBouncer${skipped}`, () => {
  const counts = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`t${n}`, 1 + (n % 7)]))

  it.each(GROUNDS)(
    'D1 D13 $connections connection(s), role $role: two pools and an application that leaves settings behind; every row and every write carries the canary of its caller',
    async ({ connections, role }) => {
      await using world = await createPooledWorld({ counts, connections, role })
      const random = seededRandom()
      const pools = [
        world.openPool({ max: 4 }),
        // Statements of several tenants are under way on one connection at a time.
        world.openPool({ max: 2, pipelineDepth: 8 }),
      ]
      const expected = new Map(world.tenantIds.map((id) => [id, new Set<string>()]))
      const foreign: unknown[] = []
      let checked = 0
      let next = 0
      const units = connections === 1 ? 1_000 : 2_000
      const worker = async (): Promise<void> => {
        while (next < units) {
          const unit = `u${next++}`
          const id = random.pick(world.tenantIds)
          const count = world.counts[id] ?? 0
          const kind = random.integer(0, UNITS.length - 1)
          await world
            .as(id, () =>
              UNITS[kind]?.({
                pool: random.pick(pools),
                id,
                unit,
                count,
                random,
                check(rows, length) {
                  checked++
                  if (
                    foreignCanaries(rows, id).length > 0 ||
                    (length !== undefined && rows.length !== length)
                  )
                    foreign.push({ id, kind, rows, length })
                },
                wrote: () => expected.get(id)?.add(unit),
                odd: (what) => foreign.push({ id, kind, what }),
              }),
            )
            .catch((error: unknown) => foreign.push({ id, kind, error }))
        }
      }
      let polluted = 0
      let refused = 0
      const stranger = async (): Promise<void> => {
        const client = await world.openStranger()
        while (next < units) {
          await client.query(random.pick(pollution(random.pick(world.tenantIds), role))).then(
            () => polluted++,
            (error: unknown) => {
              // What is there already, or not there. A connection that is lost would be an endless loop.
              if (!(error instanceof pg.DatabaseError)) throw error
              refused++
            },
          )
        }
      }
      await Promise.all([...Array.from({ length: 16 }, worker), stranger(), stranger()])
      expect(foreign).toEqual([])
      expect(checked).toBeGreaterThan(units / 2)
      expect(polluted).toBeGreaterThan(units / 20)
      for (const [id, written] of expected) {
        const { rows } = await world.db.query<{ unit: string; owner: string }>(
          `select unit, owner from "${id}".log`,
        )
        expect(foreignCanaries(rows, id)).toEqual([])
        expect(new Set(rows.map(({ unit }) => unit))).toEqual(written)
      }
      expect(world.destroyed).toEqual([])
    },
    120_000,
  )
})

describe.skipIf(missing).each(GROUNDS)(
  `D13 one transaction is one transaction${skipped}, $connections connection(s), role $role`,
  ({ connections, role }) => {
    let world: PooledWorld
    let pool: TenantPool
    beforeAll(async () => {
      world = await createPooledWorld({ counts: { acme: 3, globex: 5 }, connections, role })
      pool = world.openPool({ max: 2 })
    })
    afterAll(() => world?.[Symbol.asyncDispose]())
    beforeEach(async () => {
      for (const id of world.tenantIds) await world.db.query(`truncate "${id}".log`)
    })
    const units = async (id: string): Promise<string[]> =>
      (
        await world.db.query<{ unit: string }>(`select unit from "${id}".log order by unit`)
      ).rows.map(({ unit }) => unit)
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
        await world.pooler.admin('RECONNECT')
      }
      await change('public')
      try {
        const [acme = ''] = world.tenantIds
        for (const ask of [
          () => pool.query(INSERT, ['refused', canary(acme, 'refused')]),
          () =>
            pool.query(`select 1; insert into log values ('refused', 'canary:${acme}:refused')`),
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
  },
)

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

describe.skipIf(missing).each(GROUNDS)(
  `D13 what a stranger leaves in a session${skipped}, $connections connection(s), role $role`,
  ({ connections, role }) => {
    let world: PooledWorld
    let round = 0
    beforeAll(async () => {
      world = await createPooledWorld({ counts: { acme: 3, globex: 5 }, connections, role })
    })
    afterAll(() => world?.[Symbol.asyncDispose]())
    beforeEach(async () => {
      // Sessions without a past.
      await world.pooler.admin('RECONNECT')
    })

    const residue: Record<string, (other: string) => readonly string[]> = {
      ...RESIDUE,
      ...(role === 'none'
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

    it.each(Object.entries(residue))(
      'D13 %s changes nothing that a tenant reads',
      async (_, sql) => {
        const pool = world.openPool({ max: 2 })
        for (const other of world.tenantIds) {
          await leave(sql(other))
          await expectOwnWorld(world, pool, `round ${++round}`)
        }
        await pool.end()
      },
    )

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

    it('D13 what a stranger leaves between two transactions of one checkout changes nothing either', async () => {
      const pool = world.openPool()
      const [id = '', other = ''] = world.tenantIds
      // All of it at once, but for what would take the rest away.
      const left = Object.values(residue)
        .flatMap((sql) => sql(other))
        .filter((text) => !/^(?:reset|discard) all$/.test(text))
      await world.as(id, async () => {
        const client = await pool.connect()
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
        client.release()
      })
      await pool.end()
    })
  },
)
