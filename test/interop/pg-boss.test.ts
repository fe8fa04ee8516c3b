import type { TenantPool } from '@partywall/postgres'
import { canary, eventually } from '@partywall/test-support'
import { PgBoss } from 'pg-boss'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { createTenantDatabase, type TenantDatabase } from '../isolation/database-fixture.ts'
import { actAs, describeLibrary, logOf, openPool, refusalOf, TENANTS } from './library-contract.ts'
import { createBoss, sendTenantJob, tenantHandler } from './recipes/pg-boss.ts'

let world: TenantDatabase
let shared: TenantPool
let boss: PgBoss
beforeAll(async () => {
  world = await createTenantDatabase()
  shared = world.openPool({ max: 4, central: { max: 4 } })
  boss = createBoss(shared)
  await boss.start()
  await boss.createQueue('note', { retryLimit: 0 })
})
afterAll(async () => {
  await boss.stop({ graceful: false })
  await world[Symbol.asyncDispose]()
})
beforeEach(async () => {
  for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
  await boss.deleteAllJobs('note')
})
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

/** Writes to the tenant that it runs in, and says what it was given. */
const handler = (pool: TenantPool) =>
  tenantHandler(world.tenancy, async (data) => {
    const { unit } = data as { unit: string }
    const { id } = world.tenancy.require().tenant
    await pool.query('insert into log values ($1, $2)', [unit, canary(id, unit)])
  })
async function work(pool: TenantPool): Promise<void> {
  const id = await boss.work('note', { pollingIntervalSeconds: 0.5 }, handler(pool))
  onTestFinished(() => boss.offWork('note', { id }))
}
/** Runs what is waiting, at once. */
async function workOff(pool: TenantPool): Promise<void> {
  for (;;) {
    const [job] = await boss.fetch<object>('note')
    if (job === undefined) return
    await handler(pool)([job as never]).then(
      () => boss.complete('note', job.id),
      (error: Error) => boss.fail('note', job.id, { message: error.message }),
    )
  }
}
const states = async (): Promise<Record<string, number>> =>
  Object.fromEntries(
    (
      await world.db.query<{ state: string; count: number }>(
        "select state, count(*)::int from pgboss.job where name = 'note' group by state",
      )
    ).rows.map(({ state, count }) => [state, count]),
  )

// The tenants work as ever while pg-boss does.
describeLibrary(
  () => world,
  async (pool) => {
    await work(pool)
    return {
      readItems: async () => (await pool.query('select id, owner from item order by id')).rows,
      writeLog: ({ unit, owner }, check) =>
        pool.transaction(async (query) => {
          await query('insert into log values ($1, $2)', [unit, owner])
          check((await query('select id, owner from item order by id')).rows)
        }),
    }
  },
)

describe('pg-boss through pool.central', () => {
  it('a job runs in the tenant that sent it, while the tenants work', async () => {
    await Promise.all(
      Array.from({ length: 4 }, (_, n) => TENANTS.map((id) => [id, `u${n}`] as const))
        .flat()
        .map(([id, unit]) =>
          as(id, async () => {
            await sendTenantJob(world.tenancy, boss, 'note', { unit, tenantId: 'zeta' })
            expect((await shared.query('select count(*)::int from item')).rowCount).toBe(1)
          }),
        ),
    )
    await work(shared)
    await eventually(async () => (await states())['completed'] !== undefined)
    // Faster than pg-boss, which takes one each time that it looks.
    await eventually(async () => {
      await workOff(shared)
      return (await states())['completed'] === 12
    })
    for (const id of TENANTS)
      expect(await logOf(world, id)).toEqual(
        ['u0', 'u1', 'u2', 'u3'].map((unit) => ({ unit, owner: canary(id, unit) })),
      )
  })

  it('a job carries its tenant beside the data, and its key is that of its tenant', async () => {
    const sent = []
    for (const id of TENANTS)
      for (const unit of ['first', 'second'])
        sent.push(
          await as(id, () =>
            sendTenantJob(
              world.tenancy,
              boss,
              'note',
              { unit },
              { singletonKey: 'daily', singletonSeconds: 600 },
            ),
          ),
        )
    expect(sent.map((id) => id !== null)).toEqual([true, false, true, false, true, false])
    const { rows } = await world.db.query(
      "select singleton_key as key, data from pgboss.job where name = 'note' order by 1",
    )
    expect(rows).toEqual(
      TENANTS.map((tenantId) => ({
        key: `${tenantId}:daily`,
        data: { tenantId, data: { unit: 'first' } },
      })),
    )
    expect(await refusalOf(() => sendTenantJob(world.tenancy, boss, 'note', {}))).toBe(
      'ERR_TENANCY_CONTEXT_MISSING',
    )
  })

  it('a job that is sent in a transaction of its tenant exists if that commits', async () => {
    const send = (unit: string, fail: boolean) =>
      shared.transaction(async (query) => {
        const tenantId = world.tenancy.require().tenant.id
        await query('insert into log values ($1, $2)', [`by ${unit}`, canary(tenantId, unit)])
        const executeSql = (text: string, values?: unknown[]) => query(text, values)
        await sendTenantJob(world.tenancy, boss, 'note', { unit }, { db: { executeSql } })
        if (fail) throw new Error('changed my mind')
      })
    await as('acme', () => send('kept', false))
    await expect(as('acme', () => send('gone', true))).rejects.toThrow('changed my mind')
    await workOff(shared)
    expect((await logOf(world, 'acme')).map(({ unit }) => unit)).toEqual(['by kept', 'kept'])
  })

  it('a job without a tenant, or of a tenant that is gone, fails and does nothing', async () => {
    await boss.send('note', { unit: 'a' })
    await boss.send('note', { tenantId: 'gone', data: { unit: 'b' } })
    await workOff(shared)
    const { rows } = await world.db.query(
      "select output->>'message' as message from pgboss.job where name = 'note' order by created_on",
    )
    expect(rows).toEqual([
      { message: 'The job names no tenant.' },
      { message: 'There is no tenant gone.' },
    ])
    for (const id of TENANTS) expect(await logOf(world, id)).toEqual([])
  })
})

describe('the scoped pool', () => {
  const over = (pool: TenantPool): PgBoss => {
    const other = new PgBoss({
      db: { executeSql: (text, values) => pool.query(text, values as unknown[]) },
    })
    other.on('error', () => undefined)
    return other
  }

  it('outside of every tenant pg-boss does not start', async () => {
    const pool = openPool(world, 1)
    expect(await refusalOf(() => over(pool).start())).toBe('ERR_TENANCY_CONTEXT_MISSING')
    expect(await refusalOf(() => world.tenancy.central('a test', () => over(pool).start()))).toBe(
      'ERR_TENANCY_CONTEXT_MISSING',
    )
  })

  it('inside of a tenant it runs no job of another', async () => {
    const pool = openPool(world, 1)
    await as('globex', () => sendTenantJob(world.tenancy, boss, 'note', { unit: 'x' }))
    await as('acme', () => workOff(pool))
    for (const id of TENANTS) expect(await logOf(world, id)).toEqual([])
    const { rows } = await world.db.query(
      "select output->>'message' as message from pgboss.job where name = 'note'",
    )
    expect(rows).toEqual([{ message: 'Tenant acme is active, so "globex" cannot be entered.' }])
  })
})
