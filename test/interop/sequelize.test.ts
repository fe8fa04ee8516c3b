import type { TenantPool } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import { DataTypes, QueryTypes, type Sequelize, type Transaction } from 'sequelize'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  COUNTS,
  createTenantDatabase,
  itemsOf,
  type TenantDatabase,
} from '../isolation/database-fixture.ts'
import {
  actAs,
  describeLibrary,
  expectIdle,
  type Item,
  logOf,
  openPool,
  ownItems,
  POOL_SIZES,
  refusalOf,
  TENANTS,
} from './library-contract.ts'
import { createTenantSequelize } from './recipes/sequelize.ts'

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

function sequelizeOver(pool: TenantPool) {
  const db = createTenantSequelize(pool, {
    logging: false,
    define: { timestamps: false, freezeTableName: true },
  })
  const items = db.define('item', {
    id: { type: DataTypes.INTEGER, primaryKey: true },
    owner: DataTypes.TEXT,
  })
  const log = db.define('log', {
    unit: { type: DataTypes.TEXT, primaryKey: true },
    owner: DataTypes.TEXT,
  })
  const readItems = async (transaction?: Transaction): Promise<Item[]> =>
    (await items.findAll({
      order: ['id'],
      raw: true,
      ...(transaction && { transaction }),
    })) as unknown as Item[]
  return { db, items, log, readItems }
}

const rawItems = (db: Sequelize): Promise<Item[]> =>
  db.query<Item>('select id, owner from item where id <= $1 order by id', {
    bind: [99],
    type: QueryTypes.SELECT,
  })

describeLibrary(
  () => world,
  (pool) => {
    const { db, log, readItems } = sequelizeOver(pool)
    return {
      readItems: () => readItems(),
      writeLog: (entry, check) =>
        db.transaction(async (transaction) => {
          await log.create({ ...entry }, { transaction })
          check(await readItems(transaction))
        }),
    }
  },
)

describe.each(POOL_SIZES)('Sequelize over a pool of %i', (max) => {
  it('models and raw SQL serve every tenant that uses them', async () => {
    const pool = openPool(world, max)
    const { db, items, log } = sequelizeOver(pool)
    for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, async () => {
          expect(await rawItems(db)).toEqual(ownItems(world))
          expect(await items.count()).toBe(COUNTS[id])
          await log.bulkCreate([{ unit: 'a', owner: canary(id, 'a') }])
          await log.upsert({ unit: 'a', owner: canary(id, 'b') })
          expect(
            await log.findOrCreate({ where: { unit: 'a' }, defaults: { owner: 'nobody' } }),
          ).toMatchObject([{ owner: canary(id, 'b') }, false])
        }),
      ),
    )
    for (const id of TENANTS)
      expect(await logOf(world, id)).toEqual([{ unit: 'a', owner: canary(id, 'b') }])
    await expectIdle(world, pool)
  })

  it('a nested transaction is a savepoint of its own tenant', async () => {
    const pool = openPool(world, max)
    const { db, log } = sequelizeOver(pool)
    for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          db.transaction(async (transaction) => {
            await log.create({ unit: 'outer', owner: canary(id, 'outer') }, { transaction })
            const inner = db.transaction({ transaction }, async (nested) => {
              await log.create(
                { unit: 'inner', owner: canary(id, 'inner') },
                { transaction: nested },
              )
              throw new Error('not this one')
            })
            await expect(inner).rejects.toThrow('not this one')
          }),
        ),
      ),
    )
    for (const id of TENANTS)
      expect(await logOf(world, id)).toEqual([{ unit: 'outer', owner: canary(id, 'outer') }])
    await expectIdle(world, pool)
  })

  it('a transaction is refused to other tenants, and after its end', async () => {
    const pool = openPool(world, max)
    const { db, readItems } = sequelizeOver(pool)
    let kept: Transaction | undefined
    await as('acme', () =>
      db.transaction(async (transaction) => {
        kept = transaction
        for (let n = 0; n < 2; n++) {
          expect(await refusalOf(() => as('globex', () => readItems(transaction)))).toBe(
            'ERR_TENANCY_CONTEXT_LOCKED',
          )
          expect(await readItems(transaction)).toEqual(itemsOf('acme', COUNTS.acme))
        }
      }),
    )
    for (const id of TENANTS)
      await as(id, () =>
        expect(readItems(kept)).rejects.toThrow('commit has been called on this transaction'),
      )
    await expectIdle(world, pool)
  })

  it('close() leaves the pool alone', async () => {
    const pool = openPool(world, max)
    const { db } = sequelizeOver(pool)
    await as('acme', () => rawItems(db))
    await db.close()
    await as('globex', async () =>
      expect((await pool.query('select id, owner from item order by id')).rows).toEqual(
        ownItems(world),
      ),
    )
  })

  it('sync() creates the tables of each tenant, and does not see those of the others', async () => {
    const pool = openPool(world, max)
    const { db } = sequelizeOver(pool)
    const rates = db.define('rates', { id: { type: DataTypes.INTEGER, primaryKey: true } })
    for (const id of TENANTS)
      await as(id, async () => {
        await rates.sync()
        await rates.sync()
        await rates.create({ id: COUNTS[id] })
        for (const alter of [
          () => rates.sync({ alter: true }),
          () => db.sync({ alter: { drop: false } }),
        ])
          expect(await refusalOf(alter)).toBe('ERR_TENANCY_ISOLATION_UNSUPPORTED')
      })
    for (const id of TENANTS) {
      expect((await world.db.query(`select id from ${id}.rates`)).rows).toEqual([
        { id: COUNTS[id] },
      ])
      await as(id, () => rates.drop())
    }
    expect((await world.db.query("select from pg_class where relname = 'rates'")).rowCount).toBe(0)
    await expectIdle(world, pool)
  })
})
