import { expect, test } from 'vitest'

import { canary, foreignCanaries } from './canary.ts'

test('a foreign canary is found wherever it is, the own one is not', () => {
  const reply = {
    rows: [{ id: 1, note: canary('acme', 1) }],
    nested: { text: `${canary('globex', 1)} and ${canary('acme-2', 'x')}` },
  }
  expect(foreignCanaries(reply, 'acme')).toEqual(['globex', 'acme-2'])
  expect(foreignCanaries(reply.rows, 'acme')).toEqual([])
  expect(foreignCanaries(canary('globex', 7), 'acme')).toEqual(['globex'])
})

test('an id that begins like another one is another one', () => {
  expect(foreignCanaries(canary('acme', 1), 'acm')).toEqual(['acme'])
  expect(foreignCanaries(canary('acm', 1), 'acme')).toEqual(['acm'])
})

test('what has no JSON has no canary', () => {
  expect(foreignCanaries(undefined, 'acme')).toEqual([])
})
