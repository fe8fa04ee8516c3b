import { readFile } from 'node:fs/promises'
import { fallback, type TenancyError } from '@partywall/core'
import { describe, expect, test } from 'vitest'
import { CONFIG_KEYS, type PartywallConfig, resolvePartywallConfig } from './partywall-config.ts'
import { definePlugin } from './plugin-services.ts'

const refusal = (config: unknown): TenancyError => {
  try {
    resolvePartywallConfig(config as PartywallConfig)
  } catch (error) {
    return error as TenancyError
  }
  throw new Error('It was accepted.')
}

describe('unknown members are errors at every level, with the nearest known one', () => {
  test.each([
    [{ tenacy: {} }, 'Did you mean "tenancy"?'],
    [{ tenancy: { subdomains: true } }, 'Did you mean "subdomain"?'],
    [{ tenancy: { default_tenant: 'main' } }, 'Did you mean "defaultTenant"?'],
    [{ tenancy: { isolateDB_: true } }, 'Did you mean "isolateDb"?'],
    [{ database: { uri: 'postgres://h/d' } }, 'Did you mean "url"?'],
    [{ redis: { host: 'localhost' } }, '"host" is no member of redis.'],
    [{ tenants: [{ id: 'acme', tag: ['beta'] }] }, 'Did you mean "tags"?'],
  ])('%j', (config, message) => {
    expect(refusal(config).message).toContain(message)
    expect(refusal(config).hint).toContain('Known members: ')
  })
})

describe('what is refused', () => {
  test.each(['isolateDb', 'isolateCache', 'isolateScheduler'])('%s: false', (option) => {
    for (const value of [false, 'no', 0]) {
      const error = refusal({ tenancy: { [option]: value } })
      expect(error.code).toBe('ERR_TENANCY_OPTION_INVALID')
      expect(error.hint).toMatch(/shared schema.*central/)
    }
    resolvePartywallConfig({ tenancy: { [option]: true } })
  })

  test.each<[string, unknown, RegExp]>([
    ['a string as config', 'postgres://h/d', /takes an object/],
    ['a bad header', { tenancy: { header: 'X Tenant' } }, /header/],
    ['a bad domain', { tenancy: { subdomain: 'https://x.io' } }, /subdomain/],
    ['a number as subdomain', { tenancy: { subdomain: 1 } }, /subdomain/],
    ['a bad default tenant', { tenancy: { defaultTenant: 'Acme' } }, /"Acme" is no tenant id/],
    ['enabled: false without a tenant', { tenancy: { enabled: false } }, /defaultTenant/],
    ['fallback() among the resolvers', { tenancy: { resolve: [fallback('x')] } }, /defaultTenant/],
    ['an empty database URL', { database: { url: '' } }, /database.url is empty/],
    ['an empty Redis URL', { redis: { url: '' } }, /redis.url is empty/],
    ['another database', { database: { url: 'mysql://h/d' } }, /postgres:/],
    ['no connections', { database: { max: 0 } }, /database.max/],
    [
      'another pooler',
      { database: { url: 'postgres://h/d', pooler: 'session' } },
      /database.pooler/,
    ],
    [
      'a pooler before the embedded server',
      { database: { pooler: 'transaction' } },
      /database.url/,
    ],
    [
      'a way past nothing',
      { database: { url: 'postgres://h/d', directUrl: 'postgres://h/d' } },
      /database.directUrl/,
    ],
    ['the registry as shared schema', { database: { sharedSchemas: ['partywall'] } }, /registry/],
    [
      'public as shared and as tenant',
      { tenancy: { defaultTenant: 'public' }, database: { sharedSchemas: ['public'] } },
      /cannot be shared/,
    ],
    ['a tenant twice', { tenants: [{ id: 'acme' }, { id: 'acme' }] }, /twice/],
    ['null as tenant', { tenants: [null] }, /objects, each with an id/],
    ['a list as seed', { tenants: [{ id: 'acme', seed: [] }] }, /seed of tenant acme/],
    ['plugins that are no list', { plugins: {} }, /plugins/],
    ['what is no plugin', { plugins: [{ name: 'orders' }] }, /version of plugin orders/],
  ])('%s', (_, config, message) => {
    expect(refusal(config).message).toMatch(message)
  })

  test('public as a tenant that is not the default, and isolation and status of later versions', () => {
    expect(refusal({ tenants: [{ id: 'public' }] }).code).toBe('ERR_TENANCY_IDENTIFIER_INVALID')
    expect(refusal({ tenants: [{ id: 'acme', isolation: 'row' }] }).code).toBe(
      'ERR_TENANCY_ISOLATION_UNSUPPORTED',
    )
    expect(refusal({ tenants: [{ id: 'acme', status: 'archived' }] }).code).toBe(
      'ERR_TENANCY_TENANT_INVALID',
    )
  })

  test('no message and no cause holds a password', () => {
    for (const url of [
      'postgres//me:secret@h/d',
      'http://me:secret@h/d',
      'postgres://me:secret@:x/d',
    ]) {
      const error = refusal({ database: { url } })
      expect(JSON.stringify([error.message, error.hint, String(error.cause)])).not.toContain(
        'secret',
      )
    }
  })
})

