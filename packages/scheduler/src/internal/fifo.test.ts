import { expect, it } from 'vitest'
import { Fifo } from './fifo.ts'

it('keeps the order of a list under pushes, shifts, putting back and removal', () => {
  const fifo = new Fifo<number>()
  const model: number[] = []
  let seed = 42
  const random = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648
    return seed % below
  }
  for (let step = 0; step < 50_000; step++) {
    const choice = random(20)
    if (choice < 9) {
      fifo.push(step)
      model.push(step)
    } else if (choice < 18) expect(fifo.shift()).toBe(model.shift())
    else if (choice < 19) {
      fifo.unshift(step)
      model.unshift(step)
    } else {
      const item = model[random(model.length + 1)] ?? -1
      const index = model.indexOf(item)
      expect(fifo.remove(item)).toBe(index !== -1)
      if (index !== -1) model.splice(index, 1)
    }
    expect(fifo.length).toBe(model.length)
  }
  while (model.length > 0) expect(fifo.shift()).toBe(model.shift())
  expect(fifo.shift()).toBeUndefined()
})
