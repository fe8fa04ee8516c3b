import type { TenantPool } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import { DataSource, EntitySchema, type MigrationInterface, type QueryRunner } from 'typeorm'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
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
  type LogEntry,
  logOf,
  openPool,
  ownItems,
  POOL_SIZES,
  refusalOf,
  TENANTS,
} from './library-contract.ts'
import { createTenantDataSource } from './recipes/typeorm.ts'

const ItemEntity = new EntitySchema<Item>({
  name: 'item',
  columns: { id: { type: 'int', primary: true }, owner: { type: 'text' } },
})
const LogEntity = new EntitySchema<LogEntry>({
  name: 'log',
  columns: { unit: { type: 'text', primary: true }, owner: { type: 'text' } },
})

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

type Options = Parameters<typeof createTenantDataSource>[2]
async function typeormOver(pool: TenantPool, options: Options = {}): Promise<DataSource> {
  const source = await createTenantDataSource(world.tenancy, pool, {
    entities: [ItemEntity, LogEntity],
    ...options,
  }).initialize()
  onTestFinished(async () => {
    if (source.isInitialized) await source.destroy()
  })
  return source
}

describeLibrary(
  () => world,
  async (pool) => {
    const source = await typeormOver(pool)
    return {
      readItems: () => source.getRepository(ItemEntity).find({ order: { id: 'asc' } }),
      writeLog: (entry, check) =>
        source.transaction('SERIALIZABLE', async (manager) => {
          await manager.insert(LogEntity, entry)
          check(await manager.find(ItemEntity, { order: { id: 'asc' } }))
        }),
    }
  },
)

