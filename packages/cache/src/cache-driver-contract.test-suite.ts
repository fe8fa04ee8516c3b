import { createTenancy, memoryTenantStore, type Tenancy, type TenantScope } from '@partywall/core'
import { canary, eventually, foreignCanaries } from '@partywall/test-support'
import { beforeEach, describe, expect, test } from 'vitest'
import type { CacheDriver } from './cache-driver.ts'

/** Tenants that a careless key or pattern would confuse. */
export const TENANTS = ['acme', 'globex', 'a', 'a-b', 'acme2'] as const

export function testTenancy(): Tenancy {
  return createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
}

/** What every driver of the cache has to do, whatever it keeps entries in. `create` gives one without entries. */
export function describeCacheDriver(
  name: string,
  create: (tenancy: Tenancy) => CacheDriver | Promise<CacheDriver>,
): void {
  describe(`cache driver contract: ${name}`, () => {
    let driver: CacheDriver
    let scopes: Record<(typeof TENANTS)[number], TenantScope>

    beforeEach(async () => {
      const tenancy = testTenancy()
      driver = await create(tenancy)
      const pairs = TENANTS.map(async (id) => [id, await tenancy.run(id, (scope) => scope)])
      scopes = Object.fromEntries(await Promise.all(pairs))
    })

    const entry = (tenantId: string, key: string, ttlMs: number | 'never' = 'never') => ({
      key,
      value: JSON.stringify(canary(tenantId, key)),
      ttlMs,
    })

    test('the same key in two tenants is two entries', async () => {
      for (const id of TENANTS) await driver.setMany(scopes[id], [entry(id, 'k'), entry(id, 'l')])
      for (const id of TENANTS) {
        const values = await driver.getMany(scopes[id], ['l', 'k', 'absent'])
        expect(values).toEqual([entry(id, 'l').value, entry(id, 'k').value, undefined])
        expect(foreignCanaries(values, id)).toEqual([])
      }
      expect(await driver.delete(scopes.acme, 'k')).toBe(true)
      expect(await driver.delete(scopes.acme, 'k')).toBe(false)
      expect(await driver.has(scopes.acme, 'k')).toBe(false)
      for (const id of TENANTS.slice(1)) expect(await driver.has(scopes[id], 'k')).toBe(true)
    })

    test('keys that contain tenants, separators and glob characters stay where they are', async () => {
      const keys = ['globex:k', ':', '::', '*', '[a-z]', '\\', '{a}', '%', '!', '\0', 'ключ', ' ']
      await driver.setMany(
        scopes.acme,
        keys.map((key) => entry('acme', key)),
      )
      await driver.setMany(scopes.a, [entry('a', 'cme:k'), entry('a', 'b:k')])
      expect(await driver.getMany(scopes.globex, keys)).toEqual(keys.map(() => undefined))
      expect((await driver.keys(scopes.acme, '*')).sort()).toEqual([...keys].sort())
      expect((await driver.keys(scopes.a, '*')).sort()).toEqual(['b:k', 'cme:k'])
      expect(await driver.keys(scopes['a-b'], '*')).toEqual([])
    })

    test('a value is replaced and takes the new lifetime', async () => {
      await driver.setMany(scopes.acme, [entry('acme', 'k', 200)])
      await driver.setMany(scopes.acme, [{ key: 'k', value: '"new"', ttlMs: 'never' }])
      await driver.setMany(scopes.acme, [entry('acme', 'witness', 250)])
      await eventually(async () => !(await driver.has(scopes.acme, 'witness')))
      expect(await driver.getMany(scopes.acme, ['k'])).toEqual(['"new"'])
    })

    test('a key that is repeated in one call takes its last value', async () => {
      await driver.setMany(scopes.acme, [
        { key: 'k', value: '1', ttlMs: 'never' },
        { key: 'k', value: '2', ttlMs: 'never' },
      ])
      expect(await driver.getMany(scopes.acme, ['k', 'k'])).toEqual(['2', '2'])
    })

    test('an entry expires, in its tenant only', async () => {
      await driver.setMany(scopes.acme, [entry('acme', 'k', 400)])
      await driver.setMany(scopes.globex, [entry('globex', 'k', 600_000)])
      expect(await driver.has(scopes.acme, 'k')).toBe(true)
      await eventually(async () => !(await driver.has(scopes.acme, 'k')))
      expect(await driver.getMany(scopes.acme, ['k'])).toEqual([undefined])
      expect(await driver.keys(scopes.acme, '*')).toEqual([])
      expect(await driver.delete(scopes.acme, 'k')).toBe(false)
      expect(await driver.has(scopes.globex, 'k')).toBe(true)
    })

    test('increment counts per tenant, and concurrent calls all count', async () => {
      const sums = await Promise.all(
        Array.from({ length: 50 }, () => driver.increment(scopes.acme, 'n', 2, 'never')),
      )
      expect(sums.toSorted((x, y) => Number(x) - Number(y)).at(-1)).toBe(100)
      expect(new Set(sums).size).toBe(50)
      expect(await driver.increment(scopes.globex, 'n', -3, 'never')).toBe(-3)
      expect(await driver.getMany(scopes.acme, ['n'])).toEqual(['100'])
    })

    test('increment gives a new entry its lifetime and leaves that of a present one', async () => {
      await driver.increment(scopes.acme, 'short', 1, 200)
      await driver.increment(scopes.acme, 'short', 1, 600_000)
      await driver.setMany(scopes.acme, [{ key: 'long', value: '7', ttlMs: 600_000 }])
      await driver.increment(scopes.acme, 'long', 1, 1)
      await eventually(async () => !(await driver.has(scopes.acme, 'short')))
      expect(await driver.getMany(scopes.acme, ['long'])).toEqual(['8'])
      expect(await driver.increment(scopes.acme, 'short', 1, 'never')).toBe(1)
    })

    test.each(['"5"', '1.5', '{"a":1}', 'null', '1e3'])(
      'increment leaves %s as it is',
      async (value) => {
        await driver.setMany(scopes.acme, [{ key: 'k', value, ttlMs: 'never' }])
        expect(await driver.increment(scopes.acme, 'k', 1, 'never')).toBeUndefined()
        expect(await driver.getMany(scopes.acme, ['k'])).toEqual([value])
      },
    )

    test('increment refuses to leave the safe integers', async () => {
      const top = Number.MAX_SAFE_INTEGER
      expect(await driver.increment(scopes.acme, 'k', top, 'never')).toBe(top)
      expect(await driver.increment(scopes.acme, 'k', 1, 'never')).toBeUndefined()
      expect(await driver.getMany(scopes.acme, ['k'])).toEqual([String(top)])
      expect(await driver.increment(scopes.acme, 'l', -top, 'never')).toBe(-top)
      expect(await driver.increment(scopes.acme, 'l', -1, 'never')).toBeUndefined()
    })

    test('keys matches a glob in its own tenant', async () => {
      const keys = ['user:1', 'user:2', 'user:10', 'order:1', 'a*b', 'axb']
      for (const id of ['acme', 'globex'] as const)
        await driver.setMany(
          scopes[id],
          keys.map((key) => entry(id, key)),
        )
      const matching = async (pattern: string) => (await driver.keys(scopes.acme, pattern)).sort()
      expect(await matching('user:*')).toEqual(['user:1', 'user:10', 'user:2'])
      expect(await matching('user:?')).toEqual(['user:1', 'user:2'])
      expect(await matching('user:[2-9]')).toEqual(['user:2'])
      expect(await matching('*:[^1]')).toEqual(['user:2'])
      expect(await matching('a\\*b')).toEqual(['a*b'])
      expect(await matching('globex:*')).toEqual([])
      expect(await matching('nothing')).toEqual([])
    })

    test('clear removes all of a tenant and nothing of a neighbour', async () => {
      for (const id of TENANTS)
        await driver.setMany(
          scopes[id],
          Array.from({ length: 30 }, (_, n) => entry(id, `k${n}`)),
        )
      expect(await driver.clear(scopes.acme)).toBe(30)
      expect(await driver.clear(scopes.a)).toBe(30)
      expect(await driver.keys(scopes.acme, '*')).toEqual([])
      expect(await driver.clear(scopes.acme)).toBe(0)
      for (const id of ['globex', 'a-b', 'acme2'] as const)
        expect(await driver.keys(scopes[id], '*')).toHaveLength(30)
    })

    test('more entries than fit in a batch', async () => {
      const entries = Array.from({ length: 2_500 }, (_, n) => entry('acme', `k${n}`))
      await driver.setMany(scopes.acme, entries)
      await driver.setMany(scopes.globex, [entry('globex', 'k1')])
      expect(await driver.keys(scopes.acme, '*')).toHaveLength(2_500)
      expect(await driver.clear(scopes.acme)).toBe(2_500)
      expect(await driver.getMany(scopes.globex, ['k1'])).toEqual([entry('globex', 'k1').value])
    })

    test('large and non-ASCII values come back as they were', async () => {
      const value = JSON.stringify(`${'x'.repeat(100_000)}é漢😀\u2028\0`)
      await driver.setMany(scopes.acme, [{ key: 'big', value, ttlMs: 'never' }])
      expect(await driver.getMany(scopes.acme, ['big'])).toEqual([value])
    })
  })
}
