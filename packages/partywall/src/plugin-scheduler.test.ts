import { createTenancy, memoryTenantStore } from '@partywall/core'
import { createTenantScheduler, memoryDriver } from '@partywall/scheduler'
import { expect, test } from 'vitest'
import { PluginScheduler } from './plugin-scheduler.ts'

test('every operation keeps to the plugin and to the tenant, under the same ids', async () => {
  const tenancy = createTenancy({ store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]) })
  await using scheduler = createTenantScheduler(tenancy, { driver: memoryDriver() })
  const plugins = { a: new PluginScheduler(scheduler, 'a'), b: new PluginScheduler(scheduler, 'b') }
  const ran: string[] = []
  for (const name of ['a', 'b'])
    scheduler.define<string>(`${name}.report`, (data) => {
      ran.push(`${tenancy.require().tenant.id} ${name} ${data}`)
    })
  for (const id of ['acme', 'globex'])
    await tenancy.run(id, async () => {
      for (const [name, own] of Object.entries(plugins)) {
        const canary = `${id} ${name}`
        expect(await own.enqueue('report', canary, { id: 'once' })).toEqual({
          id: 'once',
          added: true,
        })
        expect(await own.enqueue('report', 'again', { id: 'once' })).toEqual({
          id: 'once',
          added: false,
        })
        const { id: random } = await own.enqueue('report', canary, { delayMs: 60_000 })
        expect(await own.getJob(random)).toMatchObject({ id: random, name: 'report', data: canary })
        expect(await own.removeJob(random)).toBe(true)
        const nightly = await own.schedule('nightly', { cron: '0 3 * * *' }, 'report', canary)
        expect(nightly).toMatchObject({ id: 'nightly', name: 'report', data: canary })
      }
    })
  await tenancy.run('acme', async () => {
    const { a, b } = plugins
    expect(await a.list()).toEqual([expect.objectContaining({ id: 'nightly', data: 'acme a' })])
    expect(await a.listJobs()).toEqual([
      expect.objectContaining({ id: 'once', name: 'report', data: 'acme a' }),
    ])
    expect(await a.pause('nightly')).toBe(true)
    expect((await a.get('nightly'))?.paused).toBe(true)
    expect((await b.get('nightly'))?.paused).toBe(false)
    expect(await a.resume('nightly')).toBe(true)
    expect(await a.remove('nightly')).toBe(true)
    expect(await a.get('nightly')).toBeUndefined()
    expect(await b.get('nightly')).toMatchObject({ data: 'acme b' })
    await expect(a.enqueue('b.report')).rejects.toMatchObject({ code: 'ERR_TENANCY_JOB_UNKNOWN' })
  })
  await tenancy.run('globex', async () =>
    expect(await plugins.a.get('nightly')).toMatchObject({ data: 'globex a' }),
  )
  await scheduler.start()
  await expect
    .poll(() => [...ran].sort())
    .toEqual(['acme a acme a', 'acme b acme b', 'globex a globex a', 'globex b globex b'])
})
