import { setTimeout as sleep } from 'node:timers/promises'
import { createTenancy, memoryTenantStore, type TenancyEvents } from '@partywall/core'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createTenantScheduler, type TenantScheduler } from '../src/index.ts'
import type { DriverJob, SchedulerDriver } from '../src/scheduler-driver.ts'

/** Waits for a condition; the limit is for machines that are busy with something else. */
const eventually = <T>(check: () => T) => vi.waitFor(check, { timeout: 15_000 })

/** What the contract needs of a driver under test: room for four jobs at one time. */
export interface DriverUnderTest {
  readonly name: string
  create(): SchedulerDriver | Promise<SchedulerDriver>
}

const TENANTS = ['acme', 'globex'] as const

/** The promises of {@link SchedulerDriver}, for any driver. Times are short and real, since not every driver runs on our clock. */
export function describeSchedulerDriver({ name, create }: DriverUnderTest): void {
  describe(`scheduler driver contract: ${name}`, () => {
    let close: (() => Promise<void>) | undefined
    afterEach(async () => {
      await close?.()
      close = undefined
    })

    const setUp = async () => {
      const store = memoryTenantStore(TENANTS.map((id) => ({ id })))
      const tenancy = createTenancy({ store })
      const driver = await create()
      const scheduler = createTenantScheduler(tenancy, { driver, closeTimeoutMs: 2_000 })
      const ran: string[] = []
      const failed: TenancyEvents['job:failed'][] = []
      const dropped: TenancyEvents['job:dropped'][] = []
      tenancy.on('job:failed', (event) => void failed.push(event))
      tenancy.on('job:dropped', (event) => void dropped.push(event))
      scheduler.define('note', (data, job) => {
        ran.push(`${tenancy.require().tenant.id} ${job.id} ${String(data)} #${job.attempt}`)
      })
      close = () => tenancy.close()
      const each = async (fn: (scheduler: TenantScheduler, id: string) => Promise<unknown>) => {
        for (const id of TENANTS) await tenancy.run(id, () => fn(scheduler, id))
      }
      return { store, tenancy, scheduler, ran, failed, dropped, each }
    }

    it('runs jobs of equal ids once in each tenant, what was added before start() included', async () => {
      const { scheduler, ran, each } = await setUp()
      await each((jobs, id) => jobs.enqueue('note', `${id}-1`, { id: 'same' }))
      await sleep(20)
      expect(ran).toEqual([])
      await scheduler.start()
      await eventually(() =>
        expect(ran.toSorted()).toEqual(['acme same acme-1 #1', 'globex same globex-1 #1']),
      )
      // A finished job does not block its id.
      await each((jobs, id) => jobs.enqueue('note', `${id}-2`, { id: 'same' }))
      await eventually(() => expect(ran).toHaveLength(4))
    })

    it('keeps one unfinished job of an id, in its own tenant', async () => {
      const { tenancy, scheduler, ran } = await setUp()
      const add = (tenant: string, data: string) =>
        tenancy.run(tenant, () => scheduler.enqueue('note', data, { id: 'same' }))
      expect(await add('acme', 'acme-1')).toEqual({ id: 'same', added: true })
      expect(await add('acme', 'acme-2')).toEqual({ id: 'same', added: false })
      expect(await add('globex', 'globex-1')).toEqual({ id: 'same', added: true })
      expect(await tenancy.run('globex', () => scheduler.getJob('same'))).toMatchObject({
        data: 'globex-1',
        state: 'waiting',
      })
      expect(await tenancy.run('acme', () => scheduler.removeJob('same'))).toBe(true)
      expect(await tenancy.run('acme', () => scheduler.removeJob('same'))).toBe(false)
      expect(await tenancy.run('acme', () => scheduler.listJobs())).toEqual([])
      await scheduler.start()
      await eventually(() => expect(ran).toEqual(['globex same globex-1 #1']))
    })

    it('delays, retries with a doubled pause, and keeps what failed for good', async () => {
      const { tenancy, scheduler, failed, each } = await setUp()
      const times: Record<string, number[]> = { acme: [], globex: [] }
      scheduler.define('fail', (data) => {
        times[String(data)]?.push(performance.now())
        throw new Error(`no, ${String(data)}`)
      })
      await scheduler.start()
      const from = performance.now()
      await each((jobs, id) =>
        jobs.enqueue('fail', id, { id: 'same', attempts: 3, backoffMs: 40, delayMs: 200 }),
      )
      expect(await tenancy.run('acme', () => scheduler.getJob('same'))).toMatchObject({
        state: 'delayed',
      })
      await eventually(() => expect(failed.filter(({ final }) => final)).toHaveLength(2))
      for (const tenant of TENANTS) {
        const [first = 0, second = 0, third = 0] = times[tenant] ?? []
        expect(times[tenant]).toHaveLength(3)
        expect(first - from).toBeGreaterThanOrEqual(198)
        expect(second - first).toBeGreaterThanOrEqual(38)
        expect(third - second).toBeGreaterThanOrEqual(78)
        const job = () => tenancy.run(tenant, () => scheduler.getJob('same'))
        await eventually(async () =>
          expect(await job()).toMatchObject({
            state: 'failed',
            attempt: 3,
            failure: `Error: no, ${tenant}`,
          }),
        )
        expect(
          failed.filter(({ tenantId }) => tenantId === tenant).map(({ attempt }) => attempt),
        ).toEqual([1, 2, 3])
      }
      // A failed job does not block its id either.
      expect(
        await tenancy.run('acme', () => scheduler.enqueue('note', 'x', { id: 'same' })),
      ).toMatchObject({ added: true })
    })

    it('ticks a schedule in each tenant, and pauses, resumes and removes that of one alone', async () => {
      const { tenancy, scheduler, ran, each } = await setUp()
      await scheduler.start()
      await each((jobs, id) => jobs.schedule('daily-report', { everyMs: 30 }, 'note', id))
      const count = (tenant: string) => ran.filter((line) => line.startsWith(`${tenant} `)).length
      await eventually(() => expect(Math.min(count('acme'), count('globex'))).toBeGreaterThan(2))
      expect(ran.every((line) => line.split(' ')[0] === line.split(' ')[2])).toBe(true)

      expect(await tenancy.run('acme', () => scheduler.pause('daily-report'))).toBe(true)
      await sleep(100)
      const paused = count('acme')
      const others = count('globex')
      await eventually(() => expect(count('globex')).toBeGreaterThan(others + 2))
      expect(count('acme')).toBe(paused)
      expect(await tenancy.run('acme', () => scheduler.get('daily-report'))).toMatchObject({
        id: 'daily-report',
        paused: true,
        data: 'acme',
      })

      expect(await tenancy.run('acme', () => scheduler.resume('daily-report'))).toBe(true)
      await eventually(() => expect(count('acme')).toBeGreaterThan(paused))
      expect(await tenancy.run('acme', () => scheduler.remove('daily-report'))).toBe(true)
      expect(await tenancy.run('acme', () => scheduler.remove('daily-report'))).toBe(false)
      expect(await tenancy.run('acme', () => scheduler.list())).toEqual([])
      expect(await tenancy.run('globex', () => scheduler.list())).toMatchObject([
        { id: 'daily-report', data: 'globex', paused: false },
      ])
    })

    it('replaces a schedule of the same id, and leaves the next run of an equal one alone', async () => {
      const { tenancy, scheduler, each } = await setUp()
      await each((jobs, id) => jobs.schedule('daily-report', { everyMs: 60_000 }, 'note', id))
      const before = await tenancy.run('acme', () => scheduler.get('daily-report'))
      await sleep(20)
      const put = (everyMs: number, data: string) =>
        tenancy.run('acme', () => scheduler.schedule('daily-report', { everyMs }, 'note', data))
      const again = await put(60_000, 'acme-2')
      expect(Math.abs(Number(again.nextRunAt) - Number(before?.nextRunAt))).toBeLessThan(5)
      expect(again.data).toBe('acme-2')
      expect(Number((await put(120_000, 'acme-3')).nextRunAt)).toBeGreaterThan(Date.now() + 110_000)
      expect(await tenancy.run('globex', () => scheduler.list())).toMatchObject([
        { data: 'globex', timing: { everyMs: 60_000 } },
      ])
    })

    it('holds the jobs of a suspended tenant until it is active again, and no others', async () => {
      const { store, tenancy, scheduler, ran, failed, each } = await setUp()
      await each((jobs, id) => jobs.enqueue('note', `${id}-1`, { id: 'same' }))
      store.update('acme', { status: 'suspended' })
      await scheduler.start()
      await eventually(() => expect(ran).toEqual(['globex same globex-1 #1']))
      await sleep(40)
      expect(ran).toHaveLength(1)
      store.update('acme', { status: 'active' })
      // The attempt that was put off does not count.
      await eventually(() => expect(ran[1]).toBe('acme same acme-1 #1'))
      expect(failed).toEqual([])
      expect(tenancy.current()).toBeUndefined()
    })

    it('drops jobs and schedules of a deleted tenant, and no others', async () => {
      const { store, scheduler, ran, dropped, each } = await setUp()
      await each(async (jobs, id) => {
        await jobs.enqueue('note', id, { id: 'same' })
        await jobs.schedule('daily-report', { everyMs: 20 }, 'note', id)
      })
      store.delete('acme')
      await scheduler.start()
      await eventually(() => expect(ran.length).toBeGreaterThan(3))
      expect(ran.every((line) => line.startsWith('globex '))).toBe(true)
      expect(
        dropped.map(({ tenantId, scheduleId, reason }) => [tenantId, scheduleId, reason]),
      ).toEqual([
        ['acme', undefined, 'unknown'],
        ['acme', 'daily-report', 'unknown'],
      ])
    })

    it('lets tenants take turns', async () => {
      const { tenancy, scheduler, each } = await setUp()
      const order: string[] = []
      scheduler.define('work', async () => {
        order.push(tenancy.require().tenant.id)
        await sleep(2)
      })
      await each(async (jobs, id) => {
        for (let index = 0; index < (id === 'acme' ? 200 : 5); index++) await jobs.enqueue('work')
      })
      await scheduler.start()
      await eventually(() => expect(order.lastIndexOf('globex')).toBeGreaterThan(-1))
      await eventually(() => expect(order).toHaveLength(205))
      // In turns the fifth of globex is the tenth or so of all, whoever has more.
      expect(order.lastIndexOf('globex')).toBeLessThan(24)
    })

    it('gives the driver no context to run anything in', async () => {
      const driver = await create()
      const tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
      const modes: string[] = []
      const start = driver.start.bind(driver)
      driver.start = (run) =>
        start(async (job: DriverJob) => {
          modes.push(tenancy.context.mode())
          const outcome = await run(job)
          modes.push(tenancy.context.mode())
          return outcome
        })
      const scheduler = createTenantScheduler(tenancy, { driver })
      close = () => tenancy.close()
      tenancy.on('job:failed', () => {})
      let done = 0
      scheduler.define('throw', async () => {
        done++
        if (done % 3 === 0) throw new Error('sync')
        await sleep(1)
        if (done % 3 === 1) await Promise.reject(new Error('rejected'))
      })
      // Started, enqueued, scheduled and held inside tenants: none of it may stick to the driver.
      await tenancy.run('acme', () => scheduler.start())
      for (const tenant of TENANTS)
        await tenancy.run(tenant, async () => {
          await scheduler.schedule('daily-report', { everyMs: 15 }, 'throw')
          for (let index = 0; index < 6; index++)
            await scheduler.enqueue('throw', index, {
              attempts: 2,
              backoffMs: 5,
              delayMs: index % 2,
            })
        })
      await eventually(() => expect(done).toBeGreaterThan(30))
      await tenancy.run('globex', () => scheduler.close())
      expect(new Set(modes)).toEqual(new Set(['none']))
    })

    it('waits for running jobs when it closes, and starts nothing afterwards', async () => {
      const { tenancy, scheduler, each } = await setUp()
      const log: string[] = []
      scheduler.define('slow', async () => {
        const { id } = tenancy.require().tenant
        log.push(`${id} begins`)
        await sleep(60)
        log.push(`${id} ends`)
        throw new Error('retried, were there time')
      })
      await scheduler.start()
      await each(async (jobs) => {
        for (let index = 0; index < 6; index++)
          await jobs.enqueue('slow', index, { attempts: 5, backoffMs: 1 })
        await jobs.schedule('often', { everyMs: 5 }, 'slow')
      })
      await eventually(() => expect(log.length).toBeGreaterThan(1))
      const begun = log.filter((line) => line.endsWith('begins')).length
      expect(begun).toBeGreaterThan(0)
      await scheduler.close()
      expect(log.filter((line) => line.endsWith('begins'))).toHaveLength(begun)
      expect(log.filter((line) => line.endsWith('ends'))).toHaveLength(begun)
      await sleep(80)
      expect(log.filter((line) => line.endsWith('begins'))).toHaveLength(begun)
    })
  })
}
