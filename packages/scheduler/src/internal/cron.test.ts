import { describe, expect, it } from 'vitest'
import { cronEvaluators, nextCronRun } from './cron.ts'

function runs(pattern: string, timezone: string, from: string, count: number): string[] {
  const found: string[] = []
  let at = Date.parse(from)
  for (let index = 0; index < count; index++) {
    at = nextCronRun(pattern, timezone, at) as number
    found.push(new Date(at).toISOString())
  }
  return found
}

describe('nextCronRun', () => {
  it('moves a time that a change to summer time skips behind the gap', () => {
    // Berlin, 29 March 2026: 02:00 becomes 03:00, so that 02:30 does not exist; 03:00 is 01:00 UTC.
    expect(runs('30 2 * * *', 'Europe/Berlin', '2026-03-28T00:00:00Z', 3)).toEqual([
      '2026-03-28T01:30:00.000Z',
      '2026-03-29T01:00:00.000Z',
      '2026-03-30T00:30:00.000Z',
    ])
  })

  it('takes a time that occurs twice once', () => {
    // Berlin, 25 October 2026: 02:30 is at 00:30 UTC, and again at 01:30 UTC.
    expect(runs('30 2 * * *', 'Europe/Berlin', '2026-10-24T12:00:00Z', 2)).toEqual([
      '2026-10-25T00:30:00.000Z',
      '2026-10-26T01:30:00.000Z',
    ])
  })

  it('never gives a time twice, at any start within a minute', () => {
    const due = Date.parse('2026-06-01T12:00:00Z')
    for (const offset of [-59_999, -1_001, -999, -1])
      expect(nextCronRun('* * * * *', 'UTC', due + offset)).toBe(due)
    for (const offset of [0, 1, 999, 59_999])
      expect(nextCronRun('* * * * *', 'UTC', due + offset)).toBe(due + 60_000)
    // The remembered answer must not be given for an earlier question.
    expect(nextCronRun('* * * * *', 'UTC', due - 120_000)).toBe(due - 60_000)
  })

  it('shares evaluators, keeps time zones apart, and forgets the least recently used', () => {
    const from = Date.parse('2026-06-01T12:00:00Z')
    expect(nextCronRun('0 3 * * *', 'UTC', from)).not.toBe(
      nextCronRun('0 3 * * *', 'Asia/Tokyo', from),
    )
    const before = cronEvaluators()
    for (let tenant = 0; tenant < 1_000; tenant++) nextCronRun('0 3 * * *', 'UTC', from)
    expect(cronEvaluators()).toBe(before)
    for (let minute = 0; minute < 60; minute++)
      for (let hour = 0; hour < 5; hour++) nextCronRun(`${minute} ${hour} * * *`, 'UTC', from)
    expect(cronEvaluators()).toBe(200)
    expect(nextCronRun('0 3 * * *', 'Asia/Tokyo', from)).toBe(Date.parse('2026-06-01T18:00:00Z'))
  })

  it('knows patterns that are never due', () => {
    expect(nextCronRun('0 0 30 2 *', 'UTC', Date.now())).toBeUndefined()
  })
})
