import { defineEntity, MikroORM } from '@mikro-orm/postgresql'
import type { TenantPool } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import { PostgresDialect } from 'kysely'
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
import { createTenantOrm } from './recipes/mikro-orm.ts'

const ItemEntity = defineEntity({
  name: 'ItemEntity',
  tableName: 'item',
  properties: (p) => ({ id: p.integer().primary(), owner: p.text() }),
})
const LogEntity = defineEntity({
  name: 'LogEntity',
  tableName: 'log',
  properties: (p) => ({ unit: p.text().primary(), owner: p.text() }),
})

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

const entities = [ItemEntity, LogEntity]
const mikroOver = (pool: TenantPool) => createTenantOrm(world.tenancy, pool, { entities })

const plain = (items: readonly Item[]): Item[] => items.map(({ id, owner }) => ({ id, owner }))

describeLibrary(
  () => world,
  (pool) => {
    const orm = mikroOver(pool)
    return {
      readItems: async () =>
        plain(await orm.em.fork().find(ItemEntity, {}, { orderBy: { id: 'asc' } })),
      writeLog: (entry, check) =>
        orm.em.fork().transactional(async (em) => {
          em.create(LogEntity, entry)
          await em.flush()
          check(plain(await em.find(ItemEntity, {}, { orderBy: { id: 'asc' } })))
        }),
    }
  },
)

