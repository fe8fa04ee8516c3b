import { expect, test } from 'vitest'
import { Closers } from './closers.ts'

test('the last is closed first, each once, and one that fails keeps none open', async () => {
  const closers = new Closers()
  const closed: string[] = []
  for (const name of ['database', 'pool', 'scheduler'])
    closers.add(name, () => {
      closed.push(name)
      if (name === 'pool') throw new Error('pool failed')
    })
  await expect(closers.closeAll()).rejects.toMatchObject({
    errors: [expect.objectContaining({ message: 'pool failed' })],
  })
  await closers.closeAll()
  expect(closed).toEqual(['scheduler', 'pool', 'database'])
})

test('one that never ends is named and left behind', async () => {
  const closers = new Closers()
  let closed = false
  closers.add('database', () => {
    closed = true
  })
  closers.add('The pool', () => new Promise(() => undefined))
  await expect(closers.closeAll(20)).rejects.toMatchObject({
    errors: [expect.objectContaining({ message: 'The pool did not close within 20 ms.' })],
  })
  expect(closed).toBe(true)
})
