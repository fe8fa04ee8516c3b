/** A statement that goes by a name of ours. */
export interface NamedStatement {
  readonly name: string
  readonly text: string
  /** The server knows it. */
  known: boolean
}

/**
 * Names statements by themselves, so that the server parses and plans them once: one name for each pair of tenant and text, kept in an LRU.
 *
 * A name that tenants shared would be planned anew at every switch, and would break (0A000) while a rollout has tenants on two releases. A text gets its name when it comes for the second time: a
 * statement that is never repeated would only push out those that are.
 */
export class StatementNames {
  // Maps keep the order of insertion; the first is the one that was not used for longest.
  readonly #named = new Map<string, NamedStatement>()
  readonly #seen = new Set<string>()
  readonly #max: number
  #next = 0

  /** @param max - names on one connection; each costs the server 8 to 12 KiB. */
  constructor(max: number) {
    this.#max = max
  }

  get size(): number {
    return this.#named.size
  }

  /** The name of a statement, or `undefined` if it has none yet. */
  claim(tenantId: string, text: string): NamedStatement | undefined {
    // An id holds no blank, so no two pairs meet.
    const key = `${tenantId} ${text}`
    const found = this.#named.get(key)
    if (found !== undefined) {
      this.#named.delete(key)
      this.#named.set(key, found)
      return found
    }
    if (!this.#seen.delete(key)) {
      this.#seen.add(key)
      if (this.#seen.size > this.#max) this.#seen.delete(first(this.#seen))
      return undefined
    }
    const statement = { name: `__partywall_${this.#next++}`, text, known: false }
    this.#named.set(key, statement)
    return statement
  }

  /** Takes a statement off the list that has had its turn, if there are too many; its name must be closed at the server. */
  evict(): NamedStatement | undefined {
    if (this.#named.size <= this.#max) return undefined
    const key = first(this.#named.keys())
    const statement = this.#named.get(key)
    this.#named.delete(key)
    return statement
  }

  /** The server has forgotten all of them. */
  clear(): void {
    this.#named.clear()
    this.#seen.clear()
  }
}

function first(keys: Iterable<string>): string {
  for (const key of keys) return key
  throw new RangeError('There is none.')
}
