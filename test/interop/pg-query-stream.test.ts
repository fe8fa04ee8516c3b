import type pg from 'pg'
import QueryStream from 'pg-query-stream'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { COUNTS, createTenantDatabase, type TenantDatabase } from '../isolation/database-fixture.ts'
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

/** Takes the rows one by one; small batches, so that the server is asked for more in between. */
async function readAll(client: pg.PoolClient, limit = Number.POSITIVE_INFINITY): Promise<Item[]> {
  const items: Item[] = []
  for await (const row of client.query(new QueryStream(ITEMS, [99], { batchSize: 1 }))) {
    items.push(row as Item)
    if (items.length === limit) break
  }
  return items
}

describeLibrary(
  () => world,
  (pool) => ({
    readItems: () => withClient(pool, readAll),
    writeLog: ({ unit, owner }, check) =>
      withClient(pool, async (client) => {
        await client.query('begin')
        try {
          const insert = new QueryStream('insert into log values ($1, $2) returning owner', [
            unit,
            owner,
          ])
          expect(await client.query(insert).toArray()).toEqual([{ owner }])
          check(await readAll(client))
          await client.query('commit')
        } catch (error) {
          await client.query('rollback')
          throw error
        }
      }),
  }),
)

describe.each(POOL_SIZES)('pg-query-stream over a pool of %i', (max) => {
  it('one that is left early gives its connection back', async () => {
    const pool = openPool(world, max)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          withClient(pool, async (client) => {
            expect(await readAll(client, 1)).toEqual(ownItems(world).slice(0, 1))
            expect(await readAll(client)).toEqual(ownItems(world))
          }),
        ),
      ),
    )
    await expectIdle(world, pool)
  })

  it('its events run in the tenant of their caller', async () => {
    const pool = openPool(world, max)
    await as('zeta', () => pool.query('select 1'))
    const heard = await as('acme', () =>
      withClient(pool, async (client) => {
        const heard: unknown[] = []
        const stream = client.query(new QueryStream(ITEMS, [99], { batchSize: 1 }))
        stream.on('data', () => heard.push(world.tenancy.current()?.tenant.id))
        await new Promise<void>((resolve) => {
          stream.on('close', () => {
            heard.push(world.tenancy.current()?.tenant.id)
            resolve()
          })
        })
        return heard
      }),
    )
    expect(heard).toEqual(Array.from({ length: COUNTS.acme + 1 }, () => 'acme'))
    await expectIdle(world, pool)
  })

  it('a stream on a client of another tenant is refused', async () => {
    const pool = openPool(world, max)
    await as('acme', () =>
      withClient(pool, async (client) => {
        await client.query('begin')
        expect(await refusalOf(() => as('globex', () => readAll(client)))).toBe(
          'ERR_TENANCY_CONTEXT_LOCKED',
        )
        expect(await readAll(client)).toEqual(ownItems(world))
        await client.query('rollback')
      }),
    )
    await expectIdle(world, pool)
  })
})
