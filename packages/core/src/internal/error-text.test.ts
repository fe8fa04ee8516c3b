import { describe, expect, test } from 'vitest'
import { errorText } from './error-text.ts'

describe('errorText', () => {
  test.each([
    [new TypeError('no'), 'TypeError: no'],
    ['text', 'text'],
    [undefined, 'undefined'],
    [Symbol('s'), 'Symbol(s)'],
  ])('shows what can be shown', (error, text) => expect(errorText(error)).toBe(text))

  test.each([
    [JSON.parse('{"toString":1,"valueOf":1}')],
    [Object.create(null)],
    [Object.assign(new Error('x'), { message: Object.create(null) as string })],
    [
      new Proxy(
        {},
        {
          get: () => {
            throw new Error('no')
          },
        },
      ),
    ],
  ])('survives what cannot', (error: unknown) =>
    expect(errorText(error)).toBe('an error that cannot be shown'),
  )
})
