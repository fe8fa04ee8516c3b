import { setTimeout as sleep } from 'node:timers/promises'
import { createTenancy, memoryTenantStore, TenancyError } from '@partywall/core'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { describeSchedulerDriver } from '../../test/scheduler-driver-contract.ts'
import { createTenantScheduler } from '../tenant-scheduler.ts'
import { type MemoryDriverOptions, memoryDriver } from './memory.ts'

/** Waits for a condition; the limit is for machines that are busy with something else. */
const eventually = <T>(check: () => T) => vi.waitFor(check, { timeout: 15_000 })

describeSchedulerDriver({
  name: 'memory',
  create: () => memoryDriver({ concurrency: 4, holdRecheckMs: 60_000 }),
})

const TENANTS = ['acme', 'globex'] as const

function setUp(options: MemoryDriverOptions = {}) {
  const store = memoryTenantStore(TENANTS.map((id) => ({ id })))
  const tenancy = createTenancy({ store })
  const scheduler = createTenantScheduler(tenancy, { driver: memoryDriver(options) })
  const ran: string[] = []
  scheduler.define('note', (_data, job) => {
    const at = job.scheduledFor ?? new Date()
    ran.push(`${tenancy.require().tenant.id} ${at.toISOString()}`)
  })
  const each = async (fn: () => Promise<unknown>): Promise<void> => {
    for (const id of TENANTS) await tenancy.run(id, fn)
  }
  return { store, tenancy, scheduler, ran, each }
}

