import { setTimeout as sleep } from 'node:timers/promises'
import { createTenancy, fallback, memoryTenantStore } from '@partywall/core'
import {
  createTenantScheduler,
  type DriverJob,
  type JobOutcome,
  type JobRunner,
  memoryDriver,
} from '@partywall/scheduler'
import { afterEach, describe, expect, it, vi } from 'vitest'

/** Waits for a condition; the limit is for machines that are busy with something else. */
const eventually = <T>(check: () => T) => vi.waitFor(check, { timeout: 15_000 })

let close: (() => Promise<void>) | undefined
afterEach(async () => {
  await close?.()
  close = undefined
})

/** A scheduler whose driver also records the context around each job, and hands its runner out. */
function setUp(ids: readonly string[], concurrency = 20) {
  const store = memoryTenantStore(ids.map((id) => ({ id })))
  // With a default tenant, so that "no tenant" has somewhere to leak to.
  const tenancy = createTenancy({ store, resolve: [fallback('public')] })
  const driver = memoryDriver({ concurrency })
  const around: string[] = []
  let run: JobRunner = () => Promise.reject(new Error('not started'))
  const start = driver.start.bind(driver)
  driver.start = (runner) => {
    run = async (job) => {
      around.push(tenancy.context.mode())
      const outcome = await runner(job)
      around.push(tenancy.context.mode())
      return outcome
    }
    return start(run)
  }
  const scheduler = createTenantScheduler(tenancy, { driver })
  close = () => tenancy.close()
  return { store, tenancy, scheduler, around, deliver: (job: DriverJob) => run(job) }
}

