import { setTimeout as sleep } from 'node:timers/promises'
import {
  createPluginHost,
  createTenancy,
  definePlugin,
  memoryTenantStore,
  TenancyError,
  type TenancyErrorCode,
  type TenancyEvents,
} from '@partywall/core'
import { afterAll, describe, expect, expectTypeOf, it, vi } from 'vitest'
import { memoryDriver } from './drivers/memory.ts'
import type { EnqueueOptions, JobContext, ScheduleTiming } from './job.ts'
import { createTenantScheduler, type TenantSchedulerOptions } from './tenant-scheduler.ts'

/** Waits for a condition; the limit is for machines that are busy with something else. */
const eventually = <T>(check: () => T) => vi.waitFor(check, { timeout: 15_000 })

const open: { close(): Promise<void> }[] = []
afterAll(async () => {
  for (const tenancy of open.splice(0)) await tenancy.close()
})

function setUp(options: Partial<TenantSchedulerOptions> = {}) {
  const store = memoryTenantStore([
    { id: 'acme' },
    { id: 'globex' },
    { id: 'retired', status: 'suspended' },
  ])
  const tenancy = createTenancy({ store })
  open.push(tenancy)
  const scheduler = createTenantScheduler(tenancy, { driver: memoryDriver(), ...options })
  scheduler.define('note', () => {})
  const inAcme = <T>(fn: () => T) => tenancy.run('acme', fn)
  return { store, tenancy, scheduler, inAcme }
}

async function codeOf(promise: Promise<unknown>): Promise<TenancyErrorCode | undefined> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  return TenancyError.is(error) ? error.code : undefined
}

describe('outside of every tenant', () => {
  it('refuses whatever acts for one', async () => {
    const { tenancy, scheduler } = setUp()
    const calls = () => [
      scheduler.enqueue('note'),
      scheduler.schedule('s', { everyMs: 1_000 }, 'note'),
      scheduler.get('s'),
      scheduler.list(),
      scheduler.pause('s'),
      scheduler.resume('s'),
      scheduler.remove('s'),
      scheduler.getJob('j'),
      scheduler.listJobs(),
      scheduler.removeJob('j'),
    ]
    for (const call of [...calls(), ...tenancy.central('test', calls)])
      expect(await codeOf(call)).toBe('ERR_TENANCY_CONTEXT_MISSING')
  })
})

