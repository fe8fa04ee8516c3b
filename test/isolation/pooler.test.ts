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
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createPooledWorld, type PooledWorld } from './pooler-fixture.ts'
import {
  codeOf,
  INSERT,
  type PooledGround,
  quietly,
  residueRows,
  SELECT,
  transactionRows,
} from './pooler-suite.ts'

const missing = await whyNoPgBouncer()
const skipped = missing === undefined ? '' : ` (SKIPPED: ${missing})`

const CONNECTIONS = [1, 4]
const ROLES = ['none', 'per-tenant'] as const
const GROUNDS: readonly PooledGround[] = CONNECTIONS.flatMap((connections) =>
  ROLES.map((role) => ({ connections, role })),
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
function pollution(tenantId: string, role: PooledGround['role']): string[] {
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
    ...(role !== 'per-tenant' ? [] : [`set role "tenant-${tenantId}"`, 'reset role']),
  ]
}

describe.skipIf(missing)(`D13 fifty tenants behind PgBouncer${skipped}`, () => {
  const counts = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`t${n}`, 1 + (n % 7)]))

  it.each<PooledGround>([
    ...GROUNDS,
    // What a pool has to do nothing about.
    { connections: 2, role: 'per-tenant', settings: { server_reset_query_always: 1 } },
  ])(
    'D1 D13 $connections connection(s), role $role, $settings: two pools and an application that leaves settings behind; every row and every write carries the canary of its caller',
    async (ground) => {
      const { connections, role } = ground
      await using world = await createPooledWorld({ counts, ...ground })
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
      const goesOn = (): boolean => next < units
      const worker = async (): Promise<void> => {
        while (goesOn()) {
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
      const stranger = async (): Promise<void> => {
        const client = await world.openStranger()
        while (goesOn()) {
          await client.query(random.pick(pollution(random.pick(world.tenantIds), role))).then(
            () => polluted++,
            (error: unknown) => {
              // What is there already, or not there. A connection that is lost would be an endless loop.
              if (!(error instanceof pg.DatabaseError)) throw error
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
  (ground) => {
    transactionRows(ground)
  },
)

describe.skipIf(missing).each(GROUNDS)(
  `D13 what a stranger leaves in a session${skipped}, $connections connection(s), role $role`,
  (ground) => {
    residueRows(ground)
  },
)
