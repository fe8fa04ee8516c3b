import type { TenantPool, TenantPoolOptions } from '@partywall/postgres'
import { outcomeOf } from '@partywall/test-support'
import type pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { createVariantWorld, VARIANTS, type VariantWorld } from '../isolation/variant-world.ts'
import { expectNominal, expectOwnRows, within } from './fault-fixture.ts'

let world: VariantWorld

describe.each([VARIANTS.schema, VARIANTS.role])(
  'F14 $name: a tenant that takes all it can',
  (variant) => {
    beforeAll(async () => {
      world = await createVariantWorld(variant)
    })
    afterAll(() => world[Symbol.asyncDispose]())
    beforeEach(() => world.clearLogs())

    /** With the shares that a pool has by default, unless a test says otherwise. */
    const open = (options: TenantPoolOptions): TenantPool => {
      const pool = world.openPool({ maxPerTenant: undefined, ...options })
      onTestFinished(() => void pool.end())
      return pool
    }
    const timed = async (fn: () => Promise<unknown>): Promise<number> => {
      const begun = performance.now()
      await fn()
      return performance.now() - begun
    }

    it('F14 the pool: all connections that it may have, held for ever, leave one for the others', async () => {
      const [acme, globex, zeta] = world.tenants
      const pool = open({ max: 4 })
      const held = await world.as(acme, () =>
        Promise.all(Array.from({ length: 3 }, () => pool.connect())),
      )
      const more = Array.from({ length: 20 }, () =>
        world.as(acme, async () => (await pool.query('select owner from item')).rows),
      )
      for (let n = 0; n < 10; n++)
        for (const id of [globex, zeta]) await within(2_000, expectOwnRows(world, pool, id))
      // Not one of those in line got past.
      expect(await Promise.race([...more, Promise.resolve('waiting')])).toBe('waiting')
      for (const client of held) client.release()
      const own = world.itemsOf(acme).map(({ owner }) => ({ owner }))
      for (const rows of await Promise.all(more)) expect(rows).toEqual(own)
      await expectNominal(world, pool)
    })

    it('F14 the queue: five hundred callers in line, and the others do not stand behind them', async () => {
      const [acme, globex, zeta] = world.tenants
      const pool = open({ max: 2 })
      const flood = Array.from({ length: 500 }, () =>
        outcomeOf(
          world.as(acme, () => pool.query('select owner, pg_sleep(0.003) from item limit 1')),
        ),
      )
      let done = 0
      for (const unit of flood) void unit.then(() => done++)
      // On the connection that is left to them, however long the line is.
      const took: number[] = []
      for (let n = 0; n < 5; n++)
        for (const id of [globex, zeta])
          took.push(
            await within(
              5_000,
              timed(() => expectOwnRows(world, pool, id)),
            ),
          )
      expect(done).toBeLessThan(400)
      expect(new Set(await Promise.all(flood))).toEqual(new Set(['fulfilled']))
      await expectNominal(world, pool)
      expect(took).toHaveLength(10)
    })

    it('F14 the server: slow statements of one tenant do not hold up the others', async () => {
      const [acme, globex] = world.tenants
      const pool = open({ max: 4 })
      const slow = Array.from({ length: 9 }, () =>
        outcomeOf(
          world.as(acme, () => pool.query('select owner, pg_sleep(0.4) from item limit 1')),
        ),
      )
      // Nine times 0.4 seconds over three connections: they are at it for more than a second.
      let waiting = true
      const all = Promise.all(slow).then(() => (waiting = false))
      let units = 0
      // oxlint-disable-next-line eslint/no-unmodified-loop-condition -- set when the slow ones are done
      while (waiting) {
        await within(2_000, expectOwnRows(world, pool, globex))
        units++
      }
      await all
      expect(units).toBeGreaterThan(5)
    })

    it('F14 statement_timeout takes back what a tenant would keep for ever', async () => {
      const [acme, globex] = world.tenants
      const pool = open({ max: 1, statement_timeout: 150 })
      const slow = outcomeOf(
        world.as(acme, () => pool.query('select owner, pg_sleep(30) from item')),
      )
      const took = await within(
        5_000,
        timed(() => world.as(globex, () => pool.query('select owner from item'))),
      )
      expect(await slow).toBe('57014')
      expect(took).toBeLessThan(2_000)
      expect(pool.destroyedCount).toBe(0)
    })

    it('F14 checkoutTimeoutMs: who waits for a greedy neighbour is told in time, and is not forgotten later', async () => {
      const [acme, globex, zeta] = world.tenants
      const pool = open({ max: 1, checkoutTimeoutMs: 100 })
      const held: pg.PoolClient = await world.as(acme, () => pool.connect())
      const told = [globex, zeta, acme].map((id) =>
        timed(async () =>
          expect(await outcomeOf(world.as(id, () => pool.query('select owner from item')))).toBe(
            'ERR_TENANCY_POOL_EXHAUSTED',
          ),
        ),
      )
      for (const ms of await Promise.all(told)) expect(ms).toBeLessThan(2_000)
      held.release()
      await expectNominal(world, pool)
    })

    it('F14 maxPerTenant: each tenant has its share at the same time', async () => {
      const pool = open({ max: 3, maxPerTenant: 1 })
      const held = await Promise.all(world.tenants.map((id) => world.as(id, () => pool.connect())))
      const more = world.tenants.map((id) => expectOwnRows(world, pool, id))
      await Promise.all(held.map((client) => client.query('select owner from item')))
      for (const client of held) client.release()
      await within(5_000, Promise.all(more))
      await expectNominal(world, pool)
    })

    it('F14 a greedy tenant whose connections all break gets its share back, and no more', async () => {
      const [acme, globex] = world.tenants
      const pool = open({ max: 3 })
      for (let n = 0; n < 3; n++) {
        const held = await world.as(acme, () => Promise.all([pool.connect(), pool.connect()]))
        await world.db.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [
          held.map((client) => (client as unknown as { processID: number }).processID),
        ])
        for (const client of held) {
          await outcomeOf(client.query('select 1'))
          client.release()
        }
        await expectOwnRows(world, pool, globex)
      }
      const held = await world.as(acme, () => Promise.all([pool.connect(), pool.connect()]))
      const third = world.as(acme, () => pool.connect())
      expect(await Promise.race([third, Promise.resolve('waiting')])).toBe('waiting')
      await expectOwnRows(world, pool, globex)
      for (const client of held) client.release()
      ;(await third).release()
      await expectNominal(world, pool)
    })
  },
)
