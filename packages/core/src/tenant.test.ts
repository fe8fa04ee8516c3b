import { describe, expect, expectTypeOf, it } from 'vitest'
import { createTenant, type Tenant, type TenantInput } from './index.ts'

const invalid = (code = 'ERR_TENANCY_TENANT_INVALID') => expect.objectContaining({ code })

describe('createTenant', () => {
  it('fills in the defaults', () => {
    expect(createTenant({ id: 'acme' })).toEqual({
      id: 'acme',
      name: 'acme',
      status: 'active',
      isolation: 'schema',
      placement: {},
      tags: [],
      domains: [],
      ingress: true,
      settings: {},
    })
  })

  it('copies what it is given and freezes it at every depth', () => {
    const input = {
      id: 'acme',
      tags: ['beta', 'beta'],
      domains: ['shop.acme.example'],
      placement: { cluster: 'eu' },
      release: { name: '2026-07', plugins: { orders: '1.2.0' } },
      settings: { plan: { seats: 5, features: ['a'] } },
    }
    const tenant = createTenant(input)
    input.tags.push('late')
    input.settings.plan.features.push('late')
    input.release.plugins.orders = '9.9.9'
    expect(tenant.tags).toEqual(['beta'])
    expect(tenant.settings).toEqual({ plan: { seats: 5, features: ['a'] } })
    expect(tenant.release?.plugins).toEqual({ orders: '1.2.0' })
    const frozen = (value: unknown): void => {
      if (typeof value !== 'object' || value === null) return
      expect(Object.isFrozen(value)).toBe(true)
      for (const member of Object.values(value)) frozen(member)
    }
    frozen(tenant)
    expect(() => Object.assign(tenant, { id: 'globex' })).toThrow(TypeError)
    expect(() => Object.assign(tenant.settings['plan'] as object, { seats: 9 })).toThrow(TypeError)
  })

  it('takes a tenant for an input again', () => {
    const tenant = createTenant({ id: 'acme', tags: ['a'], release: { name: 'r', plugins: {} } })
    expect(createTenant(tenant)).toEqual(tenant)
  })

  it.each([undefined, null, 'acme', 7])('refuses the record %j', (record) => {
    // @ts-expect-error a record is an object
    expect(() => createTenant(record)).toThrow(invalid())
  })

  it.each(['Acme', '', 'www', undefined, ['acme']])('refuses the id %j', (id) => {
    expect(() => createTenant({ id: id as string })).toThrow(
      invalid('ERR_TENANCY_IDENTIFIER_INVALID'),
    )
  })

  const circular: Record<string, unknown> = {}
  circular['self'] = circular
  let deep: Record<string, unknown> = {}
  for (let depth = 0; depth < 100; depth++) deep = { deep }

  it.each<[string, object]>([
    ['an unknown member', { nmae: 'Acme' }],
    ['an empty name', { name: '' }],
    ['a name of 201 characters', { name: 'x'.repeat(201) }],
    ['an unknown status', { status: 'Active' }],
    ['an inherited status', { status: 'constructor' }],
    ['an unknown isolation', { isolation: 'none' }],
    ['an ingress that is no boolean', { ingress: 'false' }],
    ['an unknown placement', { placement: { host: 'evil.example' } }],
    ['an empty schema', { placement: { schema: '' } }],
    ['a placement that is a list', { placement: [] }],
    ['tags that are a string', { tags: 'beta' }],
    ['an empty tag', { tags: [''] }],
    ['a domain in upper case', { domains: ['Shop.Acme.example'] }],
    ['a domain with a root dot', { domains: ['shop.acme.example.'] }],
    ['a domain with a port', { domains: ['shop.acme.example:443'] }],
    ['a raw IDN', { domains: ['bücher.example'] }],
    ['an IP address for a domain', { domains: ['192.0.2.1'] }],
    ['a wildcard domain', { domains: ['*.acme.example'] }],
    ['a release without plugins', { release: { name: 'r' } }],
    ['a plugin version that is no string', { release: { name: 'r', plugins: { orders: 1 } } }],
    ['settings that are a list', { settings: [] }],
    ['a function in settings', { settings: { fn: () => 1 } }],
    ['a Map in settings, which cannot be frozen', { settings: { map: new Map() } }],
    ['a Date in settings', { settings: { at: new Date(0) } }],
    ['a Buffer in settings', { settings: { key: Buffer.from('x') } }],
    ['NaN in settings', { settings: { n: Number.NaN } }],
    ['a cycle in settings', { settings: circular }],
    ['settings a hundred levels deep', { settings: deep }],
  ])('refuses %s', (_, members) => {
    expect(() => createTenant({ id: 'acme', ...members })).toThrow(invalid())
  })

  it('says what was meant', () => {
    expect(() => createTenant({ id: 'acme', ingres: false } as TenantInput)).toThrow('"ingress"')
  })

  it('takes __proto__ in settings for a member like any other', () => {
    const settings = JSON.parse('{"__proto__":{"admin":true}}') as Record<string, unknown>
    const tenant = createTenant({ id: 'acme', settings })
    expect(Object.keys(tenant.settings)).toEqual(['__proto__'])
    expect((tenant.settings as { admin?: unknown }).admin).toBeUndefined()
  })

  it('is read-only in its type', () => {
    expectTypeOf(createTenant).returns.toEqualTypeOf<Tenant>()
    expectTypeOf<Tenant['tags']>().toEqualTypeOf<readonly string[]>()
    const tenant = createTenant({ id: 'acme' })
    // @ts-expect-error a tenant does not change under those who hold it
    expect(() => (tenant.id = 'globex')).toThrow(TypeError)
  })
})
