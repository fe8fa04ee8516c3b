import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { type TenantPool, tenantPrisma } from '@partywall/postgres'
import { canary, foreignCanaries } from '@partywall/test-support'
import { PrismaPg } from '@prisma/adapter-pg'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
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
import { type Models, noteTablesSql, PrismaClient } from './prisma/prisma-client.ts'

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
  for (const id of TENANTS) await world.db.query(noteTablesSql(id))
  // What `prisma migrate` leaves in public: the tempting copy of every table.
  await world.db.query(
    `create table public.item (id int primary key, owner text not null); insert into public.item values (1, '${canary('public', 1)}');
     create table public.log (unit text primary key, owner text not null)`,
  )
  await world.db.query(noteTablesSql('public'))
})
afterAll(() => world[Symbol.asyncDispose]())
beforeEach(async () => {
  world.destroyed.length = 0
  for (const id of TENANTS)
    await world.db.query(`truncate ${id}.log, ${id}."Note", ${id}."_ItemToTag", ${id}."Tag"`)
})
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

const prismaOver = (pool: TenantPool, options = {}): PrismaClient =>
  tenantPrisma(
    world.tenancy,
    pool,
    ({ pool, schema }) => new PrismaClient({ adapter: new PrismaPg(pool, { schema }) }),
    options,
  )
const readItems = (from: Models): Promise<Item[]> => from.item.findMany({ orderBy: { id: 'asc' } })

/** Every kind of statement that the client makes. */
const EVERYTHING: Record<string, (prisma: PrismaClient) => Promise<unknown>> = {
  findMany: (prisma) => prisma.item.findMany(),
  findFirst: (prisma) => prisma.item.findFirst({ where: { owner: { contains: 'canary' } } }),
  findUnique: (prisma) => prisma.item.findUnique({ where: { id: 1 } }),
  count: (prisma) => prisma.item.count(),
  aggregate: (prisma) => prisma.item.aggregate({ _max: { owner: true }, _count: true }),
  groupBy: (prisma) => prisma.item.groupBy({ by: ['owner'], _count: true }),
  'a relation by two queries': (prisma) =>
    prisma.item.findMany({ include: { notes: true, tags: true }, relationLoadStrategy: 'query' }),
  'a relation by a join': (prisma) =>
    prisma.item.findMany({ include: { notes: true, tags: true }, relationLoadStrategy: 'join' }),
  'a filter by a relation': (prisma) =>
    prisma.item.findMany({ where: { notes: { none: { kind: 'fancy' } } } }),
  create: (prisma) => prisma.log.create({ data: { unit: 'a', owner: 'x' } }),
  createMany: (prisma) =>
    prisma.log.createMany({ data: [{ unit: 'b', owner: 'x' }], skipDuplicates: true }),
  createManyAndReturn: (prisma) =>
    prisma.log.createManyAndReturn({ data: [{ unit: 'c', owner: 'x' }] }),
  'a nested create': (prisma) =>
    prisma.note.create({
      data: { text: 'n', kind: 'fancy', item: { connect: { id: 1 } } },
      include: { item: true },
    }),
  'a many-to-many relation': (prisma) =>
    prisma.item.update({ where: { id: 1 }, data: { tags: { create: { name: 't' } } } }),
  update: (prisma) =>
    prisma.item.update({ where: { id: 1 }, data: { owner: { set: canaryOfTenant() } } }),
  updateMany: (prisma) => prisma.log.updateMany({ data: { owner: 'y' } }),
  upsert: (prisma) =>
    prisma.log.upsert({
      where: { unit: 'u' },
      create: { unit: 'u', owner: 'x' },
      update: { owner: 'z' },
    }),
  delete: (prisma) => prisma.log.delete({ where: { unit: 'u' } }),
  deleteMany: (prisma) => prisma.log.deleteMany(),
  'a transaction': (prisma) => prisma.$transaction((tx) => tx.item.findMany()),
  'a transaction of calls': (prisma) =>
    prisma.$transaction([prisma.item.count(), prisma.log.deleteMany()]),
}
const canaryOfTenant = (): string => canary(world.tenancy.require().tenant.id, 1)

