import { describe, expect, test } from 'vitest'
import {
  createTenancy,
  domain,
  header,
  memoryTenantStore,
  type TenancyRequest,
  type Tenant,
} from './index.ts'

function request(headers: Record<string, string>, authority = 'app.x.io'): TenancyRequest {
  return { raw: undefined, method: 'GET', target: '/', authority, header: (name) => headers[name] }
}

async function codeOf(answer: unknown): Promise<unknown> {
  return Promise.resolve(answer).then(
    () => 'entered',
    (error: { code?: unknown }) => error.code,
  )
}

describe('what strangers cannot find out or bring about', () => {
  test('a flood of unknown names does not tell which tenants exist', async () => {
    await using tenancy = createTenancy({
      store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]),
      resolve: [header('X-Tenant-ID')],
      authorize: ({ tenant }) => tenant.id === 'globex',
      lookup: { maxUnknownPerSecond: 5 },
    })
    await tenancy.ready()
    const ask = (id: string): Promise<unknown> =>
      codeOf((async () => tenancy.resolve(request({ 'x-tenant-id': id })))())
    expect(await ask('globex')).toBe('entered')
    expect([await ask('acme'), await ask('nobody')]).toEqual(
      Array.from({ length: 2 }, () => 'ERR_TENANCY_TENANT_UNKNOWN'),
    )
    for (let n = 0; n < 20; n++) await ask(`flood-${n}`)
    expect([await ask('acme'), await ask('nobody-else')]).toEqual(
      Array.from({ length: 2 }, () => 'ERR_TENANCY_STORE_BUSY'),
    )
    expect(await ask('globex')).toBe('entered')
  })

  test('a flood of unknown names does not lock out a tenant whose record has just changed', async () => {
    const store = memoryTenantStore([{ id: 'acme' }])
    await using tenancy = createTenancy({ store, lookup: { maxUnknownPerSecond: 5 } })
    await tenancy.ready()
    await tenancy.run('acme', () => undefined)
    for (let n = 0; n < 20; n++) await codeOf(tenancy.run(`flood-${n}`, () => undefined))
    expect(await codeOf(tenancy.run('flood-last', () => undefined))).toBe('ERR_TENANCY_STORE_BUSY')
    store.update('acme', { name: 'Acme' })
    expect(await tenancy.run('acme', ({ tenant }) => tenant.name)).toBe('Acme')
  })

  test('a domain that a tenant has lost does not come back when the store fails', async () => {
    const store = memoryTenantStore([{ id: 'acme', domains: ['shop.example'] }, { id: 'globex' }])
    let down = false
    const failing = {
      findById: async (id: string) => {
        if (down) throw new Error('down')
        return store.findById(id)
      },
      findByDomain: async (name: string) => {
        if (down) throw new Error('down')
        return store.findByDomain(name)
      },
      watch: (onChange: (id: string) => void) => store.watch(onChange),
    }
    await using tenancy = createTenancy({
      store: failing,
      resolve: [header('X-Tenant-ID'), domain({ own: 'x.io' })],
      authorize: () => true,
    })
    await tenancy.ready()
    const byDomain = async (): Promise<string | undefined> =>
      (await tenancy.resolve(request({}, 'shop.example')))?.tenant.id
    expect(await byDomain()).toBe('acme')
    store.update('acme', { domains: [] })
    store.update('globex', { domains: ['shop.example'] })
    await tenancy.resolve(request({ 'x-tenant-id': 'acme' }))
    down = true
    expect(await codeOf(byDomain())).not.toBe('entered')
  })

  test('forEach does not enter a tenant that was suspended after the list was read', async () => {
    const store = memoryTenantStore([{ id: 'acme' }, { id: 'globex' }, { id: 'initech' }])
    const page: Tenant[] = []
    for await (const tenant of store.list()) page.push(tenant)
    const paged = {
      findById: (id: string) => store.findById(id),
      list: async function* () {
        yield* page
      },
      watch: (onChange: (id: string) => void) => store.watch(onChange),
    }
    await using tenancy = createTenancy({ store: paged })
    await tenancy.ready()
    const entered: string[] = []
    await tenancy.forEach(
      {},
      ({ tenant }) => {
        entered.push(`${tenant.id} ${tenant.name}`)
        if (tenant.id !== 'acme') return
        store.update('globex', { status: 'suspended' })
        store.update('initech', { name: 'Initech' })
      },
      { concurrency: 1 },
    )
    expect(entered).toEqual(['acme acme', 'initech Initech'])
  })
})
