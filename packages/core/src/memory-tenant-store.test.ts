import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { memoryTenantStore, type Tenant, type TenantSelector } from './index.ts'

const withCode = (code: string) => expect.objectContaining({ code })

async function idsOf(tenants: AsyncIterable<Tenant>): Promise<string[]> {
  const ids: string[] = []
  for await (const tenant of tenants) ids.push(tenant.id)
  return ids
}

describe('memoryTenantStore', () => {
  it('finds tenants by id and by domain, and nothing else', async () => {
    const store = memoryTenantStore([
      { id: 'acme', name: 'Acme', domains: ['shop.acme.example'] },
      { id: 'globex', name: 'Globex' },
    ])
    expect((await store.findById('acme'))?.name).toBe('Acme')
    expect((await store.findById('globex'))?.name).toBe('Globex')
    expect((await store.findByDomain('shop.acme.example'))?.name).toBe('Acme')
    for (const name of ['initech', '', '__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
      expect(await store.findById(name)).toBeUndefined()
      expect(await store.findByDomain(name)).toBeUndefined()
    }
  })

  it('never gives an id out twice', () => {
    const store = memoryTenantStore([{ id: 'acme' }, { id: 'globex' }])
    expect(() => store.create({ id: 'acme' })).toThrow(withCode('ERR_TENANCY_TENANT_EXISTS'))
    expect(store.delete('acme')).toBe(true)
    expect(store.delete('acme')).toBe(false)
    expect(() => store.create({ id: 'acme' })).toThrow(withCode('ERR_TENANCY_TENANT_EXISTS'))
  })

  it('gives a domain one owner, and frees it with the owner', async () => {
    const store = memoryTenantStore([
      { id: 'acme', domains: ['a.example', 'b.example'] },
      { id: 'globex' },
    ])
    expect(() => store.update('globex', { domains: ['a.example'] })).toThrow(
      withCode('ERR_TENANCY_TENANT_EXISTS'),
    )
    expect((await store.findByDomain('a.example'))?.id).toBe('acme')
    store.update('acme', { domains: ['b.example'] })
    store.update('globex', { domains: ['a.example'] })
    expect((await store.findByDomain('a.example'))?.id).toBe('globex')
    store.delete('acme')
    expect(await store.findByDomain('b.example')).toBeUndefined()
  })

  it('refuses two tenants in one place', () => {
    const store = memoryTenantStore([{ id: 'acme' }, { id: 'globex' }])
    const conflict = withCode('ERR_TENANCY_PHYSICAL_NAME_CONFLICT')
    expect(() => store.create({ id: 'evil', placement: { schema: 'acme' } })).toThrow(conflict)
    expect(() => store.update('globex', { placement: { schema: 'acme' } })).toThrow(conflict)
    store.create({ id: 'initech', placement: { cluster: 'eu', schema: 'acme' } })
    store.create({ id: 'hooli', isolation: 'database', placement: { database: 'd' } })
    expect(() =>
      store.create({ id: 'vandelay', isolation: 'database', placement: { database: 'd' } }),
    ).toThrow(conflict)
    store.create({ id: 'r1', isolation: 'row', placement: { schema: 'rows' } })
    store.create({ id: 'r2', isolation: 'row', placement: { schema: 'rows' } })
  })

  it('refuses an id that has the role of another tenant, also of a deleted one', () => {
    const victim = 'a'.repeat(63)
    const hash = createHash('sha256').update(victim).digest('hex').slice(0, 12)
    const store = memoryTenantStore([{ id: victim }])
    const attacker = { id: `${'a'.repeat(43)}-${hash}` }
    expect(() => store.create(attacker)).toThrow(withCode('ERR_TENANCY_PHYSICAL_NAME_CONFLICT'))
    store.delete(victim)
    expect(() => store.create(attacker)).toThrow(withCode('ERR_TENANCY_PHYSICAL_NAME_CONFLICT'))
  })

  it('changes nothing when it refuses', async () => {
    const store = memoryTenantStore([{ id: 'acme', domains: ['a.example'] }, { id: 'globex' }])
    const seen: string[] = []
    await store.watch((id) => seen.push(id))
    expect(() => store.update('acme', { status: 'gone' as 'active' })).toThrow(
      withCode('ERR_TENANCY_TENANT_INVALID'),
    )
    expect(() =>
      store.update('globex', { name: 'changed', domains: ['g.example', 'a.example'] }),
    ).toThrow(withCode('ERR_TENANCY_TENANT_EXISTS'))
    expect(() => store.update('initech', {})).toThrow(withCode('ERR_TENANCY_TENANT_UNKNOWN'))
    expect((await store.findById('globex'))?.name).toBe('globex')
    expect(await store.findByDomain('g.example')).toBeUndefined()
    expect(seen).toEqual([])
  })

  it('lists in the order of ids what a selector picks', async () => {
    const store = memoryTenantStore([
      { id: 'globex', tags: ['beta'], isolation: 'row' },
      { id: 'acme', tags: ['beta', 'eu'] },
      { id: 'initech', status: 'suspended', tags: ['beta'] },
    ])
    const list = (selector?: TenantSelector) => idsOf(store.list(selector))
    expect(await list()).toEqual(['acme', 'globex'])
    expect(await list({ tags: ['beta'] })).toEqual(['acme', 'globex'])
    expect(await list({ tags: ['beta'], isolation: ['row'] })).toEqual(['globex'])
    expect(await list({ status: ['suspended', 'active'] })).toEqual(['acme', 'globex', 'initech'])
    expect(await list({ ids: ['initech', 'acme', 'nobody'] })).toEqual(['acme'])
    expect(await list({ ids: [] })).toEqual([])
  })

  it('tells each watcher of each change until it leaves', async () => {
    const store = memoryTenantStore([{ id: 'acme' }, { id: 'globex' }])
    const seen: string[] = []
    const watcher = await store.watch((id) => seen.push(id))
    store.update('acme', { name: 'x' })
    store.create({ id: 'initech' })
    store.delete('globex')
    await watcher[Symbol.asyncDispose]()
    store.update('acme', { name: 'y' })
    expect(seen).toEqual(['acme', 'initech', 'globex'])
  })

  it('takes ten thousand tenants in moderate time', () => {
    const started = performance.now()
    memoryTenantStore(Array.from({ length: 10_000 }, (_, index) => ({ id: `t${index}` })))
    // Comparing each with every other takes minutes.
    expect(performance.now() - started).toBeLessThan(10_000)
  })
})
