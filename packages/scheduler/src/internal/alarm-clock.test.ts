import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { AlarmClock } from './alarm-clock.ts'

const now = () => Date.now()

describe('AlarmClock', () => {
  beforeEach(() => void vi.useFakeTimers({ now: 1_000_000 }))
  afterEach(() => void vi.useRealTimers())

  it('rings in the order of times on one timer, whatever the order of setting and cancelling', () => {
    const clock = new AlarmClock(now)
    const rung: number[] = []
    const expected: number[] = []
    const alarms = Array.from({ length: 2_000 }, (_, index) => {
      const delay = (index * 7_919) % 5_003
      return { delay, alarm: clock.set(now() + delay, () => void rung.push(delay)) }
    })
    for (const [index, { delay, alarm }] of alarms.entries()) {
      if (index % 3 === 0) alarm.cancel()
      else expected.push(delay)
    }
    expect(vi.getTimerCount()).toBe(1)
    vi.advanceTimersByTime(5_003)
    expect(rung).toEqual(expected.sort((a, b) => a - b))
    expect(clock.size).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('takes times beyond the 31 bits of setTimeout', () => {
    const clock = new AlarmClock(now)
    const ring = vi.fn()
    clock.set(now() + 40 * 86_400_000, ring)
    vi.advanceTimersByTime(39 * 86_400_000)
    expect(ring).not.toHaveBeenCalled()
    vi.advanceTimersByTime(86_400_000)
    expect(ring).toHaveBeenCalledOnce()
  })

  it('notices a clock that was set forward, and waits on one that was set back', () => {
    const clock = new AlarmClock(now, 30_000)
    const ring = vi.fn()
    clock.set(now() + 3_600_000, ring)
    vi.setSystemTime(now() + 3_600_000)
    vi.advanceTimersByTime(30_000)
    expect(ring).toHaveBeenCalledOnce()
    const later = vi.fn()
    clock.set(now() + 60_000, later)
    vi.setSystemTime(now() - 600_000)
    vi.advanceTimersByTime(600_000)
    expect(later).not.toHaveBeenCalled()
    vi.advanceTimersByTime(60_000)
    expect(later).toHaveBeenCalledOnce()
  })

  it('gives the room of cancelled alarms back', () => {
    const clock = new AlarmClock(now)
    clock.set(now() + 1_000_000, () => {})
    for (let index = 0; index < 10_000; index++) clock.set(now() + 900_000, () => {}).cancel()
    expect(clock.size).toBeLessThan(200)
  })

  it('is silent once closed', () => {
    const clock = new AlarmClock(now)
    const ring = vi.fn()
    clock.set(now() + 10, ring)
    clock.close()
    clock.set(now() + 10, ring)
    expect(vi.getTimerCount()).toBe(0)
    vi.advanceTimersByTime(100)
    expect(ring).not.toHaveBeenCalled()
  })
})
