import { createTenancy, memoryTenantStore } from '@partywall/core'
import { expect, test } from 'vitest'
import { memoryDriver } from './drivers/memory.ts'
import { createTenantScheduler } from './tenant-scheduler.ts'

test('a handler that throws what is no text fails its job, and ends neither the process nor the job of others', async () => {
  await using tenancy = createTenancy({
    store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]),
  })
  const scheduler = createTenantScheduler(tenancy, { driver: memoryDriver() })
  const ran: string[] = []
  const failed: string[] = []
  tenancy.on('job:failed', ({ tenantId }) => void failed.push(String(tenantId)))
  scheduler.define('hook', async () => {
    const { id } = tenancy.require().tenant
    // Whatever a tenant's webhook answered.
    if (id === 'acme') throw JSON.parse('{"toString":1,"valueOf":1}')
    ran.push(id)
  })
  await scheduler.start()
  for (const id of ['acme', 'globex'])
    await tenancy.run(id, () => scheduler.enqueue('hook', undefined, { id: 'same' }))
  await expect.poll(() => [ran, failed]).toEqual([['globex'], ['acme']])
  // The id is free again: the job is not active for ever.
  expect(
    await tenancy.run('acme', () => scheduler.enqueue('hook', undefined, { id: 'same' })),
  ).toMatchObject({ added: true })
})
