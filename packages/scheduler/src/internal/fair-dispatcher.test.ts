import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { FairDispatcher, type Lane } from './fair-dispatcher.ts'

function lanes(work: Record<string, number>, options: { concurrency: number; perLane: number }) {
  const dispatcher = new FairDispatcher({
    concurrency: options.concurrency,
    concurrencyPerLane: options.perLane,
  })
  const order: string[] = []
  const running = new Map<string, number>()
  let most = 0
  const mostOf = new Map<string, number>()
  const all = Object.entries(work).map(([name, jobs]) => {
    let left = jobs
    const lane: Lane & { paused: boolean } = {
      paused: false,
      isReady: () => left > 0 && !lane.paused,
      runNext: async () => {
        left--
        order.push(name)
        running.set(name, (running.get(name) ?? 0) + 1)
        mostOf.set(name, Math.max(mostOf.get(name) ?? 0, running.get(name) ?? 0))
        most = Math.max(most, dispatcher.running)
        await sleep(1)
        running.set(name, (running.get(name) ?? 0) - 1)
      },
    }
    dispatcher.offer(lane)
    return lane
  })
  const done = async (): Promise<void> => {
    const total = Object.values(work).reduce((sum, jobs) => sum + jobs, 0)
    while (order.length < total) await sleep(2)
    await dispatcher.stop()
  }
  return { dispatcher, order, all, done, most: () => most, mostOf }
}

describe('FairDispatcher', () => {
  it('gives each lane its turn, however much another has', async () => {
    const { dispatcher, order, done, most } = lanes(
      { heavy: 300, a: 5, b: 5 },
      { concurrency: 3, perLane: 100 },
    )
    dispatcher.start()
    await done()
    expect(order.slice(0, 6).sort()).toEqual(['a', 'a', 'b', 'b', 'heavy', 'heavy'])
    expect(Math.max(order.lastIndexOf('a'), order.lastIndexOf('b'))).toBeLessThan(18)
    expect(most()).toBe(3)
  })

  it('keeps to the cap of one lane, and uses all room for the others', async () => {
    const { dispatcher, done, most, mostOf } = lanes(
      { heavy: 40, a: 40 },
      { concurrency: 5, perLane: 3 },
    )
    dispatcher.start()
    await done()
    expect(mostOf.get('heavy')).toBe(3)
    expect(mostOf.get('a')).toBeLessThanOrEqual(3)
    expect(most()).toBe(5)
  })

  it('starts nothing before start, in a lane that is not ready, and after stop', async () => {
    const { dispatcher, order, all } = lanes({ a: 2, b: 50 }, { concurrency: 1, perLane: 9 })
    await sleep(3)
    expect(order).toEqual([])
    if (all[0] !== undefined) all[0].paused = true
    dispatcher.start()
    await sleep(5)
    await dispatcher.stop()
    const begun = order.length
    expect(begun).toBeGreaterThan(0)
    expect(begun).toBeLessThan(40)
    expect(order).not.toContain('a')
    expect(dispatcher.running).toBe(0)
    await sleep(5)
    expect(order).toHaveLength(begun)
  })
})