describe('bad input', () => {
  const { scheduler, inAcme } = setUp()
  const cycle: Record<string, unknown> = {}
  cycle['self'] = cycle

  it.each(['', 'note2', '__proto__', 'constructor', null, {}, ['note']])(
    'knows no job %j',
    async (name) => {
      expect(await codeOf(inAcme(() => scheduler.enqueue(name as string)))).toBe(
        'ERR_TENANCY_JOB_UNKNOWN',
      )
      expect(
        await codeOf(inAcme(() => scheduler.schedule('s', { everyMs: 9 }, name as string))),
      ).toBe('ERR_TENANCY_JOB_UNKNOWN')
    },
  )

  it.each([
    '',
    'a:b',
    '123',
    'a/b',
    'a\nb',
    'ä',
    'x'.repeat(129),
    7,
    null,
    { toString: () => 'a' },
  ])('refuses the id %j', async (id) => {
    const options = { id } as EnqueueOptions
    expect(await codeOf(inAcme(() => scheduler.enqueue('note', 1, options)))).toBe(
      'ERR_TENANCY_JOB_INVALID',
    )
    expect(
      await codeOf(inAcme(() => scheduler.schedule(id as string, { everyMs: 9 }, 'note'))),
    ).toBe('ERR_TENANCY_JOB_INVALID')
  })

  it.each([
    ['a function', () => 1],
    ['a symbol', Symbol('x')],
    ['a bigint', 1n],
    ['a cycle', cycle],
    ['two megabytes', 'x'.repeat(2_000_000)],
  ])('refuses %s as data', async (_what, data) => {
    expect(await codeOf(inAcme(() => scheduler.enqueue('note', data)))).toBe(
      'ERR_TENANCY_JOB_INVALID',
    )
  })

  it.each([
    { delayMs: -1 },
    { delayMs: 1.5 },
    { delayMs: Number.NaN },
    { delayMs: 1e15 },
    { delayMs: '5' },
    { attempts: 0 },
    { attempts: 1e9 },
    { backoffMs: Number.POSITIVE_INFINITY },
    { delay: 5 },
    null,
  ])('refuses the options %j', async (options) => {
    expect(
      await codeOf(inAcme(() => scheduler.enqueue('note', 1, options as EnqueueOptions))),
    ).toBe('ERR_TENANCY_JOB_INVALID')
  })

  it.each([
    {},
    null,
    { everyMs: 0 },
    { everyMs: 1_000, cron: '* * * * *' },
    { everyMs: 1_000, timezone: 'UTC' },
    { cron: '' },
    { cron: '* * *' },
    { cron: '61 * * * *' },
    { cron: '* * * * * * 2030' },
    { cron: '0 0 30 2 *' },
    { cron: '2030-01-01T00:00:00' },
    { cron: `${'1,'.repeat(500)}1 * * * *` },
    { cron: '* * * * *', timezone: 'Mars/Olympus' },
    { cron: '* * * * *', timezone: '../etc' },
    { cron: '* * * * *', timezone: null },
    { crom: '* * * * *' },
  ])('refuses the timing %j', async (timing) => {
    const call = inAcme(() => scheduler.schedule('s', timing as ScheduleTiming, 'note'))
    expect(await codeOf(call)).toBe('ERR_TENANCY_JOB_INVALID')
  })

  it('refuses names and handlers that are none, and a second definition', () => {
    for (const name of ['', '1x', 'a b', 'a\nb', 7])
      expect(() => scheduler.define(name as string, () => {})).toThrow(TenancyError)
    expect(() => scheduler.define('other', 'x' as never)).toThrow(/must be a function/)
    expect(() => scheduler.define('note', () => {})).toThrow(/defined already/)
  })

  it('names the option that was meant', async () => {
    const call = inAcme(() => scheduler.enqueue('note', 1, { delayMS: 5 } as EnqueueOptions))
    await expect(call).rejects.toThrow('Did you mean "delayMs"?')
  })

  it('refuses options of the scheduler that are wrong or unknown', () => {
    expect(() => setUp({ driver: {} as never })).toThrow(/needs a driver/)
    expect(() => setUp({ closeTimeoutMs: -1 })).toThrow(/closeTimeoutMs/)
    expect(() => setUp({ drivers: 1 } as never)).toThrow('Did you mean "driver"?')
  })
})

