import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type AclOracle, createAclOracle } from '../acl-oracle.test-suite.ts'
import { describeCacheDriver, TENANTS, testTenancy } from '../cache-driver-contract.test-suite.ts'
import { TenantRedis } from '../tenant-redis.ts'
import { redisDriver } from './redis.ts'

let oracle: AclOracle
const clients: TenantRedis[] = []

beforeAll(async () => {
  oracle = await createAclOracle(...TENANTS)
})

afterEach(async () => {
  for (const client of clients.splice(0)) client.disconnect()
  expect(await oracle.violations()).toEqual([])
})

afterAll(() => oracle[Symbol.asyncDispose]())

function client(tenancy = testTenancy(), options = {}): TenantRedis {
  const redis = new TenantRedis(tenancy, oracle.url, options)
  clients.push(redis)
  return redis
}

for (const enableAutoPipelining of [false, true])
  describeCacheDriver(`redis, auto-pipelining ${enableAutoPipelining}`, async (tenancy) => {
    await oracle.server.flush()
    return redisDriver(client(tenancy, { enableAutoPipelining }))
  })

describe('redisDriver', () => {
  test('entries stand under tenant, namespace and key, apart from the keys of the application', async () => {
    await oracle.server.flush()
    const tenancy = testTenancy()
    const redis = client(tenancy)
    const driver = redisDriver(redis)
    const other = redisDriver(redis, { namespace: 'rates' })
    await tenancy.run('acme', async (scope) => {
      await redis.set('k', 'application')
      await driver.setMany(scope, [{ key: 'k', value: '"cached"', ttlMs: 'never' }])
      await other.setMany(scope, [{ key: 'k', value: '1', ttlMs: 'never' }])
      expect(await driver.keys(scope, '*')).toEqual(['k'])
      expect(await driver.clear(scope)).toBe(1)
      expect(await redis.get('k')).toBe('application')
      expect(await other.has(scope, 'k')).toBe(true)
    })
    expect((await oracle.server.redis.keys('*')).sort()).toEqual(['acme:k', 'acme:rates:k'])
  })

  test('a scope other than the current tenant is refused', async () => {
    const tenancy = testTenancy()
    const driver = redisDriver(client(tenancy))
    const globex = await tenancy.run('globex', (scope) => scope)
    const reading = tenancy.run('acme', () => driver.getMany(globex, ['k']))
    await expect(reading).rejects.toMatchObject({ code: 'ERR_TENANCY_CONTEXT_LOCKED' })
  })

  test('a scope of another tenancy is refused', async () => {
    const driver = redisDriver(client())
    const reading = testTenancy().run('acme', (scope) => driver.getMany(scope, ['k']))
    await expect(reading).rejects.toMatchObject({ code: 'ERR_TENANCY_CONTEXT_MISSING' })
  })

  test('refuses a plain client and a namespace with a separator', () => {
    const invalid = expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' })
    const plain = new Redis({ lazyConnect: true }) as TenantRedis
    expect(() => redisDriver(plain)).toThrowError(invalid)
    for (const namespace of ['', 'a:b', 'x'.repeat(33), '*'])
      expect(() => redisDriver(client(), { namespace })).toThrowError(invalid)
  })
})
