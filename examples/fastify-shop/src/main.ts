import { createShop } from './index.ts'

const shop = await createShop({
  tenancy: { header: 'X-Tenant-ID', subdomain: true, defaultTenant: 'main' },
  // Absent: an embedded Postgres in .partywall/, and memory.
  database: { url: process.env['DATABASE_URL'] },
  redis: { url: process.env['REDIS_URL'] },
  tenants: [{ id: 'main' }, { id: 'acme' }, { id: 'globex' }],
})
const address = await shop.listen(Number(process.env['PORT'] ?? 3000))
console.log(`The shop is open: curl -H 'X-Tenant-ID: acme' ${address}/orders`)

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    void shop.close()
  })
