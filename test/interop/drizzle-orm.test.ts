import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { schemaOf, type TenantPool } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import { asc, lte, relations, sql } from 'drizzle-orm'
import { Cache } from 'drizzle-orm/cache/core'
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import { migrate } from 'drizzle-orm/node-postgres/migrator'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
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

const item = pgTable('item', { id: integer().primaryKey(), owner: text().notNull() })
const log = pgTable('log', { unit: text().primaryKey(), owner: text().notNull() })
const itemRelations = relations(item, ({ many }) => ({ entries: many(log) }))
const logRelations = relations(log, ({ one }) => ({
  item: one(item, { fields: [log.owner], references: [item.owner] }),
}))
const schema = { item, log, itemRelations, logRelations }

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

type Database = NodePgDatabase<typeof schema>
const drizzleOver = (pool: TenantPool): Database => drizzle(pool, { schema })

describeLibrary(
  () => world,
  (pool) => {
    const db = drizzleOver(pool)
    return {
      readItems: () => db.select().from(item).orderBy(asc(item.id)),
      writeLog: (entry, check) =>
        db.transaction(
          async (tx) => {
            await tx.insert(log).values(entry)
            check(await tx.select().from(item).orderBy(asc(item.id)))
          },
          { isolationLevel: 'repeatable read' },
        ),
    }
  },
)

describe.each(POOL_SIZES)('Drizzle over a pool of %i', (max) => {
  it('queries that are kept, prepared or raw serve every tenant that runs them', async () => {
    const pool = openPool(world, max)
    const db = drizzleOver(pool)
    const [kept, prepared] = await as('zeta', () => {
      const query = db
        .select()
        .from(item)
        .where(lte(item.id, sql.placeholder('max')))
        .orderBy(asc(item.id))
      // One name for all tenants: the server looks up the tables anew.
      return Promise.resolve([
        db.select().from(item).orderBy(asc(item.id)).$dynamic(),
        query.prepare('items_up_to'),
      ] as const)
    })
    for (let round = 0; round < 3; round++)
      await Promise.all(
        TENANTS.map((id) =>
          as(id, async () => {
            expect(await kept.execute()).toEqual(ownItems(world))
            expect(await prepared.execute({ max: 99 })).toEqual(ownItems(world))
            const raw = await db.execute<Item & Record<string, unknown>>(
              sql`select id, owner from ${item} where id <= ${99} order by id`,
            )
            expect(raw.rows).toEqual(ownItems(world))
            expect(await db.$count(item)).toBe(COUNTS[id])
          }),
        ),
      )
    await expectIdle(world, pool)
  })

  it('relational queries, which read nested rows as JSON, stay in the tenant', async () => {
    const pool = openPool(world, max)
    const db = drizzleOver(pool)
    for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, async () => {
          await db.insert(log).values({ unit: 'related', owner: canary(id, 1) })
          expect(
            await db.query.item.findMany({
              with: { entries: true },
              where: (table, { eq }) => eq(table.id, 1),
            }),
          ).toEqual([
            {
              id: 1,
              owner: canary(id, 1),
              entries: [{ unit: 'related', owner: canary(id, 1) }],
            },
          ])
        }),
      ),
    )
    await expectIdle(world, pool)
  })

  it('a nested transaction is a savepoint of its own tenant', async () => {
    const pool = openPool(world, max)
    const db = drizzleOver(pool)
    for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          db.transaction(async (tx) => {
            await tx.insert(log).values({ unit: 'outer', owner: canary(id, 'outer') })
            const inner = tx.transaction(async (nested) => {
              await nested.insert(log).values({ unit: 'inner', owner: canary(id, 'inner') })
              nested.rollback()
            })
            await expect(inner).rejects.toThrow('Rollback')
            expect(await tx.select().from(item).orderBy(asc(item.id))).toEqual(ownItems(world))
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
    const db = drizzleOver(pool)
    const read = (from: Pick<Database, 'select'>): Promise<Item[]> =>
      from.select().from(item).orderBy(asc(item.id))
    let kept: Pick<Database, 'select'> | undefined
    await as('acme', () =>
      db.transaction(async (tx) => {
        kept = tx
        // Before its first statement as well as behind it.
        for (let n = 0; n < 2; n++) {
          expect(await refusalOf(() => as('globex', () => read(tx)))).toBe(
            'ERR_TENANCY_CONTEXT_LOCKED',
          )
          expect(await read(tx)).toEqual(itemsOf('acme', COUNTS.acme))
        }
      }),
    )
    for (const id of TENANTS)
      expect(await refusalOf(() => as(id, () => read(kept as Database)))).toBe(
        'ERR_TENANCY_USE_AFTER_RELEASE',
      )
    await expectIdle(world, pool)
  })
})