describeLibrary(
  () => world,
  (pool) => {
    const prisma = prismaOver(pool)
    return {
      readItems: () => readItems(prisma),
      writeLog: (entry, check) =>
        prisma.$transaction(
          async (tx) => {
            await tx.log.create({ data: entry })
            check(await readItems(tx))
          },
          { isolationLevel: 'RepeatableRead', maxWait: 20_000, timeout: 20_000 },
        ),
    }
  },
)

describe.each(POOL_SIZES)('tenantPrisma over a pool of %i', (max) => {
  it('every kind of call stays in its tenant', async () => {
    const pool = openPool(world, max)
    const prisma = prismaOver(pool)
    for (const [name, call] of Object.entries(EVERYTHING))
      await Promise.all(
        TENANTS.map((id) =>
          as(id, async () => expect(foreignCanaries(await call(prisma), id), name).toEqual([])),
        ),
      )
    for (const id of TENANTS)
      await as(id, async () => {
        expect(await readItems(prisma)).toEqual(ownItems(world))
        expect(await prisma.item.count()).toBe(COUNTS[id])
        expect(await prisma.note.findMany()).toMatchObject([
          { text: 'n', kind: 'fancy', itemId: 1 },
        ])
        expect(
          await prisma.$queryRaw`select id, owner from item where id <= ${99} order by id`,
        ).toEqual(ownItems(world))
        expect(await prisma.$executeRaw`update item set owner = owner`).toBe(COUNTS[id])
      })
    expect((await world.db.query('select owner from public.item')).rows).toEqual([
      { owner: canary('public', 1) },
    ])
    await expectIdle(world, pool)
  })

  it('calls of one tick, which Prisma gathers into one statement, are not gathered across tenants', async () => {
    const pool = openPool(world, max)
    const prisma = prismaOver(pool)
    const ask = async (): Promise<void> => {
      const found = await Promise.all(
        TENANTS.flatMap((id) =>
          [1, 2, 3].map((n) =>
            as(id, async () => [id, await prisma.item.findUnique({ where: { id: n } })] as const),
          ),
        ),
      )
      expect(found).toEqual(
        TENANTS.flatMap((id) => itemsOf(id, 3).map((item) => [id, item] as const)),
      )
    }
    // With clients that are new, and with such that are known.
    for (let round = 0; round < 3; round++) await ask()
    await expectIdle(world, pool)
  })

  it('a batch of calls is one transaction of its tenant', async () => {
    const pool = openPool(world, max)
    const prisma = prismaOver(pool)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, async () => {
          const entry = { unit: 'batch', owner: canary(id, 'batch') }
          expect(
            await prisma.$transaction([prisma.log.create({ data: entry }), prisma.log.findMany()]),
          ).toEqual([entry, [entry]])
          await expect(
            prisma.$transaction([
              prisma.log.create({ data: { unit: 'gone', owner: canary(id, 'gone') } }),
              prisma.log.create({ data: entry }),
            ]),
          ).rejects.toMatchObject({ code: 'P2002' })
        }),
      ),
    )
    for (const id of TENANTS)
      expect(await logOf(world, id)).toEqual([{ unit: 'batch', owner: canary(id, 'batch') }])
    await expectIdle(world, pool)
  })

  it('D15 a model, a call and a transaction that are kept are refused to other tenants', async () => {
    const pool = openPool(world, max)
    const prisma = prismaOver(pool)
    const [model, call] = await as('acme', () => {
      const { item } = prisma
      // Prisma begins when the call is awaited.
      return Promise.resolve([item, { later: item.findMany() }] as const)
    })
    const uses: Record<string, () => Promise<unknown>> = {
      'a kept model': () => model.findMany(),
      'a kept call': () => call.later,
    }
    for (const [name, use] of Object.entries(uses))
      expect(await refusalOf(() => as('globex', use)), name).toBe('ERR_TENANCY_CONTEXT_LOCKED')
    // In the same tick as a call of its own tenant, with which Prisma would gather it.
    const find = (id: number) => () => model.findUnique({ where: { id } })
    const [own, foreign] = await Promise.all([
      as('acme', find(1)),
      refusalOf(() => as('globex', find(2))),
    ])
    expect([own, foreign]).toEqual([itemsOf('acme', 1)[0], 'ERR_TENANCY_CONTEXT_LOCKED'])
    expect(await refusalOf(() => model.findMany())).toBe('ERR_TENANCY_CONTEXT_MISSING')
    let kept: Models | undefined
    await as('acme', () =>
      prisma.$transaction(async (tx) => {
        kept = tx
        for (let n = 0; n < 2; n++) {
          expect(await refusalOf(() => as('globex', () => readItems(tx)))).toBe(
            'ERR_TENANCY_CONTEXT_LOCKED',
          )
          expect(await refusalOf(() => as('globex', () => tx.$queryRaw`select 1`))).toBe(
            'ERR_TENANCY_CONTEXT_LOCKED',
          )
          expect(await readItems(tx)).toEqual(itemsOf('acme', COUNTS.acme))
        }
      }),
    )
    await as('acme', () =>
      expect(readItems(kept as Models)).rejects.toMatchObject({ code: 'P2028' }),
    )
    await expectIdle(world, pool)
  })

  it('a transaction that takes too long is rolled back in its own tenant', async () => {
    const pool = openPool(world, max)
    const prisma = prismaOver(pool)
    await as('acme', () =>
      expect(
        prisma.$transaction(
          async (tx) => {
            await tx.log.create({ data: { unit: 'late', owner: canary('acme', 'late') } })
            await sleep(150)
            await tx.log.findMany()
          },
          { timeout: 50 },
        ),
      ).rejects.toMatchObject({ code: 'P2028' }),
    )
    expect(await logOf(world, 'acme')).toEqual([])
    await as('globex', async () => expect(await readItems(prisma)).toEqual(ownItems(world)))
    await expectIdle(world, pool)
  })
})

