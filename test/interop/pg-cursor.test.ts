import { canary } from '@partywall/test-support'
import type pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  COUNTS,
  createTenantDatabase,
  HOMELESS,
  type TenantDatabase,
} from '../isolation/database-fixture.ts'
import {
  actAs,
  describeLibrary,
  expectIdle,
  type Item,
  openPool,
  ownItems,
  POOL_SIZES,
  refusalOf,
  TENANTS,
  withClient,
} from './library-contract.ts'

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
beforeEach(() => {
  world.destroyed.length = 0
})
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

const ITEMS = 'select id, owner from item where id <= $1 order by id'

/** Reads to the end, two rows at a time. */
async function readAll(client: pg.PoolClient): Promise<Item[]> {
  const cursor = client.query(new Cursor<Item>(ITEMS, [99]))
  const items: Item[] = []
  for (;;) {
    const rows = await cursor.read(2)
    if (rows.length === 0) return items
    items.push(...rows)
  }
}

describeLibrary(
  () => world,
  (pool) => ({
    readItems: () => withClient(pool, readAll),
    writeLog: ({ unit, owner }, check) =>
      withClient(pool, async (client) => {
        await client.query('begin')
        try {
          const written = client.query(
            new Cursor<{ owner: string }>('insert into log values ($1, $2) returning owner', [
              unit,
              owner,
            ]),
          )
          expect(await written.read(5)).toEqual([{ owner }])
          await written.close()
          check(await readAll(client))
          await client.query('commit')
        } catch (error) {
          await client.query('rollback')
          throw error
        }
      }),
  }),
)

describe.each(POOL_SIZES)('pg-cursor over a pool of %i', (max) => {
  it('several cursors of one client, closed early, keep to their tenant', async () => {
    const pool = openPool(world, max)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          withClient(pool, async (client) => {
            for (let n = 0; n < 3; n++) {
              const cursor = client.query(new Cursor<Item>(ITEMS, [99]))
              expect(await cursor.read(1)).toEqual([{ id: 1, owner: canary(id, 1) }])
              await cursor.close()
            }
            expect(await readAll(client)).toEqual(ownItems(world))
          }),
        ),
      ),
    )
    await expectIdle(world, pool)
  })

  it('its callbacks run in the tenant of their caller', async () => {
    const pool = openPool(world, max)
    await as('zeta', () => pool.query('select 1'))
    const tenantId = await as('acme', () =>
      withClient(pool, async (client) => {
        const cursor = client.query(new Cursor(ITEMS, [99]))
        const heard = await new Promise((resolve) => {
          cursor.read(9, () => resolve(world.tenancy.current()?.tenant.id))
        })
        await cursor.close()
        return heard
      }),
    )
    expect(tenantId).toBe('acme')
    await expectIdle(world, pool)
  })

  it('a cursor on a client of another tenant, or of one without a schema, is refused', async () => {
    const pool = openPool(world, max)
    await as('acme', () =>
      withClient(pool, async (client) => {
        await client.query('begin')
        expect(await refusalOf(() => as('globex', () => readAll(client)))).toBe(
          'ERR_TENANCY_CONTEXT_LOCKED',
        )
        expect(await readAll(client)).toHaveLength(COUNTS.acme)
        await client.query('rollback')
      }),
    )
    expect(await refusalOf(() => as(HOMELESS, () => withClient(pool, readAll)))).toBe(
      'ERR_TENANCY_SCHEMA_MISSING',
    )
    await expectIdle(world, pool)
  })

  it('one that is left open costs its connection, and reaches nobody', async () => {
    const pool = openPool(world, max)
    await as('acme', () =>
      withClient(pool, async (client) => {
        const cursor = client.query(new Cursor<Item>(ITEMS, [99]))
        expect(await cursor.read(1)).toHaveLength(1)
      }),
    )
    expect(world.destroyed).toEqual([{ tenantId: 'acme', reason: 'an unfinished statement' }])
    await as('globex', async () => expect(await withClient(pool, readAll)).toEqual(ownItems(world)))
  })
})