describe('migrate()', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'partywall-drizzle-'))
    await mkdir(join(folder, 'meta'))
    await writeFile(
      join(folder, 'meta/_journal.json'),
      JSON.stringify({ entries: [{ idx: 0, when: 1, tag: '0000_orders', breakpoints: true }] }),
    )
    await writeFile(join(folder, '0000_orders.sql'), 'create table "orders" ("id" integer)')
  })
  afterAll(() => rm(folder, { recursive: true }))
  const homesOf = async (table: string): Promise<string[]> =>
    (
      await world.db.query<{ schema: string }>(
        "select relnamespace::regnamespace::text as schema from pg_class where relname = $1 and relkind = 'r' order by 1",
        [table],
      )
    ).rows.map(({ schema }) => schema)

  it('without migrationsSchema the first tenant is migrated, and the others are told so too', async () => {
    const db = drizzleOver(openPool(world, 1))
    await as('acme', () => migrate(db, { migrationsFolder: folder }))
    // Reports success, and does nothing: the journal is the same for all.
    await as('globex', () => migrate(db, { migrationsFolder: folder }))
    expect(await homesOf('orders')).toEqual(['acme'])
    expect(await homesOf('__drizzle_migrations')).toEqual(['drizzle'])
    await world.db.query('drop table acme.orders; drop schema drizzle cascade')
  })

  it('with it each tenant is migrated, also at the same time and again', async () => {
    const pool = openPool(world, 4)
    const db = drizzleOver(pool)
    for (let round = 0; round < 2; round++)
      await Promise.all(
        TENANTS.map((id) =>
          as(id, () =>
            migrate(db, {
              migrationsFolder: folder,
              migrationsSchema: schemaOf(world.tenancy.require().tenant),
            }),
          ),
        ),
      )
    for (const table of ['orders', '__drizzle_migrations'])
      expect(await homesOf(table)).toEqual(TENANTS)
    await expectIdle(world, pool)
  })
})

describe('a query cache', () => {
  /** A cache as an application would write one. */
  class MemoryCache extends Cache {
    readonly #entries = new Map<string, unknown[]>()
    override strategy(): 'all' {
      return 'all'
    }
    override async get(key: string): Promise<unknown[] | undefined> {
      return this.#entries.get(key)
    }
    override async put(key: string, rows: unknown): Promise<void> {
      this.#entries.set(key, rows as unknown[])
    }
    override async onMutate(): Promise<void> {}
  }
  /** The remedy of the page. */
  class TenantCache extends MemoryCache {
    #key(key: string): string {
      return `${world.tenancy.require().tenant.id}:${key}`
    }
    override get(key: string): Promise<unknown[] | undefined> {
      return super.get(this.#key(key))
    }
    override put(key: string, rows: unknown): Promise<void> {
      return super.put(this.#key(key), rows)
    }
  }
  const readAll = async (cache: Cache): Promise<unknown[]> => {
    const db = drizzle(openPool(world, 1), { cache })
    const seen = []
    for (let round = 0; round < 2; round++)
      for (const id of TENANTS)
        seen.push(await as(id, () => db.select().from(item).orderBy(asc(item.id))))
    return seen
  }
  const own = [...TENANTS, ...TENANTS].map((id) => itemsOf(id, COUNTS[id]))

  it('answers all tenants with the rows of the first, unless its keys carry the tenant', async () => {
    expect(await readAll(new MemoryCache())).toEqual(own.map(() => own[0]))
    expect(await readAll(new TenantCache())).toEqual(own)
  })
})
