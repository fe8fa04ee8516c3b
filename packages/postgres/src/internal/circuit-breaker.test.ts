import { describe, expect, it, vi } from 'vitest'
import { CircuitBreaker } from './circuit-breaker.ts'

const OPTIONS = { failures: 2, firstMs: 100, longestMs: 300 }

describe('CircuitBreaker', () => {
  it('refuses after failures in a row, for a time that doubles up to its bound, and lets one try', () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    try {
      const breaker = new CircuitBreaker(OPTIONS)
      breaker.failed('a', 'first')
      expect(breaker.allows('a')).toBe(true)
      breaker.succeeded('a')
      breaker.failed('a', 'first')
      for (const ms of [100, 200, 300, 300]) {
        breaker.failed('a', ms)
        expect(breaker.causeOf('a')).toBe(ms)
        vi.advanceTimersByTime(ms - 1)
        expect(breaker.allows('a')).toBe(false)
        vi.advanceTimersByTime(1)
        expect(breaker.allows('a')).toBe(true)
        breaker.begin('a')
        expect(breaker.allows('a')).toBe(false)
      }
      // An attempt that says nothing leaves the place to the next.
      breaker.ended('a')
      expect(breaker.allows('a')).toBe(true)
      breaker.succeeded('a')
      breaker.failed('a', 'again')
      expect(breaker.allows('a')).toBe(true)
      expect(breaker.allows('b')).toBe(true)
    } finally {
      vi.useRealTimers()
    }
  })

  it('remembers a thousand places, those that failed last', () => {
    const breaker = new CircuitBreaker(OPTIONS)
    for (let n = 0; n < 5_000; n++) for (let k = 0; k < 2; k++) breaker.failed(`d${n}`, n)
    expect(breaker.size).toBe(1_000)
    expect(breaker.allows('d0')).toBe(true)
    expect(breaker.allows('d4000')).toBe(false)
    expect(breaker.allows('d4999')).toBe(false)
  })

  it("'off' refuses nothing and remembers nothing", () => {
    const breaker = new CircuitBreaker('off')
    for (let n = 0; n < 10; n++) breaker.failed('a', n)
    expect(breaker.allows('a')).toBe(true)
    expect(breaker.size).toBe(0)
  })
})
