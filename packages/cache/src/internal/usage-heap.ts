/** Something whose use of a shared budget is compared. `position` belongs to the heap. */
export interface UsageHeapItem {
  usage: number
  position: number
}

/**
 * Finds the largest user of a budget. A binary heap that knows where its items are, so that a change costs the logarithm of their number and, for the small
 * changes that a cache makes, usually one comparison.
 */
export class UsageHeap<T extends UsageHeapItem> {
  readonly #items: T[] = []

  largest(): T | undefined {
    return this.#items[0]
  }

  add(item: T): void {
    item.position = this.#items.length
    this.#items.push(item)
    this.#rise(item)
  }

  /** Call after `item.usage` changed. */
  update(item: T): void {
    this.#rise(item)
    this.#sink(item)
  }

  remove(item: T): void {
    const last = this.#items.pop()
    if (last === undefined || last === item) return
    this.#place(last, item.position)
    this.update(last)
  }

  #rise(item: T): void {
    for (;;) {
      const parent = this.#items[(item.position - 1) >> 1]
      if (item.position === 0 || parent === undefined || parent.usage >= item.usage) return
      this.#swap(item, parent)
    }
  }

  #sink(item: T): void {
    for (;;) {
      const left = this.#items[2 * item.position + 1]
      const right = this.#items[2 * item.position + 2]
      const larger =
        left !== undefined && right !== undefined && right.usage > left.usage ? right : left
      if (larger === undefined || larger.usage <= item.usage) return
      this.#swap(larger, item)
    }
  }

  #swap(a: T, b: T): void {
    const position = a.position
    this.#place(a, b.position)
    this.#place(b, position)
  }

  #place(item: T, position: number): void {
    this.#items[position] = item
    item.position = position
  }
}
