import { schemaOf, type TenantPool } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import {
  CompiledQuery,
  type ControlledTransaction,
  Kysely,
  PostgresDialect,
  sql,
  type Transaction,
} from 'kysely'
import { type Migration, Migrator } from 'kysely/migration'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
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
  openPool,
  ownItems,
  POOL_SIZES,
  refusalOf,
  TENANTS,
} from './library-contract.ts'

interface Tables {
  item: Item
  log: LogEntry
}

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

const kyselyOver = (pool: TenantPool): Kysely<Tables> =>
  new Kysely<Tables>({ dialect: new PostgresDialect({ pool, cursor: Cursor }) })

describeLibrary(
  () => world,
  (pool) => {
    const db = kyselyOver(pool)
    return {
      readItems: () => db.selectFrom('item').selectAll().orderBy('id').execute(),
      writeLog: (entry, check) =>
        db.transaction().execute(async (trx) => {
          await trx.insertInto('log').values(entry).execute()
          check(await trx.selectFrom('item').selectAll().orderBy('id').execute())
        }),
    }
  },
)

describe.each(POOL_SIZES)('Kysely over a pool of %i', (max) => {
  it('a query builder and a compiled query serve every tenant that runs them', async () => {
    const pool = openPool(world, max)
    const db = kyselyOver(pool)
    // Made in one tenant, kept, and run in all.
    const [query, compiled] = await as('zeta', () => {
      const query = db.selectFrom('item').selectAll().where('id', '<=', 99).orderBy('id')
      return Promise.resolve([query, query.compile()] as const)
    })
    await Promise.all(
      [...TENANTS, ...TENANTS].map((id) =>
        as(id, async () => {
          expect(await query.execute()).toEqual(ownItems(world))
          expect((await db.executeQuery(compiled)).rows).toEqual(ownItems(world))
          expect(
            (await db.executeQuery<Item>(CompiledQuery.raw('select * from item order by id'))).rows,
          ).toEqual(ownItems(world))
          expect(
            (await sql<Item>`select * from item where id <= ${99} order by id`.execute(db)).rows,
          ).toEqual(ownItems(world))
        }),
      ),
    )
    await expectIdle(world, pool)
  })

  it('streams, and a stream that is left early, give their connection back', async () => {
    const pool = openPool(world, max)
    const db = kyselyOver(pool)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, async () => {
          const rows: Item[] = []
          for await (const row of db.selectFrom('item').selectAll().orderBy('id').stream(2))
            rows.push(row)
          expect(rows).toEqual(ownItems(world))
          for await (const row of db.selectFrom('item').selectAll().orderBy('id').stream(1)) {
            expect(row.owner).toBe(canary(id, 1))
            break
          }
        }),
      ),
    )
    await expectIdle(world, pool)
  })

  it('savepoints of a controlled transaction stay inside of it', async () => {
    const pool = openPool(world, max)
    const db = kyselyOver(pool)
    for (const id of TENANTS)
      await as(id, async () => {
        const trx = await db.startTransaction().execute()
        await trx
          .insertInto('log')
          .values({ unit: 'kept', owner: canary(id, 'kept') })
          .execute()
        const inner = await trx.savepoint('inner').execute()
        await inner
          .insertInto('log')
          .values({ unit: 'gone', owner: canary(id, 'gone') })
          .execute()
        await inner.rollbackToSavepoint('inner').execute()
        expect(
          await trx
            .selectFrom('log')
            .select('owner')
            .where('unit', 'in', ['kept', 'gone'])
            .execute(),
        ).toEqual([{ owner: canary(id, 'kept') }])
        await trx.rollback().execute()
      })
    await expectIdle(world, pool)
  })

  it('a transaction is refused to other tenants, and after its end', async () => {
    const pool = openPool(world, max)
    const db = kyselyOver(pool)
    let kept: Transaction<Tables> | undefined
    let controlled: ControlledTransaction<Tables> | undefined
    const read = (from: Kysely<Tables> | undefined): unknown =>
      from?.selectFrom('item').selectAll().orderBy('id').execute()
    await as('acme', async () => {
      await db.transaction().execute(async (trx) => {
        kept = trx
        await trx.selectFrom('log').selectAll().execute()
        expect(await refusalOf(() => as('globex', () => read(kept)))).toBe(
          'ERR_TENANCY_CONTEXT_LOCKED',
        )
        expect(await read(trx)).toEqual(itemsOf('acme', 3))
      })
      controlled = await db.startTransaction().execute()
    })
    expect(await refusalOf(() => as('globex', () => read(controlled)))).toBe(
      'ERR_TENANCY_CONTEXT_LOCKED',
    )
    await as('acme', () => controlled?.rollback().execute())
    // Whoever has the connection now, the old transaction has not.
    for (const id of TENANTS)
      await as(id, async () => {
        await expect(read(kept)).rejects.toThrow('Transaction is already committed')
        await expect(read(controlled)).rejects.toThrow('Transaction is already rolled back')
      })
    await expectIdle(world, pool)
  })
})