describe('memory driver under a clock of ours', () => {
  beforeEach(() => void vi.useFakeTimers({ now: Date.parse('2026-03-28T12:00:00Z') }))
  afterEach(() => void vi.useRealTimers())
  const HOUR = 3_600_000

  it('runs 02:30 of Berlin once a day for each tenant, through both changes of the clock', async () => {
    const { tenancy, scheduler, ran, each } = setUp()
    await scheduler.start()
    const berlin = { cron: '30 2 * * *', timezone: 'Europe/Berlin' }
    await each(() => scheduler.schedule('nightly', berlin, 'note'))
    await vi.advanceTimersByTimeAsync(48 * HOUR)
    for (const tenant of TENANTS)
      expect(ran.filter((line) => line.startsWith(tenant))).toEqual([
        `${tenant} 2026-03-29T01:00:00.000Z`,
        `${tenant} 2026-03-30T00:30:00.000Z`,
      ])
    ran.length = 0
    vi.setSystemTime(Date.parse('2026-10-24T12:00:00Z'))
    await each(() => scheduler.remove('nightly'))
    await each(() => scheduler.schedule('nightly', berlin, 'note'))
    await vi.advanceTimersByTimeAsync(48 * HOUR)
    for (const tenant of TENANTS)
      expect(ran.filter((line) => line.startsWith(tenant))).toEqual([
        `${tenant} 2026-10-25T00:30:00.000Z`,
        `${tenant} 2026-10-26T01:30:00.000Z`,
      ])
    await tenancy.close()
  })

  it('runs a tick once for each tenant when the clock is set back over it', async () => {
    const { tenancy, scheduler, ran, each } = setUp()
    await scheduler.start()
    await each(() => scheduler.schedule('hourly', { cron: '0 * * * *' }, 'note'))
    await vi.advanceTimersByTimeAsync(HOUR + 5_000)
    expect(ran).toHaveLength(2)
    vi.setSystemTime(Date.parse('2026-03-28T12:30:00Z'))
    await vi.advanceTimersByTimeAsync(HOUR)
    expect(ran).toHaveLength(2)
    await vi.advanceTimersByTimeAsync(HOUR)
    expect(ran.toSorted()).toEqual(
      TENANTS.flatMap((id) => [`${id} 2026-03-28T13:00:00.000Z`, `${id} 2026-03-28T14:00:00.000Z`]),
    )
    await tenancy.close()
  })

  it('runs a tick once when the clock is set back by a little while the tick is being handled', async () => {
    const { tenancy, scheduler, ran } = setUp()
    await scheduler.start()
    await tenancy.run('acme', () => scheduler.schedule('hourly', { cron: '0 * * * *' }, 'note'))
    await vi.advanceTimersByTimeAsync(HOUR - 1)
    const due = Date.now() + 1
    let reads = 0
    const clock = vi.spyOn(Date, 'now').mockImplementation(() => {
      if (reads > 1_000) throw new Error('The tick comes again and again.')
      // The first reading lets the alarm go off.
      return reads++ === 0 ? due : due - 5
    })
    setTimeout(() => clock.mockRestore(), 2)
    await vi.advanceTimersByTimeAsync(1_000)
    expect(ran).toEqual(['acme 2026-03-28T13:00:00.000Z'])
    await tenancy.close()
  })

  it('makes up for one tick, not for all, when the clock is set forward', async () => {
    const { tenancy, scheduler, ran, each } = setUp()
    await scheduler.start()
    await each(() => scheduler.schedule('hourly', { cron: '0 * * * *' }, 'note'))
    vi.setSystemTime(Date.parse('2026-03-29T09:30:00Z'))
    await vi.advanceTimersByTimeAsync(31_000)
    expect(ran).toHaveLength(2)
    await vi.advanceTimersByTimeAsync(HOUR / 2)
    expect(ran).toHaveLength(4)
    await tenancy.close()
  })

  it('gives each tick’s job an id of its own while the clock stands still, and keeps its books', async () => {
    const { tenancy, scheduler, each } = setUp({ maxJobsPerTenant: 2, maxFailedPerTenant: 100 })
    tenancy.on('job:failed', () => {})
    scheduler.define('fail', () => {
      throw new Error('x')
    })
    await scheduler.start()
    const clock = vi.spyOn(Date, 'now').mockReturnValue(Date.parse('2026-03-28T12:00:00Z'))
    await each(() => scheduler.schedule('tick', { everyMs: 1_000 }, 'fail'))
    await vi.advanceTimersByTimeAsync(20_500)
    // Declared anew, it begins where the failed ones already are.
    await each(() => scheduler.remove('tick'))
    await each(() => scheduler.schedule('tick', { everyMs: 1_000 }, 'fail'))
    await vi.advanceTimersByTimeAsync(10_500)
    clock.mockRestore()
    await each(async () => {
      const jobs = await scheduler.listJobs()
      expect(jobs).toHaveLength(30)
      expect(new Set(jobs.map(({ id }) => id)).size).toBe(30)
      await scheduler.remove('tick')
      const later = { delayMs: HOUR }
      for (let n = 0; n < 2; n++) await scheduler.enqueue('note', null, later)
      await expect(scheduler.enqueue('note', null, later)).rejects.toMatchObject({
        code: 'ERR_TENANCY_JOB_QUEUE_FULL',
      })
    })
    await tenancy.close()
  })

  it('keeps the distance of everyMs and delayMs when the clock is set', async () => {
    const { tenancy, scheduler, ran, each } = setUp()
    await scheduler.start()
    await each(() => scheduler.schedule('often', { everyMs: 60_000 }, 'note'))
    await each(() => scheduler.enqueue('note', null, { delayMs: 90_000 }))
    vi.setSystemTime(Date.parse('2026-03-27T00:00:00Z'))
    await vi.advanceTimersByTimeAsync(60_000)
    expect(ran).toHaveLength(2)
    await vi.advanceTimersByTimeAsync(30_000)
    expect(ran).toHaveLength(4)
    vi.setSystemTime(Date.parse('2027-01-01T00:00:00Z'))
    await vi.advanceTimersByTimeAsync(60_000)
    expect(ran).toHaveLength(6)
    await tenancy.close()
  })

  it('lets no ticks pile up behind a slow job or a suspended tenant', async () => {
    const { store, tenancy, scheduler, ran, each } = setUp()
    await scheduler.start()
    await each(() => scheduler.schedule('often', { everyMs: 1_000 }, 'note'))
    store.update('acme', { status: 'suspended' })
    await vi.advanceTimersByTimeAsync(60_500)
    expect(ran.filter((line) => line.startsWith('globex'))).toHaveLength(60)
    expect(ran.filter((line) => line.startsWith('acme'))).toHaveLength(0)
    store.update('acme', { status: 'active' })
    await vi.advanceTimersByTimeAsync(100)
    expect(ran.filter((line) => line.startsWith('acme'))).toHaveLength(1)
    await vi.advanceTimersByTimeAsync(1_000)
    expect(ran.filter((line) => line.startsWith('acme'))).toHaveLength(2)
    await tenancy.close()
  })

  it('tries a held tenant again although nobody says that it changed', async () => {
    const { tenancy, scheduler, ran } = setUp({ holdRecheckMs: 5_000 })
    await scheduler.start()
    await tenancy.run('acme', () => scheduler.enqueue('note', null, { delayMs: 10 }))
    // A store outage ends without a word.
    const down = vi.spyOn(tenancy.lookup, 'find').mockRejectedValue(new Error('down'))
    await vi.advanceTimersByTimeAsync(12_000)
    expect(ran).toEqual([])
    expect(down.mock.calls.length).toBe(3)
    down.mockRestore()
    await vi.advanceTimersByTimeAsync(5_000)
    expect(ran).toHaveLength(1)
    await tenancy.close()
  })

  it('uses two timers for any number of tenants, schedules and jobs, and none once closed', async () => {
    const many = Array.from({ length: 500 }, (_, index) => `t-${index}`)
    const tenancy = createTenancy({ store: memoryTenantStore(many.map((id) => ({ id }))) })
    const scheduler = createTenantScheduler(tenancy, { driver: memoryDriver() })
    let ran = 0
    scheduler.define('note', () => void ran++)
    await scheduler.start()
    const before = vi.getTimerCount()
    await scheduler.scheduleForEach({}, 'daily-report', { cron: '0 6 * * *' }, 'note')
    await tenancy.forEach({}, () => scheduler.enqueue('note', null, { delayMs: 10_000 }))
    expect(vi.getTimerCount() - before).toBe(2)
    await vi.advanceTimersByTimeAsync(24 * HOUR)
    expect(ran).toBe(1_000)
    await tenancy.close()
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('memory driver', () => {
  it('does not miss that a tenant changed while its job was being put off', async () => {
    const driver = memoryDriver({ holdRecheckMs: 3_600_000 })
    const gate = Promise.withResolvers<void>()
    const seen: number[] = []
    await driver.start(async ({ attempt }) => {
      seen.push(attempt)
      if (seen.length > 1) return { kind: 'completed' }
      await gate.promise
      return { kind: 'held' }
    })
    const job = {
      name: 'note',
      data: undefined,
      attempts: 1,
      backoffMs: 0,
      delayMs: 0,
      details: {},
    }
    await driver.addJob('acme', { ...job, id: 'same' })
    driver.wake('acme')
    gate.resolve()
    await eventually(() => expect(seen).toEqual([1, 1]))
    await driver.close({ timeoutMs: 0 })
  })

  it('refuses more jobs of a tenant than it may keep, whoever else has room', async () => {
    const { tenancy, scheduler } = setUp({ maxJobsPerTenant: 2 })
    const add = (tenant: string) => tenancy.run(tenant, () => scheduler.enqueue('note'))
    await add('acme')
    await add('acme')
    const error = await add('acme').catch((reason: unknown) => reason)
    expect(TenancyError.is(error, 'ERR_TENANCY_JOB_QUEUE_FULL')).toBe(true)
    expect(await add('globex')).toMatchObject({ added: true })
    await tenancy.close()
  })

  it('keeps the newest failed jobs of each tenant', async () => {
    const { tenancy, scheduler, each } = setUp({ maxFailedPerTenant: 3, concurrency: 1 })
    let failures = 0
    tenancy.on('job:failed', () => void failures++)
    scheduler.define('fail', () => Promise.reject(new Error('no')))
    for (let index = 0; index < 6; index++)
      await each(() => scheduler.enqueue('fail', null, { id: `job-${index}` }))
    await scheduler.start()
    await eventually(() => expect(failures).toBe(12))
    await sleep(5)
    await each(async () =>
      expect((await scheduler.listJobs()).map(({ id }) => id)).toEqual(['job-3', 'job-4', 'job-5']),
    )
    await tenancy.close()
  })

  it.each([
    { concurrency: 0 },
    { concurrencyPerTenant: 1.5 },
    { concurency: 3 },
    { holdRecheckMs: 'never' },
  ])('refuses the options %j', (options) => {
    expect(() => memoryDriver(options as MemoryDriverOptions)).toThrow(TenancyError)
  })
})
