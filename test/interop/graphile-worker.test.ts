import type { TenantPool } from '@partywall/postgres'
import { canary, eventually } from '@partywall/test-support'
import { Logger, makeWorkerUtils, type Runner, run, runOnce, type TaskList } from 'graphile-worker'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import { createTenantDatabase, type TenantDatabase } from '../isolation/database-fixture.ts'
import { actAs, describeLibrary, logOf, openPool, refusalOf, TENANTS } from './library-contract.ts'
import { addTenantJob, tenantTasks } from './recipes/graphile-worker.ts'

let world: TenantDatabase
let utils: Awaited<ReturnType<typeof makeWorkerUtils>>
let shared: TenantPool
const logger = new Logger(() => () => undefined)
beforeAll(async () => {
  world = await createTenantDatabase()
  shared = world.openPool({ max: 4, central: { max: 6 } })
  utils = await makeWorkerUtils({ pgPool: shared.central, logger })
  await utils.migrate()
})
afterAll(async () => {
  await utils.release()
  await world[Symbol.asyncDispose]()
})
beforeEach(async () => {
  for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
  await world.db.query('delete from graphile_worker._private_jobs')
})
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

/** Writes to the tenant that it runs in, and says what it was given. */
const tasks = (pool: TenantPool): TaskList =>
  tenantTasks(world.tenancy, {
    note: async (data) => {
      const { unit } = data as { unit: string }
      const { id } = world.tenancy.require().tenant
      await pool.query('insert into log values ($1, $2)', [unit, canary(id, unit)])
    },
  })

async function startWorker(pool: TenantPool): Promise<Runner> {
  const runner = await run({
    pgPool: pool.central,
    taskList: tasks(pool),
    concurrency: 4,
    pollInterval: 100,
    noHandleSignals: true,
    logger,
  })
  onTestFinished(() => runner.stop())
  return runner
}
/** What the jobs that failed say, the oldest first. The worker does not wait for it to be written. */
const failures = (count: number): Promise<string[]> =>
  eventually(async () => {
    const { rows } = await world.db.query<{ last_error: string }>(
      'select last_error from graphile_worker.jobs where last_error is not null order by id',
    )
    return rows.length === count && rows.map(({ last_error }) => last_error.split('\n')[0] ?? '')
  })
const jobsLeft = async (): Promise<number> =>
  (await world.db.query('select from graphile_worker.jobs')).rowCount ?? 0

// The tenants work as ever while the worker does, and share nothing with it but the server.
describeLibrary(
  () => world,
  async (pool) => {
    await startWorker(pool)
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

describe('graphile-worker through pool.central', () => {
  it('a job runs in the tenant that enqueued it, while the tenants work', async () => {
    await startWorker(shared)
    await Promise.all(
      Array.from({ length: 12 }, (_, n) => TENANTS.map((id) => [id, `u${n}`] as const))
        .flat()
        .map(([id, unit]) =>
          as(id, async () => {
            await addTenantJob(world.tenancy, utils.addJob, 'note', { unit, tenantId: 'zeta' })
            expect((await shared.query('select count(*)::int from item')).rowCount).toBe(1)
          }),
        ),
    )
    await eventually(async () => (await jobsLeft()) === 0)
    for (const id of TENANTS)
      expect(await logOf(world, id)).toEqual(
        Array.from({ length: 12 }, (_, n) => `u${n}`)
          .sort()
          .map((unit) => ({ unit, owner: canary(id, unit) })),
      )
  })

  it('a job carries its tenant beside the data, and its key is that of its tenant', async () => {
    for (const id of TENANTS)
      for (const unit of ['first', 'second'])
        await as(id, () =>
          addTenantJob(world.tenancy, utils.addJob, 'note', { unit }, { jobKey: 'daily-report' }),
        )
    const { rows } = await world.db.query<{ key: string; payload: unknown }>(
      'select j.key, p.payload from graphile_worker.jobs j join graphile_worker._private_jobs p using (id) order by j.key',
    )
    expect(rows).toEqual(
      TENANTS.map((tenantId) => ({
        key: `${tenantId}:daily-report`,
        payload: { tenantId, data: { unit: 'second' } },
      })),
    )
    expect(await refusalOf(() => addTenantJob(world.tenancy, utils.addJob, 'note', {}))).toBe(
      'ERR_TENANCY_CONTEXT_MISSING',
    )
  })

  it('a job that is enqueued in a transaction of its tenant exists if that commits', async () => {
    const add = (unit: string, fail: boolean) =>
      shared.transaction(async (query) => {
        const tenantId = world.tenancy.require().tenant.id
        await query('insert into log values ($1, $2)', [`by ${unit}`, canary(tenantId, unit)])
        await query('select graphile_worker.add_job($1, $2)', [
          'note',
          JSON.stringify({ tenantId, data: { unit } }),
        ])
        if (fail) throw new Error('changed my mind')
      })
    await as('acme', () => add('kept', false))
    await expect(as('acme', () => add('gone', true))).rejects.toThrow('changed my mind')
    await runOnce({
      pgPool: shared.central,
      taskList: tasks(shared),
      noHandleSignals: true,
      logger,
    })
    expect((await logOf(world, 'acme')).map(({ unit }) => unit)).toEqual(['by kept', 'kept'])
  })

  it('a job without a tenant, or of a tenant that is gone, fails and does nothing', async () => {
    await utils.addJob('note', { unit: 'a' }, { maxAttempts: 1 })
    await utils.addJob('note', { tenantId: 'gone', data: { unit: 'b' } }, { maxAttempts: 1 })
    await runOnce({
      pgPool: shared.central,
      taskList: tasks(shared),
      noHandleSignals: true,
      logger,
    })
    expect(await failures(2)).toEqual(['The job names no tenant.', 'There is no tenant gone.'])
    for (const id of TENANTS) expect(await logOf(world, id)).toEqual([])
  })
})

describe('the scoped pool', () => {
  it('outside of every tenant the worker does not start', async () => {
    const pool = openPool(world, 2)
    // It warns of pools without listeners.
    pool.on('connect', () => undefined)
    const start = () => run({ pgPool: pool, taskList: tasks(pool), noHandleSignals: true, logger })
    expect(await refusalOf(start)).toBe('ERR_TENANCY_CONTEXT_MISSING')
    expect(await refusalOf(() => world.tenancy.central('a test', start))).toBe(
      'ERR_TENANCY_CONTEXT_MISSING',
    )
  })

  it('inside of a tenant it runs no job of another', async () => {
    const pool = openPool(world, 4)
    pool.on('connect', () => undefined)
    for (const id of TENANTS)
      await as(id, () =>
        addTenantJob(world.tenancy, utils.addJob, 'note', { unit: 'x' }, { maxAttempts: 1 }),
      )
    await as('acme', () =>
      runOnce({ pgPool: pool, taskList: tasks(pool), noHandleSignals: true, logger }),
    )
    expect(await logOf(world, 'acme')).toEqual([{ unit: 'x', owner: canary('acme', 'x') }])
    for (const id of ['globex', 'zeta']) expect(await logOf(world, id)).toEqual([])
    expect(await failures(2)).toEqual([
      'Tenant acme is active, so "globex" cannot be entered.',
      'Tenant acme is active, so "zeta" cannot be entered.',
    ])
  })
})
