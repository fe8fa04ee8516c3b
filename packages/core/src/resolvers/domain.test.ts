import { describe, expect, it, vi } from 'vitest'
import { createTenancy, domain, memoryTenantStore, type TenancyRequest } from '../index.ts'

const withHost = (authority: string | undefined | null): TenancyRequest => ({
  raw: undefined,
  method: 'GET',
  target: '/',
  authority,
  header: () => undefined,
})
const unknown = expect.objectContaining({ code: 'ERR_TENANCY_TENANT_UNKNOWN', status: 404 })

describe('domain', () => {
  const owners: Record<string, string> = Object.assign(Object.create(null), {
    'shop.acme.example': 'acme',
    'globex.example': 'globex',
  })
  const tenantIdOfDomain = vi.fn((name: string) => owners[name])
  const resolver = domain({ own: ['x.io'] })
  const identify = (authority: string | undefined | null) =>
    resolver.identify(withHost(authority), { tenantIdOfDomain })

  it.each([
    ['shop.acme.example', 'acme'],
    ['SHOP.Acme.Example.:443', 'acme'],
    ['globex.example', 'globex'],
  ])('finds the owner of %s', (host, id) => {
    expect(identify(host)).toBe(id)
  })

  it.each([
    'x.io',
    'acme.x.io',
    'localhost:3000',
    'acme.localhost',
    '192.0.2.1',
    '[::1]',
    undefined,
  ])('is absent from %s, and asks nobody', (host) => {
    tenantIdOfDomain.mockClear()
    expect(identify(host)).toBeUndefined()
    expect(tenantIdOfDomain).not.toHaveBeenCalled()
  })

  it.each(['acme.example', 'evil-x.io', 'x.io.evil.example', 'www.globex.example', 'constructor'])(
    'is a 404 for %s, never the default tenant',
    (host) => {
      expect(() => identify(host)).toThrow(unknown)
    },
  )

  it.each(['', 'a.example:1:2', 'u@globex.example', '*.example', null])('refuses %j', (host) => {
    expect(() => identify(host)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_HOST_INVALID', status: 400 }),
    )
  })

  it('loses a domain as soon as its tenant does, and gives it to the next owner', async () => {
    const store = memoryTenantStore([{ id: 'acme', domains: ['shop.example'] }, { id: 'globex' }])
    const tenancy = createTenancy({
      store,
      resolve: [domain({ own: 'x.io' })],
      authorize: () => true,
    })
    await tenancy.ready()
    const owner = async () => (await tenancy.resolve(withHost('shop.example')))?.tenant.id
    expect(await owner()).toBe('acme')
    store.update('acme', { domains: [] })
    await expect(owner()).rejects.toEqual(unknown)
    store.update('globex', { domains: ['shop.example'] })
    expect(await owner()).toBe('globex')
  })

  it('keeps the domains of others through an outage that follows a change', async () => {
    const store = memoryTenantStore([{ id: 'acme', domains: ['acme.example'] }, { id: 'globex' }])
    const tenancy = createTenancy({
      store,
      resolve: [domain({ own: 'x.io' })],
      authorize: () => true,
    })
    await tenancy.ready()
    await tenancy.resolve(withHost('acme.example'))
    store.update('globex', { name: 'changed' })
    vi.spyOn(store, 'findByDomain').mockRejectedValue(new Error('store down'))
    vi.spyOn(store, 'findById').mockRejectedValue(new Error('store down'))
    expect((await tenancy.resolve(withHost('acme.example')))?.tenant.id).toBe('acme')
    // The changed tenant itself is not served from memory.
    store.update('acme', { name: 'changed' })
    await expect(tenancy.resolve(withHost('acme.example'))).rejects.toEqual(
      expect.objectContaining({ code: 'ERR_TENANCY_STORE_UNAVAILABLE' }),
    )
  })

  it.each([{}, { own: '' }, { own: ['x.io', '10.0.0.1'] }, { of: 'x.io' }, 'x.io'])(
    'is not configured with %j',
    (options) => {
      expect(() => domain(options as never)).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
    },
  )

  it('wants a store that finds by domain', () => {
    expect(() =>
      createTenancy({ store: { findById: async () => undefined }, resolve: [resolver] }),
    ).toThrow('findByDomain')
  })
})