it('destroy() ends the pool for everybody, and is refused inside of a tenant', async () => {
  const pool = openPool(world, 1)
  const db = kyselyOver(pool)
  const read = () => db.selectFrom('item').select('id').execute()
  await as('acme', async () => {
    await read()
    expect(await refusalOf(() => db.destroy())).toBe('ERR_TENANCY_CONTEXT_LOCKED')
    // Kysely has let go of the pool by then.
    await expect(read()).rejects.toThrow("Cannot read properties of undefined (reading 'connect')")
  })
  expect(pool.ending).toBe(false)
  const other = kyselyOver(pool)
  await as('globex', () => other.selectFrom('item').select('id').execute())
  await other.destroy()
  expect(await refusalOf(() => as('globex', () => pool.query('select 1')))).toBe(
    'ERR_TENANCY_CLOSED',
  )
})

describe('migrations', () => {
  const migrations = (): Promise<Record<string, Migration>> =>
    Promise.resolve({
      '001': {
        up: (db: Kysely<unknown>) =>
          db.schema.createTable('orders').addColumn('id', 'integer').execute(),
      },
    })
  const tablesOf = async (name: string): Promise<string[]> =>
    (
      await world.db.query<{ schema: string }>(
        `select relnamespace::regnamespace::text as schema from pg_class where relname = $1 and relkind = 'r' order by 1`,
        [name],
      )
    ).rows.map(({ schema }) => schema)

  it('with migrationTableSchema each tenant is migrated, also at the same time', async () => {
    const db = kyselyOver(openPool(world, 4))
    const migrate = () =>
      new Migrator({
        db,
        provider: { getMigrations: migrations },
        migrationTableSchema: schemaOf(world.tenancy.require().tenant),
      }).migrateToLatest()
    const results = await Promise.all(TENANTS.map((id) => as(id, migrate)))
    expect(
      results.map(({ error, results }) => [error, results?.map(({ status }) => status)]),
    ).toEqual(TENANTS.map(() => [undefined, ['Success']]))
    for (const table of ['orders', 'kysely_migration', 'kysely_migration_lock'])
      expect(await tablesOf(table)).toEqual(TENANTS)
    expect((await as('acme', migrate)).results).toEqual([])
    await world.db.query(
      TENANTS.map(
        (id) => `drop table ${id}.orders, ${id}.kysely_migration, ${id}.kysely_migration_lock`,
      ).join(';'),
    )
  })

  it('without it the first tenant is migrated and every other one fails, with nothing done', async () => {
    const db = kyselyOver(openPool(world, 1))
    const migrate = () =>
      new Migrator({ db, provider: { getMigrations: migrations } }).migrateToLatest()
    expect((await as('acme', migrate)).error).toBeUndefined()
    expect((await as('globex', migrate)).error).toMatchObject({ code: '42P01' })
    expect(await tablesOf('orders')).toEqual(['acme'])
  })
})
