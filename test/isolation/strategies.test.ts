import { TenancyError } from '@partywall/core'
import type { TenantPool } from '@partywall/postgres'
import { eventually } from '@partywall/test-support'
import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createStrategyWorld, STRATEGIES, type StrategyWorld } from './strategy-world.ts'

interface Tables {
  item: { id: number; owner: string }
  note: { unit: string; owner: string }
}

const ITEMS = 'select id, owner from item order by id'

/** The D rows that hold for every strategy, and for each of them the same test. What only one of them can do, or fail to do, stands in the suites of its own. */
describe.each(Object.entries(STRATEGIES))('%s', (_name, strategy) => {
  let world: StrategyWorld
  let acme: string
  let globex: string

  beforeAll(async () => {
    world = await createStrategyWorld(strategy)
    ;[acme, globex] = world.tenants
  })

  afterAll(async () => {
    await world[Symbol.asyncDispose]()
  })

  const as: StrategyWorld['as'] = (...args) => world.as(...args)

  /** Every tenant sees its own rows and nothing else, whatever happened before. */
  async function expectOwnRows(pool: TenantPool): Promise<void> {
    for (const id of world.tenants)
      await as(id, async () => expect((await pool.query(ITEMS)).rows).toEqual(world.itemsOf(id)))
  }

  it.each([1, 4])('D1 pool of %i: mixed units, all at once', async (max) => {
    const pool = world.openPool({ max })
    const crossed: unknown[] = []
    const expected = new Map<string, string[]>(world.tenants.map((id) => [id, []]))
    await Promise.all(
      Array.from({ length: 150 }, async (_, unit) => {
        const id = world.tenants[(unit * 7) % 3] as string
        const name = `${max}-${String(unit).padStart(3, '0')}`
        const look = (rows: unknown): void => {
          if (JSON.stringify(rows) !== JSON.stringify(world.itemsOf(id))) crossed.push([id, rows])
        }
        await as(id, async () => {
          const insert = ['insert into note (unit, owner) values ($1, $2)', [name, id]] as const
          switch (unit % 5) {
            case 0:
              return look((await pool.query(ITEMS)).rows)
            case 1:
              expected.get(id)?.push(name)
              return pool.query(insert[0], [...insert[1]])
            case 2:
              expected.get(id)?.push(name)
              return pool.transaction(async (query) => {
                await query(insert[0], [...insert[1]])
                look((await query(ITEMS)).rows)
              })
            case 3:
              return pool
                .transaction(async (query) => {
                  await query(insert[0], [...insert[1]])
                  throw new Error('rolled back')
                })
                .catch(() => undefined)
            default:
              return pool.query('select 1 / 0').catch(() => undefined)
          }
        })
      }),
    )
    expect(crossed).toEqual([])
    for (const id of world.tenants) {
      const notes = (await world.notesOf(id)).filter(({ unit }) => unit.startsWith(`${max}-`))
      expect(notes).toEqual(
        expected
          .get(id)
          ?.sort()
          .map((unit) => ({ unit, owner: id })),
      )
    }
    await expectOwnRows(pool)
  })

  it('D2 a scope that is cancelled or times out: nothing runs, and the connection serves the next', async () => {
    const pool = world.openPool({ statementTimeoutMs: 250 })
    await as(acme, () =>
      expect(pool.query("select pg_sleep(3), 'x'")).rejects.toMatchObject({ code: '57014' }),
    )
    await expectOwnRows(pool)
    expect(pool.destroyedCount).toBe(0)
  })

  it('D3 released in a transaction, or in a failed one: destroyed, counted, nothing saved', async () => {
    const pool = world.openPool()
    for (const failing of [false, true]) {
      const before = pool.destroyedCount
      await as(acme, async () => {
        const client = await pool.connect()
        await client.query('begin')
        await client.query("insert into note (unit, owner) values ('open', 'x')")
        if (failing) await client.query('select 1 / 0').catch(() => undefined)
        client.release()
      })
      // The error of a statement arrives ahead of the end of its answer.
      await eventually(() => pool.destroyedCount === before + 1)
      await expectOwnRows(pool)
    }
    expect((await world.notesOf(acme)).filter(({ unit }) => unit === 'open')).toEqual([])
  })

  it('D4 a client after its release, and in another tenant, is refused', async () => {
    const pool = world.openPool({ max: 2 })
    const kept = await as(acme, async () => {
      const client = await pool.connect()
      await client.query('select 1')
      await as(globex, () =>
        expect(client.query(ITEMS)).rejects.toMatchObject({ code: 'ERR_TENANCY_CONTEXT_LOCKED' }),
      )
      client.release()
      return client
    })
    await as(globex, async () => {
      await expect(kept.query(ITEMS)).rejects.toMatchObject({
        code: 'ERR_TENANCY_USE_AFTER_RELEASE',
      })
    })
    await expectOwnRows(pool)
  })

  it('D5 statements that nobody awaited run as their own tenant or not at all', async () => {
    const pool = world.openPool()
    const settled: Promise<unknown>[] = []
    await as(acme, async () => {
      const client = await pool.connect()
      for (let unit = 0; unit < 5; unit++)
        settled.push(
          client
            .query('insert into note (unit, owner) values ($1, $2)', [`loose-${unit}`, acme])
            .catch(() => undefined),
        )
      client.release()
    })
    await expectOwnRows(pool)
    await Promise.all(settled)
    for (const id of world.tenants) {
      const loose = (await world.notesOf(id)).filter(({ unit }) => unit.startsWith('loose-'))
      if (id === acme) expect(new Set(loose.map(({ owner }) => owner)).size).toBeLessThanOrEqual(1)
      else expect(loose).toEqual([])
    }
  })

  it('D6 without a tenant nothing is sent, on no way', async () => {
    const pool = world.openPool()
    const opened = pool.totalCount
    for (const refused of [
      () => pool.query(ITEMS),
      () => pool.connect(),
      () => pool.transaction((query) => query(ITEMS)),
      () => pool.notify('orders'),
    ])
      await expect(refused()).rejects.toMatchObject({ code: 'ERR_TENANCY_CONTEXT_MISSING' })
    expect(pool.totalCount).toBe(opened)
  })

  it('D10 after a scope has ended, a statement without one sees nothing, and an empty tenant is none', async () => {
    const pool = world.openPool()
    await expectOwnRows(pool)
    // Behind the COMMIT the scope has ended, on the same session.
    await as(acme, () =>
      expect(pool.query(`${ITEMS}; commit; ${ITEMS}`)).rejects.toMatchObject({ code: '42P01' }),
    )
    await expectOwnRows(pool)
  })

  it('D11 identical ids and keys live side by side, and none leads to the neighbour', async () => {
    const pool = world.openPool()
    for (const id of world.tenants)
      await as(id, async () => {
        await pool.query('insert into part (id, item_id, owner) values (1, 1, $1)', [id])
        await expect(
          pool.query('insert into part (id, item_id, owner) values (2, 100, $1)', [id]),
        ).rejects.toMatchObject({ code: '23503' })
        await expect(
          pool.query('insert into item (id, owner) values (1, $1)', [id]),
        ).rejects.toMatchObject({ code: '23505' })
      })
    // The fourth item is globex's and zeta's: a key of acme does not reach it.
    await as(acme, () =>
      expect(
        pool.query('insert into part (id, item_id, owner) values (3, 4, $1)', [acme]),
      ).rejects.toMatchObject({ code: '23503' }),
    )
    await as(acme, async () => {
      await pool.query("update item set owner = owner || '!'")
      await pool.query('delete from part')
    })
    for (const id of [globex, world.tenants[2]])
      await as(id, async () => {
        expect((await pool.query(ITEMS)).rows).toEqual(world.itemsOf(id))
        expect((await pool.query('select owner from part')).rows).toEqual([{ owner: id }])
      })
    await as(acme, () => pool.query("update item set owner = rtrim(owner, '!')"))
    for (const id of world.tenants) await as(id, () => pool.query('delete from part'))
  })

  it('D12 what is injected reaches the neighbour only where the documentation says so', async () => {
    const pool = world.openPool()
    const foreign = world.itemsOf(globex).map(({ owner }) => owner)
    const attack = async (text: string): Promise<string[]> => {
      const result = await as(acme, () => pool.query(text)).catch(() => [])
      const rows = [result].flat().flatMap((one: { rows?: { owner?: string }[] }) => one.rows ?? [])
      return rows.flatMap(({ owner = '' }) => (foreign.includes(owner) ? [owner] : []))
    }
    const reached = {
      qualified: await attack(`select owner from ${world.nameOf(globex, 'item')}`),
      path: await attack(
        `select set_config('search_path', '"${globex}"', true); select owner from item`,
      ),
      setting: await attack(
        `select set_config('app.tenant_id', '${globex}', true); select owner from item`,
      ),
    }
    const open = strategy.acts === 'login'
    const all = (opens: boolean): string[] => (opens ? foreign : [])
    expect(reached).toEqual({
      qualified: all(open && strategy.isolation === 'schema'),
      path: all(open && strategy.isolation === 'schema'),
      setting: all(open && strategy.isolation === 'row'),
    })
    await expectOwnRows(pool)
  })

  it('D15 Kysely: builder, raw SQL, CTE, subquery and transactions are scoped', async () => {
    const pool = world.openPool({ max: 2 })
    const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
    for (const id of world.tenants)
      await as(id, async () => {
        const own = world.itemsOf(id)
        expect(
          await db.selectFrom('item').selectAll().select(['id', 'owner']).orderBy('id').execute(),
        ).toMatchObject(own)
        const { rows } = await sql<{
          owner: string
        }>`with mine as (select * from item) select owner from mine where id in (select id from item) order by id`.execute(
          db,
        )
        expect(rows.map(({ owner }) => owner)).toEqual(own.map(({ owner }) => owner))
        await db.transaction().execute(async (trx) => {
          await trx.insertInto('note').values({ unit: 'kysely', owner: id }).execute()
          expect(
            await trx.selectFrom('note').select('owner').where('unit', '=', 'kysely').execute(),
          ).toEqual([{ owner: id }])
        })
      })
    for (const id of world.tenants)
      expect((await world.notesOf(id)).filter(({ unit }) => unit === 'kysely')).toEqual([
        { unit: 'kysely', owner: id },
      ])
  })

  it('D4 temporary tables of a function are never those of the neighbour', async () => {
    const pool = world.openPool()
    for (let round = 0; round < 3; round++)
      for (const id of world.tenants)
        await as(id, async () => {
          // Roles that may not make temporary tables have none to leave.
          const strangers = await pool
            .query<{ strangers: number }>('select strangers($1)', [id])
            .then(
              ({ rows }) => rows[0]?.strangers,
              (error: { code?: string }) => error.code,
            )
          expect([0, '42501']).toContain(strangers)
        })
    await expectOwnRows(pool)
  })

  it('D18 a session for statements without a transaction is one of its own, and is gone afterwards', async () => {
    const direct = strategy.options?.pooler === undefined
    const pool = world.openPool()
    const before = pool.totalCount
    const session = as(acme, () =>
      pool.unsafeSession(
        async (client) => {
          const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
          expect((await client.query(ITEMS)).rows).toEqual(world.itemsOf(acme))
          return rows[0]?.pid
        },
        { reason: 'a test' },
      ),
    )
    // Past a pooler it needs a way that this world does not give.
    if (!direct) await expect(session).rejects.toSatisfy((error) => TenancyError.is(error))
    else expect(await session).toBeGreaterThan(0)
    expect(pool.totalCount).toBe(before)
    await expectOwnRows(pool)
  })

  it('D19 an error tells nothing of the neighbour', async () => {
    const pool = world.openPool()
    await as(globex, () =>
      pool.query("insert into note (unit, owner) values ('secret', 'x') on conflict do nothing"),
    )
    const message = await as(acme, () =>
      pool.query("insert into note (unit, owner) values ('secret', 'y'), ('secret', 'z')"),
    ).then(
      () => '',
      (error: unknown) => JSON.stringify([String(error), error]),
    )
    expect(message).toContain('23505')
    expect(message).not.toContain(globex)
  })

  it('pool.central is the one door, and says so', async () => {
    const pool = world.openPool()
    expect(pool.central).toBeInstanceOf(pg.Pool)
    const doors: string[] = []
    const stop = world.tenancy.events.on('isolation:bypassed', ({ door }) => doors.push(door))
    await as(acme, () => pool.central.query('select 1'))
    stop()
    expect(doors).toEqual(['pool.central'])
  })
})
