import { expect, test } from 'vitest'

import { collectWarnings } from './collect-warnings.ts'
import { eventually } from './eventually.ts'

test('resolves to the first truthy answer, over errors and falsy ones', async () => {
  let calls = 0
  const answer = await eventually(() => {
    calls++
    if (calls === 1) throw new Error('not yet')
    return calls === 3 && 'ready'
  })
  expect(answer).toBe('ready')
  expect(calls).toBe(3)
})

test('gives up with the last error as cause', async () => {
  const refused = eventually(() => Promise.reject(new Error('still down')), {
    timeoutMs: 50,
    intervalMs: 5,
  })
  await expect(refused).rejects.toMatchObject({
    message: expect.stringContaining('50 ms'),
    cause: expect.objectContaining({ message: 'still down' }),
  })
})

test('warnings are collected until the end of the scope, with their codes', async () => {
  let seen
  {
    using warnings = collectWarnings()
    seen = warnings
    process.emitWarning('first', { code: 'PARTYWALL_TEST_ONE' })
    process.emitWarning('second', { code: 'PARTYWALL_TEST_TWO' })
    await eventually(() => warnings.all.length === 2)
    expect(warnings.withCode('PARTYWALL_TEST_TWO').map(({ message }) => message)).toEqual([
      'second',
    ])
  }
  const after = Promise.withResolvers<Error>()
  process.once('warning', after.resolve)
  process.emitWarning('third', { code: 'PARTYWALL_TEST_ONE' })
  await after.promise
  expect(seen.all).toHaveLength(2)
})
