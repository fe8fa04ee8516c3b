import type { TenantPool } from '@partywall/postgres'
import { canary, createFaultProxy, type FaultProxy } from '@partywall/test-support'
import { Kysely, PostgresDialect } from 'kysely'
import type pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  COUNTS,
  createTenantDatabase,
  HOMELESS,
  itemsOf,
  type TenantDatabase,
  type TenantId,
} from './database-fixture.ts'

/** What goes over the wire, message by message (PostgreSQL manual, 53.7): P Parse, B Bind, D Describe, E Execute, S Sync, Q Query, C Close, H Flush. */
let world: TenantDatabase
let proxy: FaultProxy
let pool: TenantPool
const TENANTS: TenantId[] = ['acme', 'globex']
const as = <T>(tenantId: string, fn: () => Promise<T> | T): Promise<T> =>
  world.tenancy.run(tenantId, async () => fn())

beforeAll(async () => {
  world = await createTenantDatabase()
  proxy = await createFaultProxy(world.db.url, { record: true })
})
afterAll(async () => {
  await world[Symbol.asyncDispose]()
  await proxy[Symbol.asyncDispose]()
})
beforeEach(async () => {
  pool = world.openPool({ connectionString: proxy.url })
  // Twice: the scope statements of a first and of a later statement are prepared then.
  for (const id of TENANTS)
    await as(id, async () => {
      const client = await pool.connect()
      await client.query('select 1')
      await client.query('select $1::int', [1])
      client.release()
    })
  proxy.take()
  return () => pool.end()
})

/** Sends something and tells what went over the wire and how often the client had to wait. */
async function wireOf(
  fn: () => Promise<unknown>,
): Promise<{ sent: string[]; roundTrips: number; bodies: string }> {
  proxy.take()
  const { length } = proxy.messages
  const { roundTrips } = proxy
  await fn()
  return {
    sent: proxy.take(),
    roundTrips: proxy.roundTrips - roundTrips,
    bodies: proxy.messages
      .slice(length)
      .map(({ body }) => body.toString('latin1'))
      .join('\n'),
  }
}

const ONE_SHOTS: Record<string, () => Promise<pg.QueryResult>> = {
  'text without parameters': () => pool.query('select id, owner from item order by id'),
  'text with parameters': () =>
    pool.query('select id, owner from item where id < $1 order by id', [99]),
  'a named statement': () =>
    pool.query({
      name: 'all',
      text: 'select id, owner from item where id < $1 order by id',
      values: [99],
    }),
  Kysely: async () =>
    ({
      rows: await new Kysely<{ item: { id: number; owner: string } }>({
        dialect: new PostgresDialect({ pool }),
      })
        .selectFrom('item')
        .selectAll()
        .where('id', '<', 99)
        .orderBy('id')
        .execute(),
    }) as pg.QueryResult,
}

describe('S1 one round trip for a scoped statement', () => {
  it.each(Object.entries(ONE_SHOTS))(
    'D2 S1 %s: one write of scope and statement, with one end',
    async (_name, send) => {
      for (let n = 0; n < 2; n++)
        for (const id of TENANTS) {
          let rows: unknown
          const wire = await wireOf(async () => ({ rows } = await as(id, send)))
          expect(rows).toEqual(itemsOf(id, COUNTS[id]))
          expect(wire.roundTrips).toBe(1)
          expect(wire.sent).toHaveLength(1)
          // The scope comes first, and what ends the implicit transaction comes once and last. Two ends would be two transactions, and the second fails open.
          expect(wire.sent[0]).toMatch(/^BE[^SQ]*S$/)
          expect(wire.bodies).toContain(`"${id}", "public", pg_temp`)
          expect(TENANTS.filter((other) => wire.bodies.includes(other))).toEqual([id])
        }
    },
  )

  it('D2 S1 text of several statements: one Query with the scope in front', async () => {
    for (const id of TENANTS) {
      const wire = await wireOf(() => as(id, () => pool.query('select 1; select owner from item')))
      expect(wire).toMatchObject({ sent: ['Q'], roundTrips: 1 })
      expect(wire.bodies).toMatch(
        new RegExp(
          `^execute __partywall_\\w+\\('"${id}", "public", pg_temp'[^;]*\\n;select 1; select owner from item`,
        ),
      )
    }
  })

  it('D2 S1 a cursor: the scope travels with its Parse, and the transaction ends with the cursor', async () => {
    for (const id of TENANTS)
      await as(id, async () => {
        const client = await pool.connect()
        const wire = await wireOf(async () => {
          const cursor = client.query(new Cursor('select owner from item order by id'))
          expect(await cursor.read(1)).toEqual([{ owner: canary(id, 1) }])
          expect(await cursor.read(1)).toEqual([{ owner: canary(id, 2) }])
          await cursor.close()
        })
        expect(wire.sent.join('')).toMatch(/^BEPBDH[^SQ]*S$/)
        client.release()
      })
  })
})