describe('jobs of several tenants', () => {
  it.each([10, 3])(
    'jobs of one tenant that never end leave room for another, of %d places',
    async (places) => {
      const { tenancy, scheduler } = setUp(['acme', 'globex'], places)
      const ran: string[] = []
      const end = Promise.withResolvers<void>()
      scheduler.define('hang', () => end.promise)
      scheduler.define('note', () => void ran.push(tenancy.require().tenant.id))
      await scheduler.start()
      for (let n = 0; n < 12; n++)
        await tenancy.run('acme', () => scheduler.enqueue('hang', 'acme', { id: `job-${n}` }))
      await tenancy.run('globex', () => scheduler.enqueue('note', 'globex', { id: 'job-0' }))
      await eventually(() => expect(ran).toEqual(['globex']))
      await tenancy.run('acme', async () => {
        expect(await scheduler.listJobs({ state: 'active' })).toHaveLength(Math.floor(places / 2))
      })
      end.resolve()
    },
  )

  it('asks for a job by a name of any length, or by what is no name, without delay', async () => {
    const { tenancy, scheduler } = setUp(['acme', 'globex'])
    for (let n = 0; n < 20; n++) scheduler.define(`orders.report-${n}`, () => {})
    const started = performance.now()
    for (const id of ['acme', 'globex'])
      for (const name of ['x'.repeat(3_000_000), { toString: 1 }, null])
        await expect(
          tenancy.run(id, () => scheduler.enqueue(name as string)),
        ).rejects.toMatchObject({ code: 'ERR_TENANCY_JOB_UNKNOWN' })
    expect(performance.now() - started).toBeLessThan(1_500)
  })

  it('J1 the payload cannot choose the tenant, and a job without one never runs as the default', async () => {
    const { store, tenancy, scheduler, deliver } = setUp(['acme', 'globex', 'public'])
    const ran: string[] = []
    const dropped: string[] = []
    tenancy.on(
      'job:dropped',
      ({ tenantId, reason }) => void dropped.push(`${String(tenantId)} ${reason}`),
    )
    scheduler.define('note', (data) => {
      ran.push(`${tenancy.require().tenant.id} ${JSON.stringify(data)}`)
    })
    await scheduler.start()
    const hostile = {
      tenantId: 'globex',
      tenant: { id: 'globex' },
      __tenant: 'globex',
      details: { tenant: 'globex' },
    }
    await tenancy.run('acme', () => scheduler.enqueue('note', hostile, { id: 'same' }))
    await eventually(() => expect(ran).toEqual([`acme ${JSON.stringify(hostile)}`]))
    const envelope = {
      id: 'same',
      name: 'note',
      data: '{"tenantId":"globex"}',
      attempt: 1,
      attempts: 1,
      details: {},
    }
    const find = vi.spyOn(store, 'findById')
    const outcomes: JobOutcome[] = []
    for (const tenantId of [
      undefined,
      '',
      'nobody',
      'ACME',
      'acme:x',
      '__proto__',
      'central',
      7,
      null,
    ])
      outcomes.push(await deliver({ ...envelope, tenantId: tenantId as string }))
    // The details of a job are no way in either.
    outcomes.push(
      await deliver({
        ...envelope,
        tenantId: 'nobody',
        details: { tenant: { id: 'globex' }, tenantId: 'globex' } as never,
      }),
    )
    // What is no tenant id is not even looked up.
    expect(find.mock.calls.map(([id]) => id)).toEqual(['nobody'])
    expect(new Set(outcomes.map(({ kind }) => kind))).toEqual(new Set(['dropped']))
    expect(dropped).toHaveLength(10)
    expect(ran).toHaveLength(1)
  })

  it('J2 50 tenants, 20 workers, retries and delays: the context is the job’s, and empty before and after', async () => {
    const ids = Array.from({ length: 50 }, (_, index) => `tenant-${index}`)
    const { tenancy, scheduler, around } = setUp(ids)
    const seed = Date.now() % 1_000_000
    console.log(`J2 seed ${seed}`)
    let state = seed
    const random = (below: number): number => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
      return state % below
    }
    const perTenant = 24
    let wrong = 0
    let attempts = 0
    const done = new Map<string, number>()
    tenancy.on('job:failed', ({ tenantId, error }) => {
      if (!String(error).includes(`canary ${tenantId}.`)) wrong++
    })
    scheduler.define<{ canary: string; failures: number; kind: number }>(
      'work',
      async (data, job) => {
        attempts++
        const check = (): void => {
          if (tenancy.current()?.tenant.id !== data.canary || job.tenant.id !== data.canary) wrong++
        }
        check()
        if (job.attempt <= data.failures && data.kind === 0)
          throw new Error(`canary ${data.canary}.`)
        await sleep(data.kind)
        check()
        await new Promise<void>((resolve) => setImmediate(resolve))
        check()
        if (job.attempt <= data.failures) await Promise.reject(new Error(`canary ${data.canary}.`))
        done.set(data.canary, (done.get(data.canary) ?? 0) + 1)
      },
    )
    // Started in a tenant, whose context must not stick to the workers.
    await tenancy.run('tenant-0', () => scheduler.start())
    let expected = 0
    await tenancy.forEach({}, async ({ tenant }) => {
      for (let index = 0; index < perTenant; index++) {
        const failures = random(3)
        expected += failures + 1
        await scheduler.enqueue(
          'work',
          { canary: tenant.id, failures, kind: random(4) },
          // The same ids in every tenant.
          { id: `job-${index}`, attempts: 3, backoffMs: random(8), delayMs: random(3) * 7 },
        )
      }
    })
    await eventually(() =>
      expect([...done.values()].reduce((sum, count) => sum + count, 0)).toBe(50 * perTenant),
    )
    await scheduler.close()
    expect(wrong).toBe(0)
    expect(attempts).toBe(expected)
    expect(new Set(done.values())).toEqual(new Set([perTenant]))
    expect(around).toHaveLength(2 * expected)
    expect(new Set(around)).toEqual(new Set(['none']))
    expect(tenancy.current()).toBeUndefined()
  })

  it('J3 equal job and schedule ids of two tenants coexist; upsert and remove touch one only', async () => {
    const { tenancy, scheduler } = setUp(['acme', 'globex'])
    const ran: string[] = []
    scheduler.define('note', (data, { id, scheduleId }) => {
      ran.push(`${tenancy.require().tenant.id} ${scheduleId ?? id} ${String(data)}`)
    })
    const each = async (fn: (canary: string) => Promise<unknown>): Promise<void> => {
      for (const id of ['acme', 'globex']) await tenancy.run(id, () => fn(id))
    }
    await each(async (canary) => {
      expect(await scheduler.enqueue('note', canary, { id: 'import', delayMs: 60_000 })).toEqual({
        id: 'import',
        added: true,
      })
      await scheduler.schedule('daily-report', { cron: '0 6 * * *' }, 'note', canary)
    })
    await tenancy.run('acme', () =>
      scheduler.schedule('daily-report', { everyMs: 15 }, 'note', 'acme changed'),
    )
    expect(await tenancy.run('globex', () => scheduler.list())).toMatchObject([
      { id: 'daily-report', data: 'globex', timing: { cron: '0 6 * * *' } },
    ])
    await scheduler.start()
    await eventually(() => expect(ran).toContain('acme daily-report acme changed'))
    expect(await tenancy.run('acme', () => scheduler.remove('daily-report'))).toBe(true)
    expect(await tenancy.run('acme', () => scheduler.removeJob('import'))).toBe(true)
    expect(
      await tenancy.run('acme', async () => [await scheduler.list(), await scheduler.listJobs()]),
    ).toEqual([[], []])
    expect(
      await tenancy.run('globex', async () => [await scheduler.list(), await scheduler.listJobs()]),
    ).toMatchObject([
      [{ id: 'daily-report', data: 'globex' }],
      [{ id: 'import', data: 'globex', state: 'delayed' }],
    ])
    // Ids that try to reach across are just ids that nobody has.
    for (const id of [
      'globex:import',
      'globex/import',
      '../globex/import',
      '{globex}:import',
      '__proto__',
    ]) {
      expect(await tenancy.run('acme', () => scheduler.getJob(id))).toBeUndefined()
      expect(await tenancy.run('acme', () => scheduler.removeJob(id))).toBe(false)
      expect(await tenancy.run('acme', () => scheduler.remove(id))).toBe(false)
    }
    expect(ran.every((line) => line.startsWith('acme '))).toBe(true)
  })

  it('J6 jobs of a suspended tenant wait, of a deleted one are dropped, and none runs centrally', async () => {
    const { store, tenancy, scheduler, around } = setUp(['acme', 'globex', 'initech'])
    const ran: string[] = []
    const dropped: string[] = []
    tenancy.on('job:dropped', ({ tenantId }) => void dropped.push(tenantId))
    scheduler.define('note', (data) => {
      ran.push(
        `${tenancy.context.mode()} ${tenancy.current()?.tenant.id ?? 'nobody'} ${String(data)}`,
      )
    })
    for (const id of ['acme', 'globex', 'initech'])
      await tenancy.run(id, async () => {
        await scheduler.enqueue('note', id, { id: 'same' })
        await scheduler.enqueue('note', id, { id: 'later', delayMs: 20 })
        await scheduler.schedule('often', { everyMs: 10 }, 'note', id)
      })
    store.update('acme', { status: 'suspended' })
    store.delete('initech')
    await tenancy.central('start the workers', () => scheduler.start())
    await eventually(() => expect(ran.length).toBeGreaterThan(6))
    expect(new Set(ran)).toEqual(new Set(['tenant globex globex']))
    await eventually(() => expect(dropped).toEqual(['initech', 'initech', 'initech']))
    store.update('acme', { status: 'active' })
    await eventually(() =>
      expect(ran.filter((line) => line === 'tenant acme acme').length).toBeGreaterThan(3),
    )
    await scheduler.close()
    expect(new Set(ran)).toEqual(new Set(['tenant globex globex', 'tenant acme acme']))
    expect(new Set(around)).toEqual(new Set(['none']))
  })
})
