import { MemoryCacheAdapter } from '@mikro-orm/core'
import { defineEntity, EntityManager, MikroORM, type Options } from '@mikro-orm/postgresql'
import { TenancyError } from '@partywall/core'
import type { TenantPool } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import { PostgresDialect } from 'kysely'
import Cursor from 'pg-cursor'
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
  logOf,
  openPool,
  ownItems,
  POOL_SIZES,
  refusalOf,
  TENANTS,
} from './library-contract.ts'

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

const owners = new WeakMap<EntityManager, string>()

/** The entity manager of the page: its identity map belongs to one tenant. */
class TenantEntityManager extends EntityManager {
  override getContext(validate?: boolean): this {
    const em = super.getContext(validate) as this
    const active = world.tenancy.current()?.tenant.id
    if (em.global || active === undefined) return em
    const owner = owners.get(em) ?? active
    owners.set(em, owner)
    if (owner === active) return em
    throw new TenancyError(
      'ERR_TENANCY_CONTEXT_LOCKED',
      `The entity manager belongs to tenant ${owner}. Fork one for each request.`,
    )
  }
}

/** The result cache of the page: its keys carry the tenant. */
class TenantResultCache extends MemoryCacheAdapter {
  #key(name: string): string {
    return `${world.tenancy.require().tenant.id}:${name}`
  }
  override get<T = unknown>(name: string): T | undefined {
    return super.get<T>(this.#key(name))
  }
  override set(name: string, data: unknown, origin: string, expiration?: number): void {
    super.set(this.#key(name), data, origin, expiration)
  }
  override remove(name: string): void {
    super.remove(this.#key(name))
  }
}

/** Made outside of every tenant; nothing is asked of the server. */
const mikroOver = (pool: TenantPool, options: Partial<Options> = {}) =>
  MikroORM.init({
    driverOptions: new PostgresDialect({ pool, cursor: Cursor }),
    dbName: 'of the pool',
    // It would look for the database, and end the pool to connect to it anew.
    ensureDatabase: false,
    entities: [ItemEntity, LogEntity],
    entityManager: TenantEntityManager,
    ...options,
  })

const plain = (items: readonly Item[]): Item[] => items.map(({ id, owner }) => ({ id, owner }))

describeLibrary(
  () => world,
  async (pool) => {
    const orm = await mikroOver(pool)
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
    const orm = await mikroOver(pool)
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
    const orm = await mikroOver(pool)
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
    const orm = await mikroOver(pool)
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
    const orm = await mikroOver(openPool(world, max))
    await as('acme', () =>
      expect(orm.em.findOne(ItemEntity, { id: 1 })).rejects.toThrow(
        'global EntityManager instance methods',
      ),
    )
  })
})

describe('what the plain entity manager and the plain result cache do', () => {
  it('an entity manager that is kept answers from the identity map of another tenant', async () => {
    const orm = await mikroOver(openPool(world, 1), { entityManager: EntityManager })
    const kept = orm.em.fork()
    await as('acme', () => kept.findOneOrFail(ItemEntity, { id: 1 }))
    expect(await as('globex', () => kept.findOneOrFail(ItemEntity, { id: 1 }))).toMatchObject({
      owner: canary('acme', 1),
    })
  })

  const readCached = async (adapter?: typeof TenantResultCache): Promise<unknown[]> => {
    const orm = await mikroOver(
      openPool(world, 1),
      adapter === undefined ? {} : { resultCache: { adapter } },
    )
    onTestFinished(() => void orm.config.getResultCacheAdapter().clear())
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
    return seen
  }
  const own = [...TENANTS, ...TENANTS].map((id) => [itemsOf(id, COUNTS[id]), COUNTS[id]])

  it('a result cache answers all tenants with the rows of the first, unless its keys carry the tenant', async () => {
    expect(await readCached()).toEqual(own.map(() => own[0]))
    expect(await readCached(TenantResultCache)).toEqual(own)
  })
})