describe('S1 transactions', () => {
  it('S1 two statements cost three round trips: BEGIN and scope travel with the first', async () => {
    for (const id of TENANTS) {
      const wire = await wireOf(() =>
        as(id, () =>
          pool.transaction(async (query) => {
            expect((await query('select owner from item where id = $1', [1])).rows).toEqual([
              { owner: canary(id, 1) },
            ])
            expect((await query('select owner from item where id = $1', [2])).rows).toEqual([
              { owner: canary(id, 2) },
            ])
          }),
        ),
      )
      expect(wire.roundTrips).toBe(3)
      expect(wire.sent).toHaveLength(3)
      expect(wire.sent[0]).toBe('PBEBEPBDES')
      // Nothing is added inside of a transaction: in a failed one it would swallow the ROLLBACK.
      // The second time, a text gets a name; C makes sure that the name is free.
      expect(wire.sent.slice(1)).toEqual(['CPBDES', expect.stringMatching(/^(Q|PBDES)$/)])
      expect(wire.bodies.indexOf('begin')).toBeLessThan(wire.bodies.indexOf(`"${id}"`))
    }
  })

  it('S1 an isolation level goes in front of the scope, and Kysely costs the same', async () => {
    const db = new Kysely<{ item: { id: number; owner: string } }>({
      dialect: new PostgresDialect({ pool }),
    })
    for (const id of TENANTS) {
      const wire = await wireOf(() =>
        as(id, () =>
          db
            .transaction()
            .setIsolationLevel('serializable')
            .execute(async (trx) => {
              for (const n of [1, 2])
                expect(
                  await trx.selectFrom('item').selectAll().where('id', '=', n).execute(),
                ).toEqual([{ id: n, owner: canary(id, n) }])
            }),
        ),
      )
      expect(wire.roundTrips).toBe(3)
      expect(wire.bodies.indexOf('start transaction isolation level serializable')).toBeLessThan(
        wire.bodies.indexOf(`"${id}"`),
      )
    }
  })

  it('S1 a transaction in which nothing happens costs nothing', async () => {
    const wire = await wireOf(() => as('acme', () => pool.transaction(() => undefined)))
    expect(wire).toMatchObject({ sent: [], roundTrips: 0 })
    expect((await wireOf(() => as('globex', () => pool.query('select 1')))).sent).toHaveLength(1)
  })
})

describe('what must not be sent', () => {
  it('D6 D7 nothing outside of a tenant, and for a missing schema one batch that does not run', async () => {
    expect((await wireOf(() => pool.query('select 1').catch(() => undefined))).sent).toEqual([])
    const wire = await wireOf(() =>
      as(HOMELESS, () =>
        pool.query("insert into probe.effect (what) values ('x')").catch(() => undefined),
      ),
    )
    expect(wire.roundTrips).toBe(1)
    expect(await world.effects()).toEqual([])
  })

  it('D3 a checkout that held a BEGIN and was released leaves the wire silent', async () => {
    const wire = await wireOf(() =>
      as('acme', async () => {
        const client = await pool.connect()
        await client.query('begin')
        client.release()
      }),
    )
    expect(wire.sent).toEqual([])
    expect(
      (await as('globex', () => pool.query('select owner from item where id = 1'))).rows,
    ).toEqual([{ owner: canary('globex', 1) }])
  })

  it('F6 a network that breaks in the middle of a transaction fails it, and the next unit works', async () => {
    await world.db.query('truncate acme.log')
    await expect(
      as('acme', () =>
        pool.transaction(async (query) => {
          await query("insert into log values ('cut', 'canary:acme:cut')")
          proxy.end('close')
          await query('select 1')
        }),
      ),
    ).rejects.toThrow(/terminated|closed|ECONNRESET|EPIPE|not queryable/)
    expect(
      (await as('globex', () => pool.query('select owner from item where id = $1', [1]))).rows,
    ).toEqual([{ owner: canary('globex', 1) }])
    expect((await world.db.query('select * from acme.log')).rows).toEqual([])
  })
})
