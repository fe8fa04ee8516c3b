import { createTenancy, memoryTenantStore } from '@partywall/core'
import { canary } from '@partywall/test-support'
import { describe, expect, test } from 'vitest'
import { describeCacheDriver } from '../cache-driver-contract.test-suite.ts'
import { memoryDriver } from './memory.ts'

describeCacheDriver('memory', () => memoryDriver())

const scopesOf = async (...ids: string[]) => {
  const tenancy = createTenancy({ store: memoryTenantStore(ids.map((id) => ({ id }))) })
  const scopes = []
  for (const id of ids) scopes.push(await tenancy.run(id, (scope) => scope))
  return scopes
}

const entry = (tenantId: string, n: number) => ({
  key: `k${n}`,
  value: JSON.stringify(canary(tenantId, n)),
  ttlMs: 'never' as const,
})

describe('memoryDriver: a fair share for every tenant', () => {
  test('a noisy tenant evicts its own entries and never those of quiet ones', async () => {
    const scopes = await scopesOf('noisy', 'quiet-1', 'quiet-2')
    const [noisy, ...quiet] = scopes
    if (noisy === undefined) throw new Error('no scope')
    const driver = memoryDriver({ maxBytes: 200_000 })
    for (const scope of quiet)
      for (let n = 0; n < 50; n++) driver.setMany(scope, [entry(scope.tenant.id, n)])
    for (let n = 0; n < 20_000; n++) driver.setMany(noisy, [entry('noisy', n)])
    for (const scope of quiet)
      for (let n = 0; n < 50; n++)
        expect(driver.getMany(scope, [`k${n}`])).toEqual([entry(scope.tenant.id, n).value])
    expect(driver.usedBytes).toBeLessThanOrEqual(200_000)
    // What the noisy one keeps is its newest, and the rest of the budget is really used.
    expect(driver.has(noisy, 'k19999')).toBe(true)
    expect(driver.has(noisy, 'k0')).toBe(false)
    expect(driver.usedBytes).toBeGreaterThan(190_000)
  })

  test('a tenant that comes late gets its share from whoever has most', async () => {
    const [first, second, late] = await scopesOf('first', 'second', 'late')
    if (!first || !second || !late) throw new Error('no scope')
    const driver = memoryDriver({ maxBytes: 300_000 })
    for (let n = 0; n < 5_000; n++) driver.setMany(first, [entry('first', n)])
    for (let n = 0; n < 100; n++) driver.setMany(second, [entry('second', n)])
    for (let n = 0; n < 5_000; n++) driver.setMany(late, [entry('late', n)])
    const counts = [first, second, late].map((scope) => driver.keys(scope, '*').length)
    expect(counts[1]).toBe(100)
    expect(Math.abs((counts[0] ?? 0) - (counts[2] ?? 0))).toBeLessThanOrEqual(20)
  })

  test('the least recently used entry of a tenant goes first', async () => {
    const [acme] = await scopesOf('acme')
    if (!acme) throw new Error('no scope')
    const driver = memoryDriver({ maxBytes: 3_000 })
    let n = 0
    while (driver.usedBytes + 300 < 3_000) driver.setMany(acme, [entry('acme', n++)])
    driver.getMany(acme, ['k0'])
    driver.setMany(acme, [entry('acme', n++), entry('acme', n++)])
    expect(driver.has(acme, 'k0')).toBe(true)
    expect(driver.has(acme, 'k1')).toBe(false)
  })

  test('an entry that is larger than the budget is not kept, and costs others nothing', async () => {
    const [acme, globex] = await scopesOf('acme', 'globex')
    if (!acme || !globex) throw new Error('no scope')
    const driver = memoryDriver({ maxBytes: 10_000 })
    driver.setMany(globex, [entry('globex', 1)])
    driver.setMany(acme, [{ key: 'big', value: 'x'.repeat(4_850), ttlMs: 'never' }])
    driver.setMany(acme, [{ key: 'huge', value: 'x'.repeat(50_000), ttlMs: 'never' }])
    expect(driver.has(acme, 'big')).toBe(false)
    expect(driver.has(acme, 'huge')).toBe(false)
    expect(driver.has(globex, 'k1')).toBe(true)
  })

  test('a tenant without entries leaves nothing behind, and the books balance', async () => {
    const scopes = await scopesOf(...Array.from({ length: 300 }, (_, n) => `tenant-${n}`))
    const driver = memoryDriver()
    for (const scope of scopes) driver.setMany(scope, [entry(scope.tenant.id, 1)])
    expect(driver.tenantCount).toBe(300)
    for (const [index, scope] of scopes.entries())
      if (index % 2 === 0) driver.clear(scope)
      else driver.delete(scope, 'k1')
    expect(driver.tenantCount).toBe(0)
    expect(driver.usedBytes).toBe(0)
  })

  test('expired entries give their memory back when they are met', async () => {
    const [acme] = await scopesOf('acme')
    if (!acme) throw new Error('no scope')
    const driver = memoryDriver()
    driver.setMany(acme, [{ key: 'k', value: '1', ttlMs: 1 }])
    await expect.poll(() => driver.getMany(acme, ['k'])).toEqual([undefined])
    expect(driver.usedBytes).toBe(0)
  })

  test.each([{ maxBytes: 0 }, { maxBytes: 1.5 }, { maxBytes: Number.NaN }, { maxEntries: 1 }])(
    'refuses %o',
    (options) => {
      expect(() => memoryDriver(options)).toThrowError(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
    },
  )
})
