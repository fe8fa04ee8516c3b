import { expect, test } from 'vitest'
import { HeldTransaction } from './held-transaction.ts'

test('a BEGIN waits with its modes, and is given out once', () => {
  const held = new HeldTransaction()
  expect(held.answer('select 1')).toBeUndefined()
  expect(held.answer('begin')).toEqual({ tag: 'BEGIN', status: 'T' })
  expect(held.answer('set transaction isolation level serializable')).toEqual({
    tag: 'SET',
    status: 'T',
  })
  expect(held.answer('select 1')).toBeUndefined()
  expect(held.take()).toEqual(['begin', 'set transaction isolation level serializable'])
  expect(held.take()).toEqual([])
  // Now the server has it: a COMMIT is for the server.
  expect(held.answer('commit')).toBeUndefined()
})

test.each([
  ['commit', 'COMMIT'],
  ['rollback', 'ROLLBACK'],
])(
  'a transaction that ends by %s before its first statement never reaches the server',
  (text, tag) => {
    const held = new HeldTransaction()
    held.answer('start transaction')
    expect(held.answer(text)).toEqual({ tag, status: 'I' })
    expect(held.take()).toEqual([])
  },
)
