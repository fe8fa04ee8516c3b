import { describe, expect, test } from 'vitest'

import { seededRandom } from './seeded-random.ts'

describe('seededRandom', () => {
  test('the same seed gives the same sequence, another seed another one', () => {
    const sequence = (seed: number): number[] => {
      const random = seededRandom(seed)
      return Array.from({ length: 100 }, () => random.next())
    }
    expect(sequence(7)).toEqual(sequence(7))
    expect(sequence(7)).not.toEqual(sequence(8))
  })

  test('numbers are spread over the range, borders included', () => {
    const random = seededRandom(1)
    const counts = new Map<number, number>()
    for (let n = 0; n < 40_000; n++) {
      const drawn = random.integer(-1, 2)
      counts.set(drawn, (counts.get(drawn) ?? 0) + 1)
    }
    expect([...counts.keys()].toSorted((a, b) => a - b)).toEqual([-1, 0, 1, 2])
    for (const count of counts.values()) expect(Math.abs(count - 10_000)).toBeLessThan(500)
  })

  test('a shuffle keeps every element and leaves the list alone', () => {
    const list = Array.from({ length: 50 }, (_, index) => index)
    const shuffled = seededRandom(3).shuffle(list)
    expect(shuffled).not.toEqual(list)
    expect(shuffled.toSorted((a, b) => a - b)).toEqual(list)
    expect(list[0]).toBe(0)
  })

  test('nothing can be picked from an empty list', () => {
    expect(() => seededRandom(1).pick([])).toThrow(RangeError)
    expect(seededRandom(1).pick(['only'])).toBe('only')
  })
})