describe.each(POOL_SIZES)('MikroORM over a pool of %i', (max) => {
  it('raw SQL, query builders and streams stay in their tenants', async () => {
    const pool = openPool(world, max)
    const orm = mikroOver(pool)
    await Promise.all(
      [...TENANTS, ...TENANTS].map((id) =>
        as(id, async () => {
          const em = orm.em.fork()
          expect(
            await em.execute('select id, owner from item where id <= ? order by id', [99]),
          ).toEqual(ownItems(world))
          expect(await em.createQueryBuilder(ItemEntity).orderBy({ id: 'asc' }).execute()).toEqual(
            ownItems(world),
          )
          expect(
            await em
              .getKysely()
              .selectFrom('item' as never)
              .selectAll()
              .orderBy('id' as never)
              .execute(),
          ).toEqual(ownItems(world))
          const streamed = []
          for await (const { id, owner } of em.stream(ItemEntity, { orderBy: { id: 'asc' } }))
            streamed.push({ id, owner })
          expect(streamed).toEqual(ownItems(world))
          expect(await em.count(ItemEntity)).toBe(COUNTS[id])
        }),
      ),
    )
    await expectIdle(world, pool)
  })

  it('a nested transaction is a savepoint of its own tenant', async () => {
    const pool = openPool(world, max)
    const orm = mikroOver(pool)
    for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          orm.em.fork().transactional(async (em) => {
            em.create(LogEntity, { unit: 'outer', owner: canary(id, 'outer') })
            await em.flush()
            const inner = em.transactional(async (nested) => {
              nested.create(LogEntity, { unit: 'inner', owner: canary(id, 'inner') })
              await nested.flush()
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

  it('an entity manager, and a transaction, is refused to other tenants', async () => {
    const pool = openPool(world, max)
    const orm = mikroOver(pool)
    // One that was made outside of every tenant belongs to the first that uses it.
    const kept = orm.em.fork()
    await as('acme', async () => {
      expect(await kept.findOneOrFail(ItemEntity, { id: 1 })).toMatchObject({
        owner: canary('acme', 1),
      })
      kept.create(LogEntity, { unit: 'pending', owner: canary('acme', 'pending') })
    })
    for (const use of [
      () => kept.findOne(ItemEntity, { id: 1 }),
      () => kept.find(ItemEntity, {}),
      () => kept.flush(),
      () => kept.execute('select 1'),
      () => kept.transactional(() => Promise.resolve()),
      () => kept.fork({ clear: false }).findOne(ItemEntity, { id: 1 }),
    ])
      expect(await refusalOf(() => as<unknown>('globex', use))).toBe('ERR_TENANCY_CONTEXT_LOCKED')
    expect((await logOf(world, 'globex')).filter(({ unit }) => unit === 'pending')).toEqual([])
    await as('acme', () =>
      orm.em.fork().transactional(async (em) => {
        await em.findOneOrFail(ItemEntity, { id: 1 })
        // MikroORM carries the transaction through everything asynchronous by itself.
        for (const use of [
          () => em.findOne(ItemEntity, { id: 1 }),
          () => em.execute('select id from item'),
          () => orm.em.findOne(ItemEntity, { id: 1 }),
        ])
          expect(await refusalOf(() => as<unknown>('globex', use))).toBe(
            'ERR_TENANCY_CONTEXT_LOCKED',
          )
      }),
    )
    await expectIdle(world, pool)
  })

  it('MikroORM itself refuses its global entity manager', async () => {
    const orm = mikroOver(openPool(world, max))
    await as('acme', () =>
      expect(orm.em.findOne(ItemEntity, { id: 1 })).rejects.toThrow(
        'global EntityManager instance methods',
      ),
    )
  })
})

describe('what the recipe is for', () => {
  /** MikroORM as its documentation has it, over the same pool. */
  const plainOrm = (pool: TenantPool) =>
    new MikroORM({
      driverOptions: new PostgresDialect({ pool }),
      dbName: world.db.name,
      ensureDatabase: false,
      entities,
    })

  it('an entity manager that is kept answers from the identity map of another tenant', async () => {
    const kept = plainOrm(openPool(world, 1)).em.fork()
    await as('acme', () => kept.findOneOrFail(ItemEntity, { id: 1 }))
    expect(await as('globex', () => kept.findOneOrFail(ItemEntity, { id: 1 }))).toMatchObject({
      owner: canary('acme', 1),
    })
  })

  it('a result cache answers all tenants with the rows of the first, unless its keys carry the tenant', async () => {
    const readCached = async (orm: MikroORM): Promise<unknown[]> => {
      const seen = []
      for (let round = 0; round < 2; round++)
        for (const id of TENANTS)
          seen.push(
            await as(id, async () => [
              plain(
                await orm.em.fork().find(ItemEntity, {}, { cache: 5_000, orderBy: { id: 'asc' } }),
              ),
              await orm.em.fork().count(ItemEntity, {}, { cache: ['items', 5_000] }),
            ]),
          )
      await orm.config.getResultCacheAdapter().clear()
      return seen
    }
    const own = [...TENANTS, ...TENANTS].map((id) => [itemsOf(id, COUNTS[id]), COUNTS[id]])
    expect(await readCached(plainOrm(openPool(world, 1)))).toEqual(own.map(() => own[0]))
    expect(await readCached(mikroOver(openPool(world, 1)))).toEqual(own)
  })

  it('the schema generator would drop the schemas of the other tenants, and is refused', async () => {
    const plainOne = plainOrm(openPool(world, 1))
    // Not run here.
    const sql = await as('acme', () => plainOne.schema.getUpdateSchemaSQL())
    expect(sql).toContain('drop table if exists "globex"."item" cascade')
    expect(sql).toContain('drop schema if exists "zeta"')
    const pool = openPool(world, 1)
    const orm = mikroOver(pool)
    for (const call of [
      () => orm.schema.update(),
      () => orm.schema.getUpdateSchemaSQL(),
      () => orm.schema.create(),
      () => orm.schema.drop(),
      () => orm.schema.refresh(),
      () => orm.schema.ensureDatabase(),
    ])
      expect(await refusalOf(() => as<unknown>('acme', call))).toBe(
        'ERR_TENANCY_ISOLATION_UNSUPPORTED',
      )
    expect(await as('globex', () => orm.em.fork().count(ItemEntity))).toBe(COUNTS.globex)
    await expectIdle(world, pool)
  })
})