describe.each(POOL_SIZES)('TypeORM over a pool of %i', (max) => {
  it('kept repositories, query builders, raw SQL and streams stay in their tenants', async () => {
    const pool = openPool(world, max)
    const source = await typeormOver(pool)
    // Made in one tenant, kept, and used in all.
    const [repository, builder] = await as('zeta', () =>
      Promise.resolve([
        source.getRepository(ItemEntity),
        source
          .createQueryBuilder(ItemEntity, 'item')
          .where('item.id <= :max', { max: 99 })
          .orderBy('item.id'),
      ] as const),
    )
    await Promise.all(
      [...TENANTS, ...TENANTS].map((id) =>
        as(id, async () => {
          expect(await repository.find({ order: { id: 'asc' } })).toEqual(ownItems(world))
          expect(await builder.clone().getMany()).toEqual(ownItems(world))
          expect(
            await source.query('select id, owner from item where id <= $1 order by id', [99]),
          ).toEqual(ownItems(world))
          expect(
            await source.sql`select id, owner from item where id <= ${99} order by id`,
          ).toEqual(ownItems(world))
          const streamed: unknown[] = []
          for await (const row of await builder.clone().stream()) streamed.push(row)
          expect(streamed).toEqual(
            ownItems(world).map(({ id, owner }) => ({ item_id: id, item_owner: owner })),
          )
        }),
      ),
    )
    await expectIdle(world, pool)
  })

  it('a nested transaction is a savepoint of its own tenant', async () => {
    const pool = openPool(world, max)
    const source = await typeormOver(pool)
    for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          source.transaction(async (manager) => {
            await manager.insert(LogEntity, { unit: 'outer', owner: canary(id, 'outer') })
            const inner = manager.transaction(async (nested) => {
              await nested.insert(LogEntity, { unit: 'inner', owner: canary(id, 'inner') })
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

  it('a transaction, and a query runner, is refused to other tenants and after its end', async () => {
    const pool = openPool(world, max)
    const source = await typeormOver(pool)
    let kept: (() => Promise<unknown>) | undefined
    await as('acme', () =>
      source.transaction(async (manager) => {
        kept = () => manager.find(ItemEntity, { order: { id: 'asc' } })
        for (let n = 0; n < 2; n++) {
          expect(await refusalOf(() => as('globex', () => kept?.()))).toBe(
            'ERR_TENANCY_CONTEXT_LOCKED',
          )
          expect(await kept()).toEqual(itemsOf('acme', COUNTS.acme))
        }
      }),
    )
    for (const id of TENANTS)
      await as(id, () => expect(kept?.()).rejects.toThrow('Query runner already released'))
    const runner = source.createQueryRunner()
    await as('acme', () => runner.query('select 1'))
    expect(await refusalOf(() => as('globex', () => runner.query('select 1')))).toBe(
      'ERR_TENANCY_CONTEXT_LOCKED',
    )
    await runner.release()
    await expectIdle(world, pool)
  })

  it('destroy() leaves the pool alone', async () => {
    const pool = openPool(world, max)
    const source = await typeormOver(pool)
    await as('acme', () => source.query('select 1'))
    await source.destroy()
    expect(pool.ending).toBe(false)
    await expectIdle(world, pool)
  })
})

class AddOrders1700000000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query('create table orders (id int primary key)')
  }
  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table orders')
  }
}

const homesOf = async (table: string): Promise<string[]> =>
  (
    await world.db.query<{ schema: string }>(
      "select relnamespace::regnamespace::text as schema from pg_class where relname = $1 and relkind = 'r' order by 1",
      [table],
    )
  ).rows.map(({ schema }) => schema)

describe('per tenant', () => {
  it.each(['all', 'each', 'none'] as const)(
    'runMigrations and undoLastMigration in transactions: %s',
    async (transaction) => {
      const pool = openPool(world, 4)
      const source = await typeormOver(pool, { migrations: [AddOrders1700000000000] })
      const run = () => source.runMigrations({ transaction })
      const results = await Promise.all(TENANTS.map((id) => as(id, run)))
      expect(results.map((done) => done.length)).toEqual([1, 1, 1])
      expect(await as('acme', run)).toEqual([])
      for (const table of ['orders', 'migrations']) expect(await homesOf(table)).toEqual(TENANTS)
      await as('globex', () => source.undoLastMigration({ transaction }))
      expect(await homesOf('orders')).toEqual(['acme', 'zeta'])
      expect(await as('globex', run)).toHaveLength(1)
      for (const id of TENANTS) await world.db.query(`drop table ${id}.orders, ${id}.migrations`)
      await expectIdle(world, pool)
    },
  )

  const Rates = new EntitySchema<{ id: number; name: string; kind: string }>({
    name: 'rates',
    columns: {
      id: { type: 'int', primary: true, generated: true },
      name: { type: 'text' },
      kind: { type: 'enum', enum: ['plain', 'fancy'] },
    },
    indices: [{ columns: ['name'] }],
  })
  const columnsOf = async (): Promise<string[]> =>
    (
      await world.db.query<{ column: string }>(
        "select concat(table_schema, '.', column_name) as column from information_schema.columns where table_name = 'rates' order by 1",
      )
    ).rows.map(({ column }) => column)

  it('synchronize() creates and changes the tables of its own tenant alone', async () => {
    const pool = openPool(world, 1)
    const source = await typeormOver(pool, { entities: [Rates] })
    await as('acme', () => source.synchronize())
    expect(await columnsOf()).toEqual(['acme.id', 'acme.kind', 'acme.name'])
    await as('globex', () => source.synchronize())
    await world.db.query('alter table acme.rates drop column name')
    // What globex has is no reason to leave acme as it is.
    await as('acme', () => source.synchronize())
    expect(await columnsOf()).toEqual(
      ['acme', 'globex'].flatMap((id) => ['id', 'kind', 'name'].map((name) => `${id}.${name}`)),
    )
    await as('acme', () =>
      source.getRepository(Rates).insert({ name: canary('acme', 1), kind: 'fancy' }),
    )
    expect(await as('globex', () => source.getRepository(Rates).count())).toBe(0)
    // Drops everything first, of a tenant that has little to lose.
    await world.db.query('create table globex.doomed (id int); create table acme.doomed (id int)')
    await world.db.query(
      'alter table globex.item set schema probe; alter table globex.log set schema probe',
    )
    await as('globex', () => source.synchronize(true))
    await world.db.query(
      'alter table probe.item set schema globex; alter table probe.log set schema globex',
    )
    expect(await homesOf('doomed')).toEqual(['acme'])
    expect(await homesOf('item')).toEqual(TENANTS)
    expect(await as('acme', () => source.getRepository(Rates).find())).toMatchObject([
      { name: canary('acme', 1) },
    ])
  })
})

describe('what the recipe is for', () => {
  /** The way that takes one line: TypeORM connects in some tenant. */
  function plainSource(pool: TenantPool, options: Options): DataSource {
    const Pool = function () {
      return pool
    }
    return new DataSource({ type: 'postgres', driver: { Pool }, ...options })
  }

  it('a DataSource that is initialized in a tenant takes its schema for that of all', async () => {
    const Prices = new EntitySchema<{ id: number }>({
      name: 'prices',
      columns: { id: { type: 'int', primary: true } },
    })
    const source = plainSource(openPool(world, 1), { entities: [Prices] })
    await as('acme', async () => {
      await source.initialize()
      await source.synchronize()
    })
    // Looks at acme, finds the table, and does nothing.
    await as('zeta', () => source.synchronize())
    expect(await homesOf('prices')).toEqual(['acme'])
  })

  it('initialized in a tenant, the recipe serves all of them nevertheless', async () => {
    const pool = openPool(world, 1)
    const source = createTenantDataSource(world.tenancy, pool, { entities: [ItemEntity] })
    await as('acme', () => source.initialize())
    for (const id of TENANTS)
      await as(id, async () => {
        expect(source.driver).toMatchObject({ schema: id, searchSchema: id })
        expect(await source.getRepository(ItemEntity).find({ order: { id: 'asc' } })).toEqual(
          ownItems(world),
        )
      })
  })

  it('options for all tenants are refused', () => {
    const pool = openPool(world, 1)
    for (const options of [
      { schema: 'public' },
      { synchronize: true },
      { migrationsRun: true },
      { dropSchema: true },
      { cache: { type: 'redis' } },
      { cache: { type: 'ioredis' } },
    ] as const)
      expect(() => createTenantDataSource(world.tenancy, pool, options)).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
  })

  it('while it connects, it answers what TypeORM asks and nothing else', async () => {
    const source = await typeormOver(openPool(world, 1))
    for (const sql of ['select 1', 'SELECT version(); select 1', 'create table x (id int)'])
      expect(await refusalOf(() => source.query(sql))).toBe('ERR_TENANCY_CONTEXT_MISSING')
    expect(source.driver).toMatchObject({
      schema: undefined,
      searchSchema: undefined,
      database: world.db.name,
    })
  })

  it('the cache in the database keeps the results of each tenant in its own schema', async () => {
    // One connection for the query, and another for its cache.
    const pool = openPool(world, 2)
    const source = await typeormOver(pool, { cache: { type: 'database', duration: 5_000 } })
    // Its table is made by synchronize(), or by a migration.
    await world.db.query(
      TENANTS.map(
        (id) =>
          `create table ${id}."query-result-cache" (id serial primary key, identifier text, time bigint not null, duration int not null, query text not null, result text not null)`,
      ).join(';'),
    )
    for (let round = 0; round < 2; round++)
      for (const id of TENANTS)
        await as(id, async () => {
          for (const cache of [true, { id: 'items', milliseconds: 5_000 }])
            expect(
              await source.getRepository(ItemEntity).find({ order: { id: 'asc' }, cache }),
            ).toEqual(ownItems(world))
        })
    for (const id of TENANTS)
      expect(
        (await world.db.query(`select count(*)::int from ${id}."query-result-cache"`)).rows,
      ).toEqual([{ count: 2 }])
    await expectIdle(world, pool)
  })
})