describe('what is resolved', () => {
  const names = (config: PartywallConfig): string[] =>
    resolvePartywallConfig(config).resolve.map(({ name }) => name)

  test('the sources of the Xcore documentation, and those of others behind them', () => {
    expect(names({})).toEqual(['header'])
    expect(names({ tenancy: { header: false } })).toEqual([])
    expect(names({ tenancy: { subdomain: true } })).toEqual(['header', 'subdomain'])
    expect(names({ tenancy: { subdomain: ['a.io', 'b.io'] } })).toEqual(['header', 'subdomain'])
    const own = () => undefined
    expect(names({ tenancy: { resolve: [own] } })).toEqual(['header', 'own'])
  })

  test('enabled: false leaves nothing that a request could say', () => {
    const tenancy = { enabled: false, subdomain: true, defaultTenant: 'main' }
    expect(names({ tenancy })).toEqual([])
    expect(resolvePartywallConfig({ tenancy }).defaultTenant).toBe('main')
  })

  test('public is shared, unless it is the default tenant, which then has a record like the others', () => {
    expect(resolvePartywallConfig({}).sharedSchemas).toEqual(['public'])
    const config = resolvePartywallConfig({
      tenancy: { defaultTenant: 'public' },
      tenants: [{ id: 'acme' }],
    })
    expect(config.sharedSchemas).toEqual([])
    expect(config.tenants.map(({ id }) => id)).toEqual(['public', 'acme'])
  })

  test('absent and undefined are the same', () => {
    const config = {
      tenancy: undefined,
      database: { url: undefined, max: undefined, dataDir: undefined },
      redis: { url: undefined },
      plugins: [definePlugin({ name: 'a', version: '1.0.0' })],
      tenants: undefined,
    }
    expect(resolvePartywallConfig(config)).toMatchObject({
      databaseUrl: undefined,
      redisUrl: undefined,
      dataDir: '.partywall/postgres',
      max: 10,
    })
  })
})

test('the table of the documentation has every member, and no other', async () => {
  const page = new URL('../../../docs/reference/configuration.md', import.meta.url)
  const [section = ''] = (await readFile(page, 'utf8')).split('### Notes')
  const rows = [...section.matchAll(/^\| `([\w.]+)`/gm)].map(([, name]) => name)
  const { createPartywall, ...groups } = CONFIG_KEYS
  const plain = createPartywall.filter((name) => !Object.hasOwn(groups, name))
  const nested = Object.entries(groups).flatMap(([group, keys]) =>
    keys.map((key) => `${group}.${key}`),
  )
  expect(new Set(rows)).toEqual(new Set([...nested, ...plain]))
})
