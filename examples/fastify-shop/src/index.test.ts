import { canary, createTestDatabase, foreignCanaries } from '@partywall/test-support'
import { expect, test } from 'vitest'
import { createShop } from './index.ts'

const TENANTS = ['acme', 'globex']

async function open(database: string) {
  const shop = await createShop({
    tenancy: { subdomain: 'shop.test', defaultTenant: 'acme', authorize: () => true },
    database: { url: database, max: 2 },
    tenants: TENANTS.map((id) => ({ id })),
    log: () => undefined,
  })
  const address = await shop.listen()
  const ask = async (path: string, tenant?: string, order?: unknown) => {
    const response = await fetch(address + path, {
      headers: {
        ...(tenant === undefined ? {} : { 'X-Tenant-ID': tenant }),
        ...(order === undefined ? {} : { 'Content-Type': 'application/json' }),
      },
      ...(order === undefined ? {} : { method: 'POST', body: JSON.stringify(order) }),
    })
    return { status: response.status, body: await response.json() }
  }
  return { shop, ask }
}

test('two tenants of one shop: orders, summaries and reports of each are its own', async () => {
  await using db = await createTestDatabase()
  const { shop, ask } = await open(db.url)
  try {
    for (let n = 1; n <= 10; n++)
      await Promise.all(
        TENANTS.map(async (tenant, index) => {
          const order = { item: canary(tenant, n), quantity: index + 1 }
          expect(await ask('/orders', tenant, order)).toMatchObject({ status: 201, body: order })
        }),
      )
    for (const [index, tenant] of TENANTS.entries()) {
      const { body } = await ask('/orders', tenant)
      // The seed of the plugin is order 1; ids are the same in both tenants.
      expect((body as { id: string }[]).map(({ id }) => Number(id))).toEqual(
        Array.from({ length: 11 }, (_, n) => n + 1),
      )
      expect(foreignCanaries(body, tenant)).toEqual([])
      const summary = { orders: 11, pieces: 1 + 10 * (index + 1) }
      expect((await ask('/orders/summary', tenant)).body).toEqual(summary)
      // Cached, and forgotten with the next order.
      await shop.wall.run(tenant, () => shop.wall.pool.query('update orders set quantity = 99'))
      expect((await ask('/orders/summary', tenant)).body).toEqual(summary)
      await ask('/orders', tenant, { item: canary(tenant, 11), quantity: 1 })
      expect((await ask('/orders/summary', tenant)).body).toEqual({ orders: 12, pieces: 1090 })
      await shop.wall.run(tenant, () => shop.wall.scheduler.enqueue('orders.dailyReport'))
      await expect
        .poll(async () => {
          const reports = await shop.wall.run(tenant, () =>
            shop.wall.pool.query('select orders, pieces from daily_reports'),
          )
          return reports.rows
        })
        .toEqual([{ orders: 12, pieces: 1090 }])
    }
  } finally {
    await shop.close()
  }
})

test('who is asked for, and what is refused', async () => {
  await using db = await createTestDatabase()
  const { shop, ask } = await open(db.url)
  try {
    expect(await ask('/health')).toEqual({ status: 200, body: { status: 'ok' } })
    expect((await ask('/health', 'nobody')).status).toBe(200)
    expect((await ask('/whoami')).body).toEqual({ tenant: 'acme', source: 'fallback' })
    expect((await ask('/whoami', 'globex')).body).toEqual({ tenant: 'globex', source: 'header' })
    expect(await ask('/orders', 'nobody')).toMatchObject({
      status: 404,
      body: { code: 'ERR_TENANCY_TENANT_UNKNOWN' },
    })
    expect(await ask('/orders', 'acme, globex')).toMatchObject({
      status: 400,
      body: { code: 'ERR_TENANCY_IDENTIFIER_AMBIGUOUS' },
    })
    for (const order of [{}, { item: '', quantity: 1 }, { item: 'x', quantity: 0 }, []])
      expect((await ask('/orders', 'acme', order)).status).toBe(400)
  } finally {
    await shop.close()
  }
})