describe('the clients of tenantPrisma', () => {
  const countMade = (pool: TenantPool, options = {}) => {
    const made: string[] = []
    const prisma = tenantPrisma(
      world.tenancy,
      pool,
      ({ pool, schema }) => {
        made.push(schema)
        expect(world.tenancy.current()).toBeUndefined()
        return new PrismaClient({ adapter: new PrismaPg(pool, { schema }) })
      },
      options,
    )
    return { made, prisma }
  }

  it('are made once for each tenant, and the least recently used are forgotten', async () => {
    const pool = openPool(world, 4)
    const { made, prisma } = countMade(pool, { maxClients: 2 })
    const use = (id: string) =>
      as(id, async () => expect(await readItems(prisma)).toEqual(ownItems(world)))
    for (const id of ['acme', 'acme', 'globex', 'acme', 'zeta', 'acme', 'globex']) await use(id)
    expect(made).toEqual(['acme', 'globex', 'zeta', 'globex'])
    // Whoever still uses one that was forgotten goes on.
    await as('zeta', () =>
      prisma.$transaction(async (tx) => {
        await Promise.all(['acme', 'globex'].map((id) => use(id)))
        expect(await readItems(tx)).toEqual(ownItems(world))
      }),
    )
  })

  it('listen to the pool without piling up there, and cannot end it', async () => {
    const pool = openPool(world, 1)
    const listeners = pool.listenerCount('error')
    const prisma = tenantPrisma(
      world.tenancy,
      pool,
      ({ pool, schema }) =>
        new PrismaClient({ adapter: new PrismaPg(pool, { schema, disposeExternalPool: true }) }),
    )
    for (const id of TENANTS) await as(id, () => prisma.item.count())
    expect(pool.listenerCount('error')).toBe(listeners)
    await as('acme', () => prisma.$disconnect())
    await prisma.$connect()
    await prisma.$disconnect()
    expect(pool.ending).toBe(false)
    for (const id of TENANTS)
      await as(id, async () => expect(await prisma.item.count()).toBe(COUNTS[id]))
  })

  it('outside of every tenant there is none, but nobody stumbles over the object itself', async () => {
    const prisma = prismaOver(openPool(world, 1))
    expect(() => prisma.item).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_MISSING' }),
    )
    expect(() => 'item' in prisma).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_MISSING' }),
    )
    expect(await Promise.resolve(prisma)).toBe(prisma)
    expect(await as('acme', () => Promise.resolve('item' in prisma))).toBe(true)
    expect(() => prismaOver(openPool(world, 1), { maxClients: 0 })).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  })
})

