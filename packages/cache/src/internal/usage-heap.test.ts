import fc from 'fast-check'
import { expect, test } from 'vitest'
import { UsageHeap, type UsageHeapItem } from './usage-heap.ts'

test('the largest is on top after any additions, changes and removals', () => {
  const step = fc.record({
    kind: fc.constantFrom('add', 'change', 'remove'),
    pick: fc.nat(),
    usage: fc.nat(50),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const heap = new UsageHeap<UsageHeapItem>()
      const items: UsageHeapItem[] = []
      for (const { kind, pick, usage } of steps) {
        const item = items[pick % Math.max(1, items.length)]
        if (kind === 'add' || item === undefined) {
          const added = { usage, position: -1 }
          items.push(added)
          heap.add(added)
        } else if (kind === 'change') {
          item.usage = usage
          heap.update(item)
        } else {
          heap.remove(item)
          items.splice(items.indexOf(item), 1)
        }
        const usages = items.map((each) => each.usage)
        expect(heap.largest()?.usage).toBe(usages.length === 0 ? undefined : Math.max(...usages))
      }
    }),
  )
})
