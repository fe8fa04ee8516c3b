import { expect, test } from 'vitest'
import { canary, canaryQuantity, foreignRows, isForeignSummary } from './canary.ts'

const rowsOf = (tenantId: string) => [1, 2].map((n) => ({ id: n, item: canary(tenantId, n) }))

test('the rows of a tenant are not foreign to it, and to every other they are', () => {
  expect(foreignRows(rowsOf('acme'), 'acme')).toEqual([])
  expect(foreignRows(rowsOf('acme'), 'globex')).toEqual(rowsOf('acme'))
})

test('one foreign row among many is found', () => {
  const [leaked] = rowsOf('globex')
  expect(foreignRows([...rowsOf('acme'), leaked as { item: string }], 'acme')).toEqual([leaked])
})

test('a tenant whose id begins like another is another', () => {
  expect(foreignRows(rowsOf('acme-2'), 'acme')).toHaveLength(2)
  expect(foreignRows(rowsOf('acme'), 'acme-2')).toHaveLength(2)
})

test('a row without a canary counts as foreign', () => {
  expect(foreignRows([{ item: 'chair' }, {} as { item: string }], 'acme')).toHaveLength(2)
})

test('a sum over the orders of another tenant, of several, or of none is foreign', () => {
  const tenants = ['acme', 'globex']
  const [acme, globex] = tenants.map((id) => canaryQuantity(id, tenants)) as [number, number]
  expect(isForeignSummary({ orders: 3, pieces: 3 * acme }, acme)).toBe(false)
  expect(isForeignSummary({ orders: 3, pieces: 3 * globex }, acme)).toBe(true)
  expect(isForeignSummary({ orders: 3, pieces: 2 * acme + globex }, acme)).toBe(true)
  expect(isForeignSummary({ orders: 0, pieces: 0 }, acme)).toBe(true)
  expect(isForeignSummary({}, acme)).toBe(true)
  expect(() => canaryQuantity('initech', tenants)).toThrow(RangeError)
})
