import type { TenantPool } from '@partywall/postgres'
import { eventually, outcomeOf } from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import {
  countsOf,
  createVariantWorld,
  VARIANTS,
  type VariantWorld,
} from '../isolation/variant-world.ts'
import { backendOf, expectNominal, expectOwnRows, terminate, within } from './fault-fixture.ts'

describe.each(Object.values(VARIANTS))(
  'F1 $name: idle connections that the server ends',
  (variant) => {
    let world: VariantWorld
    beforeAll(async () => {
      world = await createVariantWorld(variant)
    })
    afterAll(() => world[Symbol.asyncDispose]())

    const open = (max: number): TenantPool => {
      const pool = world.openPool({ max })
      onTestFinished(() => void pool.end())
      return pool
    }

    /** Opens all connections of a pool, which then are idle, and tells their processes. */
    async function fill(pool: TenantPool): Promise<number[]> {
      const clients = await Promise.all(
        Array.from({ length: pool.options.max }, (_, n) =>
          world.as(world.tenants[n % world.tenants.length] as string, () => pool.connect()),
        ),
      )
      const pids = clients.map(backendOf)
      for (const client of clients) client.release()
      const { total, idle } = countsOf(pool)
      expect(idle).toBe(total)
      return pids
    }

    it.each(variant.poolSizes)('F1 pool of %i: one of them: the next unit works', async (max) => {
      const pool = open(max)
      const [first = 0] = await fill(pool)
      for (let n = 0; n < 5; n++) {
        const pid = n === 0 ? first : ((await fill(pool))[0] ?? 0)
        const { total } = countsOf(pool)
        await terminate(world, pid)
        await eventually(() => countsOf(pool).total === total - 1)
        for (const tenantId of world.tenants) await expectOwnRows(world, pool, tenantId)
      }
      await expectNominal(world, pool)
      // Nothing of a tenant was at risk.
      expect(pool.destroyedCount).toBe(0)
    })

    it.each(variant.poolSizes)('F1 pool of %i: all at once: the next units work', async (max) => {
      const pool = open(max)
      await terminate(world, ...(await fill(pool)))
      await eventually(() => countsOf(pool).total === 0)
      await Promise.all(world.tenants.map((tenantId) => expectOwnRows(world, pool, tenantId)))
      await expectNominal(world, pool)
    })

    it.each(variant.poolSizes)(
      'F1 pool of %i: in the instant of the next units, each works or says that the connection is gone',
      async (max) => {
        const pool = open(max)
        for (let n = 0; n < 8; n++) {
          const pids = await fill(pool)
          const killing = world.db.query(
            'select pg_terminate_backend(pid) from unnest($1::int[]) pid',
            [pids],
          )
          // Some before the server has acted, some while it does.
          const units = Array.from({ length: 6 }, async (_, unit) => {
            await new Promise((resolve) => setTimeout(resolve, (n + unit) % 3))
            return outcomeOf(expectOwnRows(world, pool, world.tenants[unit % 3] as string))
          })
          const outcomes = await within(5_000, Promise.all(units))
          await killing
          expect(outcomes.filter((outcome) => !/^(?:fulfilled|gone)$/.test(outcome))).toEqual([])
          await expectNominal(world, pool)
        }
      },
    )
  },
)
