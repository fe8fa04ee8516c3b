import { canary } from '@partywall/test-support'
import { sql } from '@pgtyped/runtime'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTenantDatabase, type TenantDatabase } from '../isolation/database-fixture.ts'
import {
  actAs,
  describeLibrary,
  expectIdle,
  type Item,
  type LogEntry,
  logOf,
  openPool,
  ownItems,
  POOL_SIZES,
  refusalOf,
  TENANTS,
} from './library-contract.ts'

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

// The types are what its code generator would write.
const itemsUpTo = sql<{ params: { max: number }; result: Item }>`
  select id, owner from item where id <= $max order by id`
const addEntries = sql<{ params: { entries: readonly LogEntry[] }; result: LogEntry }>`
  insert into log (unit, owner) values $$entries(unit, owner) returning unit, owner`

describeLibrary(
  () => world,
  (pool) => ({
    readItems: () => itemsUpTo.run({ max: 99 }, pool),
    writeLog: async (entry, check) => {
      const client = await pool.connect()
      try {
        await client.query('begin')
        await addEntries.run({ entries: [entry] }, client)
        check(await itemsUpTo.run({ max: 99 }, client))
        await client.query('commit')
      } catch (error) {
        await client.query('rollback')
        throw error
      } finally {
        client.release()
      }
    },
  }),
)

describe.each(POOL_SIZES)('pgtyped over a pool of %i', (max) => {
  it('queries run in pool.transaction, and a client of another tenant is refused', async () => {
    const pool = openPool(world, max)
    for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          pool.transaction(async (query) => {
            const entry = { unit: 'a', owner: canary(id, 'a') }
            expect(await addEntries.run({ entries: [entry] }, { query })).toEqual([entry])
            expect(await itemsUpTo.run({ max: 99 }, { query })).toEqual(ownItems(world))
          }),
        ),
      ),
    )
    for (const id of TENANTS)
      expect(await logOf(world, id)).toEqual([{ unit: 'a', owner: canary(id, 'a') }])
    await as('acme', async () => {
      const client = await pool.connect()
      expect(await refusalOf(() => as('globex', () => itemsUpTo.run({ max: 99 }, client)))).toBe(
        'ERR_TENANCY_CONTEXT_LOCKED',
      )
      client.release()
    })
    await expectIdle(world, pool)
  })
})