describe('a job', () => {
  it('gets a copy of its data, a fresh one at each attempt', async () => {
    const { tenancy, scheduler, inAcme } = setUp()
    const seen: unknown[] = []
    tenancy.on('job:failed', () => {})
    scheduler.define<{ list: string[] }>('mutate', (data) => {
      expectTypeOf(data.list).toEqualTypeOf<string[]>()
      data.list.push(`by ${tenancy.require().tenant.id}`)
      seen.push(data)
      if (seen.length === 1) throw new Error('again')
    })
    const data = { list: ['acme-1'] }
    await inAcme(() => scheduler.enqueue('mutate', data, { attempts: 2, backoffMs: 0 }))
    data.list.push('changed later')
    await scheduler.start()
    await eventually(() => expect(seen).toHaveLength(2))
    expect(seen).toEqual([{ list: ['acme-1', 'by acme'] }, { list: ['acme-1', 'by acme'] }])
    expect(data.list).toEqual(['acme-1', 'changed later'])
  })

  it('acts for whoever enqueued it, in the tenant as it is now', async () => {
    const { store, tenancy, scheduler } = setUp()
    const seen: { tenant: string }[] = []
    scheduler.define('who', (_data, job: JobContext) => {
      const { tenant, actor, impersonator, requestId } = tenancy.require()
      const who = { tenant: tenant.id, name: job.tenant.name, actor, impersonator, requestId }
      seen.push(who)
    })
    const details = { actor: { id: 'ann' }, impersonator: { id: 'op' }, requestId: 'r-1' }
    await tenancy.run('acme', () => scheduler.enqueue('who'), details)
    await tenancy.run('globex', () => scheduler.enqueue('who'))
    store.update('acme', { name: 'Acme renamed' })
    await scheduler.start()
    await eventually(() => expect(seen).toHaveLength(2))
    // The record of acme is fetched again, so that its job may come second.
    expect(seen.sort((a, b) => (a.tenant < b.tenant ? -1 : 1))).toEqual([
      { tenant: 'acme', name: 'Acme renamed', ...details },
      {
        tenant: 'globex',
        name: 'globex',
        actor: undefined,
        impersonator: undefined,
        requestId: undefined,
      },
    ])
  })

  it('enqueues for its own tenant', async () => {
    const { tenancy, scheduler } = setUp()
    const seen: string[] = []
    scheduler.define(
      'child',
      (data) => void seen.push(`${tenancy.require().tenant.id} ${String(data)}`),
    )
    scheduler.define('parent', (data) => scheduler.enqueue('child', data, { id: 'child' }))
    await scheduler.start()
    for (const id of ['acme', 'globex'])
      await tenancy.run(id, () => scheduler.enqueue('parent', id, { id: 'same' }))
    await eventually(() => expect(seen.toSorted()).toEqual(['acme acme', 'globex globex']))
  })

  it('is told by events, and by a warning where nobody listens', async () => {
    const { tenancy, scheduler, inAcme } = setUp()
    const warnings: string[] = []
    const onWarning = (warning: Error & { code?: string }) =>
      void (warning.code === 'PARTYWALL_JOB_FAILED' && warnings.push(warning.message))
    process.on('warning', onWarning)
    scheduler.define('fail', (data) => Promise.reject(new Error(String(data))))
    await scheduler.start()
    await inAcme(() => scheduler.enqueue('fail', 'bad\nline', { id: 'f-1' }))
    await eventually(() =>
      expect(warnings).toEqual(['Job fail of tenant acme failed: "Error: bad\\nline"']),
    )
    const events: unknown[] = []
    tenancy.on('job:failed', (event) => void events.push(event))
    tenancy.on('job:completed', (event) => void events.push(event))
    await inAcme(() => scheduler.enqueue('fail', 'x', { id: 'f-2' }))
    await inAcme(() => scheduler.enqueue('note', 'x', { id: 'n-1' }))
    await eventually(() => expect(events).toHaveLength(2))
    await sleep(5)
    process.off('warning', onWarning)
    expect(warnings).toHaveLength(1)
    expect(events).toMatchObject([
      { tenantId: 'acme', jobId: 'f-2', name: 'fail', attempt: 1, attempts: 1, final: true },
      { tenantId: 'acme', jobId: 'n-1', name: 'note', durationMs: expect.any(Number) },
    ])
  })

  it('of a tenant marked deleted is dropped, and of an archived one waits', async () => {
    const { store, tenancy, scheduler } = setUp()
    const dropped: TenancyEvents['job:dropped'][] = []
    tenancy.on('job:dropped', (event) => void dropped.push(event))
    for (const id of ['acme', 'globex'])
      await tenancy.run(id, () => scheduler.enqueue('note', id, { id: 'same' }))
    store.update('acme', { status: 'deleted' })
    store.update('globex', { status: 'archived' })
    await scheduler.start()
    await eventually(() =>
      expect(dropped).toMatchObject([{ tenantId: 'acme', jobId: 'same', reason: 'deleted' }]),
    )
    store.update('globex', { status: 'active' })
    const gone = async () =>
      (await tenancy.run('globex', () => scheduler.getJob('same'))) === undefined
    await eventually(async () => expect(await gone()).toBe(true))
    expect(dropped).toHaveLength(1)
  })
})

it('fails a job that no handler is defined for at once, and holds it while its tenant is suspended', async () => {
  const driver = memoryDriver()
  const { store, tenancy, scheduler } = setUp({ driver })
  const failed: TenancyEvents['job:failed'][] = []
  tenancy.on('job:failed', (event) => void failed.push(event))
  const job = { name: 'gone', data: undefined, attempts: 9, backoffMs: 0, delayMs: 0, details: {} }
  store.update('globex', { status: 'suspended' })
  // As a durable driver brings it from a process that has another version of the code.
  for (const tenant of ['acme', 'globex']) await driver.addJob(tenant, { ...job, id: 'same' })
  await scheduler.start()
  await eventually(() => expect(failed).toHaveLength(1))
  await sleep(20)
  expect(failed).toMatchObject([{ tenantId: 'acme', attempt: 1, attempts: 9, final: true }])
  expect(TenancyError.is(failed[0]?.error, 'ERR_TENANCY_JOB_UNKNOWN')).toBe(true)
})

