import { createTenantCache, memoryDriver } from '@partywall/cache'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { expect, test } from 'vitest'
import { PluginCache } from './plugin-cache.ts'

function setUp() {
  const tenancy = createTenancy({ store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]) })
  const cache = createTenantCache(tenancy, { driver: memoryDriver() })
  return { tenancy, cache, a: new PluginCache(cache, 'a'), b: new PluginCache(cache, 'b') }
}

test('every operation keeps to the plugin and to the tenant, under the same keys', async () => {
  const { tenancy, a, b } = setUp()
  const each = async (fn: (id: string) => Promise<void>): Promise<void> => {
    for (const id of ['acme', 'globex']) await tenancy.run(id, () => fn(id))
  }
  await each(async (id) => {
    for (const [name, cache] of Object.entries({ a, b })) {
      await cache.set('k', `${id} ${name}`)
      await cache.setMany([
        ['m1', `${id} ${name} 1`],
        ['m2', `${id} ${name} 2`],
      ])
      await cache.increment('n', name === 'a' ? 1 : 10)
      await cache.remember('r', undefined, () => `${id} ${name} loaded`)
    }
  })
  await each(async (id) => {
    for (const [name, cache] of Object.entries({ a, b })) {
      expect(await cache.get('k')).toBe(`${id} ${name}`)
      expect(await cache.getMany(['m2', 'none', 'm1'])).toEqual([
        `${id} ${name} 2`,
        undefined,
        `${id} ${name} 1`,
      ])
      expect(await cache.increment('n')).toBe(name === 'a' ? 2 : 11)
      expect(await cache.remember('r', undefined, () => 'again')).toBe(`${id} ${name} loaded`)
      expect(await cache.has('k')).toBe(true)
      expect((await cache.keys()).sort()).toEqual(['k', 'm1', 'm2', 'n', 'r'])
      expect((await cache.keys('m?')).sort()).toEqual(['m1', 'm2'])
    }
  })
  await tenancy.run('acme', async () => {
    expect(await a.delete('k')).toBe(true)
    expect(await b.has('k')).toBe(true)
    expect(await a.clear()).toBe(4)
    expect(await a.keys()).toEqual([])
    expect(await b.keys()).toHaveLength(5)
  })
  await tenancy.run('globex', async () => expect(await a.keys()).toHaveLength(5))
})

test('what is no key, and a call outside of every tenant, is refused as the cache refuses it', async () => {
  const { tenancy, a } = setUp()
  await expect(tenancy.run('acme', () => a.get(''))).rejects.toMatchObject({
    code: 'ERR_TENANCY_CACHE_KEY_INVALID',
  })
  await expect(tenancy.run('acme', () => a.set(7 as never, 1))).rejects.toMatchObject({
    code: 'ERR_TENANCY_CACHE_KEY_INVALID',
  })
  await expect(a.get('k')).rejects.toMatchObject({ code: 'ERR_TENANCY_CONTEXT_MISSING' })
})
