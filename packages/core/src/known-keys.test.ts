import { expect, test } from 'vitest'
import { TenancyError } from './errors.ts'
import { assertKnownKeys, nearestName } from './known-keys.ts'

test('the nearest name is suggested, and none that is far away', () => {
  expect(nearestName('Tenent', ['tenant', 'domain'])).toBe('tenant')
  expect(nearestName('x'.repeat(30), ['tenant', 'domain'])).toBeUndefined()
})

test('a name of any length takes no time', () => {
  const known = Array.from({ length: 20 }, (_, index) => `settings.of.tenant.number.${index}`)
  const hostile = 'x'.repeat(5_000_000)
  const started = performance.now()
  expect(nearestName(hostile, known)).toBeUndefined()
  expect(() => assertKnownKeys('options', { [hostile]: 1 }, known)).toThrow(TenancyError)
  expect(performance.now() - started).toBeLessThan(1_000)
  // What is cut off is a suggestion, at a length that no name has.
  const longest = 'y'.repeat(100)
  expect(nearestName(longest, [`${longest}z`])).toBe(`${longest}z`)
  expect(nearestName(`${longest}y`, [longest])).toBeUndefined()
})