describe('scheduleForEach', () => {
  it('schedules for every active tenant, and again without a second schedule', async () => {
    const { tenancy, scheduler } = setUp()
    const put = () =>
      scheduler.scheduleForEach({}, 'daily-report', { cron: '@daily' }, 'note', { a: 1 })
    expect((await put()).map(({ tenantId }) => tenantId)).toEqual(['acme', 'globex'])
    await put()
    for (const id of ['acme', 'globex'])
      expect(await tenancy.run(id, () => scheduler.list())).toMatchObject([
        { id: 'daily-report', data: { a: 1 }, timing: { cron: '@daily', timezone: 'UTC' } },
      ])
    expect(await tenancy.run('retired', () => scheduler.list(), { status: ['suspended'] })).toEqual(
      [],
    )
  })

  it('does not start inside a tenant, and tells every tenant that failed', async () => {
    const { scheduler, inAcme } = setUp()
    const put = (name: string) => scheduler.scheduleForEach({}, 's', { everyMs: 9 }, name)
    expect(await codeOf(inAcme(() => put('note')))).toBe('ERR_TENANCY_CONTEXT_LOCKED')
    const error = await put('unknown').catch((reason: unknown) => reason)
    expect(error).toMatchObject({
      code: 'ERR_TENANCY_FOREACH_FAILED',
      results: [{ ok: false }, { ok: false }],
    })
  })
})

describe('closing', () => {
  it('gives up on jobs that do not end, tells them, and refuses from then on', async () => {
    const { tenancy, scheduler, inAcme } = setUp({ closeTimeoutMs: 20 })
    let reason: unknown
    let started = false
    scheduler.define('hang', async (_data, { signal }) => {
      started = true
      await new Promise<void>((resolve) => {
        signal.addEventListener('abort', () => {
          reason = signal.reason
          resolve()
        })
      })
      throw new Error('aborted')
    })
    tenancy.on('job:failed', () => {})
    await scheduler.start()
    await inAcme(() => scheduler.enqueue('hang', null, { attempts: 3, backoffMs: 0 }))
    await eventually(() => expect(started).toBe(true))
    started = false
    await tenancy.close()
    await eventually(() => expect(TenancyError.is(reason, 'ERR_TENANCY_CLOSED')).toBe(true))
    await sleep(10)
    expect(started).toBe(false)
    expect(await codeOf(scheduler.start())).toBe('ERR_TENANCY_CLOSED')
    expect(await codeOf(scheduler.enqueue('note'))).toBe('ERR_TENANCY_CLOSED')
    await expect(scheduler.close()).resolves.toBeUndefined()
  })

  it('is safe before start and twice, and a driver serves one scheduler', async () => {
    const { tenancy, scheduler } = setUp()
    await Promise.all([scheduler.close(), scheduler.close()])
    const driver = memoryDriver()
    await createTenantScheduler(tenancy, { driver }).start()
    expect(await codeOf(createTenantScheduler(tenancy, { driver }).start())).toBe(
      'ERR_TENANCY_OPTION_INVALID',
    )
  })
})

it('runs the jobs of plugins, each tenant’s in the version that it pins', async () => {
  const store = memoryTenantStore([
    { id: 'acme', release: { name: 'r1', plugins: { orders: '1.0.0' } } },
    { id: 'globex', release: { name: 'r2', plugins: { orders: '2.0.0' } } },
  ])
  const tenancy = createTenancy({ store })
  open.push(tenancy)
  const seen: string[] = []
  const orders = (version: string) =>
    definePlugin({
      name: 'orders',
      version,
      jobs: {
        report: (data: string, { tenant }) => void seen.push(`${tenant.id} ${version} ${data}`),
      },
      schedules: { nightly: { job: 'report', everyMs: 10, data: 'tick' } },
    })
  const host = createPluginHost(tenancy, { plugins: [orders('1.0.0'), orders('2.0.0')] })
  const scheduler = createTenantScheduler(tenancy, { driver: memoryDriver() })
  for (const { name, run } of host.jobs()) scheduler.define(name, run)
  await scheduler.start()
  await tenancy.forEach({}, async ({ tenant }) => {
    for (const { id, name, schedule } of host.schedulesFor(tenant))
      await scheduler.schedule(id, { everyMs: schedule.everyMs ?? 0 }, name, schedule.data)
  })
  await eventually(() =>
    expect(new Set(seen)).toEqual(new Set(['acme 1.0.0 tick', 'globex 2.0.0 tick'])),
  )
})