describe('what is refused', () => {
  const misuse: Record<string, (pool: TenantPool) => PrismaClient> = {
    'PrismaPg on the pool itself': (pool) => new PrismaClient({ adapter: new PrismaPg(pool) }),
    'PrismaPg with the schema of one tenant for all': (pool) =>
      new PrismaClient({ adapter: new PrismaPg(pool, { schema: 'zeta' }) }),
    'tenantPrisma without the schema': (pool) =>
      tenantPrisma(
        world.tenancy,
        pool,
        ({ pool }) => new PrismaClient({ adapter: new PrismaPg(pool) }),
      ),
  }
  it.each(Object.entries(misuse))(
    'D15 %s: every kind of call, before it is sent',
    async (_, make) => {
      const pool = openPool(world, 1)
      const prisma = make(pool)
      for (const id of ['acme', 'globex'])
        for (const [name, call] of Object.entries(EVERYTHING))
          expect(await refusalOf(() => as(id, () => call(prisma))), name).toBe(
            'ERR_TENANCY_ISOLATION_UNSUPPORTED',
          )
      expect((await world.db.query('select owner from public.item')).rows).toEqual([
        { owner: canary('public', 1) },
      ])
      for (const table of ['public.log', 'public."Note"', 'zeta.log'])
        expect((await world.db.query(`select from ${table}`)).rowCount, table).toBe(0)
      await expectIdle(world, pool)
    },
  )

  it('an adapter that has loaded another copy of pg, and takes the pool for settings', async () => {
    const require = createRequire(createRequire(import.meta.url).resolve('@mikro-orm/postgresql'))
    const other = require('pg') as typeof pg
    const pool = openPool(world, 1)
    expect(pool).not.toBeInstanceOf(other.Pool)
    const prisma = tenantPrisma(world.tenancy, pool, ({ pool, schema }) => {
      // What PrismaPg does with what is no pool to it.
      void new other.Pool(pool as never)
      return new PrismaClient({ adapter: new PrismaPg(pool, { schema }) })
    })
    expect(await refusalOf(() => as('acme', () => prisma.item.count()))).toBe(
      'ERR_TENANCY_ISOLATION_UNSUPPORTED',
    )
  })

  it('statements that others write by hand are not', async () => {
    const pool = openPool(world, 1, { sharedSchemas: ['public', 'probe'] })
    const types = { getTypeParser: pg.types.getTypeParser }
    await as('acme', async () => {
      const read = async (query: object, values?: unknown[]): Promise<unknown> =>
        (await pool.query(query as never, values)).rows
      const text = 'select "public"."item"."owner" from "public"."item"'
      const own = [[canary('public', 1)]]
      // pg alone, Drizzle, and Prisma where the name is not quoted.
      expect(await read({ text, rowMode: 'array' })).toEqual(own)
      expect(await read({ text, rowMode: 'array', types }, [])).toEqual(own)
      expect(
        await read({ text: 'select owner from public.item', values: [], rowMode: 'array', types }),
      ).toEqual(own)
      expect(
        await read({
          text: 'select extract(day from "x"."now") > 0 from (select now()) as "x"',
          values: [],
          rowMode: 'array',
          types,
        }),
      ).toEqual([[true]])
      expect(
        await read({
          text: 'select "acme"."item"."id" from "acme"."item" where id = $1',
          values: [1],
          rowMode: 'array',
          types,
        }),
      ).toEqual([[1]])
      // A model of a shared schema.
      expect(
        await read({
          text: 'select "probe"."effect"."id" from "probe"."effect"',
          values: [],
          rowMode: 'array',
          types,
        }),
      ).toEqual([])
    })
  })
})

describe('why one client is not enough', () => {
  it('Prisma gathers the findUnique calls of all tenants into one statement, which runs as the first', async () => {
    // The tempting way: a placeholder for the schema that is taken out again where the statements pass.
    const pool = openPool(world, 1)
    const rewriting = new Proxy(pool, {
      get: (target, member) =>
        member === 'query'
          ? (query: pg.QueryConfig) =>
              target.query({ ...query, text: query.text.replaceAll('"tenant".', '') })
          : (Reflect.get(target, member, target) as unknown),
    })
    const prisma = new PrismaClient({ adapter: new PrismaPg(rewriting, { schema: 'tenant' }) })
    const find = () => prisma.item.findUnique({ where: { id: 1 } })
    expect(await Promise.all(TENANTS.map((id) => as(id, find)))).toEqual(
      TENANTS.map(() => itemsOf('acme', 1)[0]),
    )
  })
})
