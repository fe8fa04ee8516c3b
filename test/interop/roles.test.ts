import { randomBytes } from 'node:crypto'
import { defineEntity } from '@mikro-orm/postgresql'
import { createTenant } from '@partywall/core'
import {
  createGateRole,
  createTenantRole,
  type TenantPool,
  tenantPrisma,
} from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import { PrismaPg } from '@prisma/adapter-pg'
import { sql as drizzleSql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import knex from 'knex'
import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import { DataTypes } from 'sequelize'
import { EntitySchema } from 'typeorm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  createTenantDatabase,
  itemsOf,
  type TenantDatabase,
} from '../isolation/database-fixture.ts'
import { actAs, type Item, sqlStateOf } from './library-contract.ts'
import { PrismaClient } from './prisma/prisma-client.ts'
import { createTenantOrm } from './recipes/mikro-orm.ts'
import { createTenantSequelize } from './recipes/sequelize.ts'
import { createTenantDataSource } from './recipes/typeorm.ts'

// Roles belong to the whole server, which other test files share.
const salt = randomBytes(4).toString('hex')
const COUNTS: Record<string, number> = { [`acme-${salt}`]: 3, [`globex-${salt}`]: 5 }
const TENANTS = Object.keys(COUNTS)
const GATE = `gate_${salt}`

let world: TenantDatabase
let pool: TenantPool
beforeAll(async () => {
  world = await createTenantDatabase(COUNTS)
  const central = new pg.Pool({ connectionString: world.db.url, max: 1 })
  await createGateRole(central, { name: GATE, password: 'secret' })
  for (const id of TENANTS)
    await createTenantRole(central, createTenant({ id }), { gate: GATE, ownership: 'tenant' })
  await central.end()
  const url = Object.assign(new URL(world.db.url), { username: GATE, password: 'secret' })
  pool = world.openPool({
    connectionString: url.href,
    role: 'per-tenant',
    max: 2,
    central: { connectionString: world.db.url },
  })
})
afterAll(async () => {
  await pool.end()
  for (const role of [...TENANTS.map((id) => `"tenant-${id}"`), GATE])
    await world.db.query(`drop owned by ${role} cascade; drop role ${role}`)
  await world[Symbol.asyncDispose]()
})

interface Use {
  readonly readItems: () => Promise<unknown>
  /** Inserts into `log`, in a transaction. */
  readonly write: (owner: string) => Promise<unknown>
  /** SQL as somebody wrote it. */
  readonly raw: (sql: string) => Promise<unknown>
}

const LIBRARIES: Record<string, () => Promise<Use> | Use> = {
  Kysely: () => {
    const db = new Kysely<{ item: Item; log: { unit: string; owner: string } }>({
      dialect: new PostgresDialect({ pool }),
    })
    return {
      readItems: () => db.selectFrom('item').selectAll().orderBy('id').execute(),
      write: (owner) =>
        db
          .transaction()
          .execute((trx) => trx.insertInto('log').values({ unit: 'Kysely', owner }).execute()),
      raw: (text) => sql.raw(text).execute(db),
    }
  },
  Drizzle: () => {
    const db = drizzle(pool)
    const item = pgTable('item', { id: integer().primaryKey(), owner: text().notNull() })
    const log = pgTable('log', { unit: text().primaryKey(), owner: text().notNull() })
    return {
      readItems: () => db.select().from(item).orderBy(item.id),
      write: (owner) => db.transaction((tx) => tx.insert(log).values({ unit: 'Drizzle', owner })),
      raw: (text) => db.execute(drizzleSql.raw(text)),
    }
  },
  Knex: () => {
    const db = knex({ client: 'pg', connectionPool: pool, log: { warn: () => undefined } })
    return {
      readItems: async () => db('item').select('id', 'owner').orderBy('id'),
      write: (owner) => db.transaction((trx) => trx('log').insert({ unit: 'Knex', owner })),
      raw: async (text) => db.raw(text),
    }
  },
  TypeORM: async () => {
    const Item = new EntitySchema<Item>({
      name: 'item',
      columns: { id: { type: 'int', primary: true }, owner: { type: 'text' } },
    })
    const source = await createTenantDataSource(world.tenancy, pool, {
      entities: [Item],
    }).initialize()
    return {
      readItems: () => source.getRepository(Item).find({ order: { id: 'asc' } }),
      write: (owner) =>
        source.transaction((manager) =>
          manager.query('insert into log values ($1, $2)', ['TypeORM', owner]),
        ),
      raw: (text) => source.query(text),
    }
  },
  MikroORM: () => {
    const Item = defineEntity({
      name: 'Item',
      tableName: 'item',
      properties: (p) => ({ id: p.integer().primary(), owner: p.text() }),
    })
    const orm = createTenantOrm(world.tenancy, pool, { entities: [Item] })
    return {
      readItems: async () =>
        (await orm.em.fork().find(Item, {}, { orderBy: { id: 'asc' } })).map(({ id, owner }) => ({
          id,
          owner,
        })),
      write: (owner) =>
        orm.em
          .fork()
          .transactional((em) => em.execute('insert into log values (?, ?)', ['MikroORM', owner])),
      raw: (text) => orm.em.fork().execute(text),
    }
  },
  Sequelize: () => {
    const db = createTenantSequelize(pool, {
      logging: false,
      define: { timestamps: false, freezeTableName: true },
    })
    const item = db.define('item', {
      id: { type: DataTypes.INTEGER, primaryKey: true },
      owner: DataTypes.TEXT,
    })
    return {
      readItems: () => item.findAll({ order: ['id'], raw: true }),
      write: (owner) =>
        db.transaction((transaction) =>
          db.query('insert into log values (?, ?)', {
            replacements: ['Sequelize', owner],
            transaction,
          }),
        ),
      raw: (text) => db.query(text),
    }
  },
  Prisma: () => {
    const prisma = tenantPrisma(
      world.tenancy,
      pool,
      ({ pool, schema }) => new PrismaClient({ adapter: new PrismaPg(pool, { schema }) }),
    )
    return {
      readItems: () => prisma.item.findMany({ orderBy: { id: 'asc' } }),
      write: (owner) =>
        prisma.$transaction((tx) => tx.log.create({ data: { unit: 'Prisma', owner } })),
      raw: (text) => prisma.$queryRawUnsafe(text),
    }
  },
}

describe.each(Object.entries(LIBRARIES))(
  '%s over a pool with a role for each tenant',
  (name, open) => {
    it('reads and writes as the role of its tenant, and cannot name the schema of another', async () => {
      const as = actAs(world)
      const { readItems, write, raw } = await open()
      await Promise.all(
        [...TENANTS, ...TENANTS].map((id) =>
          as(id, async () => expect(await readItems()).toEqual(itemsOf(id, COUNTS[id] ?? 0))),
        ),
      )
      for (const [index, id] of TENANTS.entries())
        await as(id, async () => {
          await write(canary(id, name))
          expect(JSON.stringify(await raw('select current_user::text as role'))).toContain(
            `tenant-${id}`,
          )
          const other = TENANTS[1 - index]
          expect(await sqlStateOf(() => raw(`select owner from "${other}".item`))).toBe('42501')
        })
      for (const id of TENANTS)
        expect(
          (await world.db.query(`select owner from "${id}".log where unit = $1`, [name])).rows,
        ).toEqual([{ owner: canary(id, name) }])
      expect(world.destroyed).toEqual([])
    })
  },
)
