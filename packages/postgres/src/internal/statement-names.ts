import type { BackendMessage } from './pg-internals.ts'

/** What a statement returns, as the server described it. */
export type StatementColumns = BackendMessage | 'none'

/** A statement that goes by a name of ours. */
export interface NamedStatement {
  readonly name: string
  readonly text: string
  /** Its columns are fixed when it is prepared: if they change, the server refuses it (0A000). Those of EXECUTE and FETCH are whatever the name in them stands for at the moment. */
  readonly planned: boolean
  /** The server knows it. */
  known: boolean
  /** `undefined` until the server has said it. */
  columns: StatementColumns | undefined
}

/** What surely is planned. A text that begins in another way, with a comment for example, is described each time. */
const PLANNED = /^\s*(?:select|insert|update|delete|merge|with|values|table)\b/i

interface Entry extends NamedStatement {
  readonly tenantId: string
  usedAt: number
}

/**
 * Names statements by themselves, so that the server parses and plans them once: one name for each pair of tenant and text, the least recently used given up first.
 *
 * A name that tenants shared would be planned anew at every switch, and would break (0A000) while a rollout has tenants on two releases. A text gets its name when it comes for the second time: a
 * statement that is never repeated would only push out those that are.
 */
export class StatementNames {
  // By tenant, then by text: the hash of a text is kept by the text, that of a joined key would be worked out at every look-up.
  readonly #tenants = new Map<string, Map<string, Entry | 'seen'>>()
  readonly #named = new Set<Entry>()
  readonly #max: number
  #seen = 0
  #next = 0
  #clock = 0

  /** @param max - names on one connection; each costs the server 8 to 12 KiB. */
  constructor(max: number) {
    this.#max = max
  }

  get size(): number {
    return this.#named.size
  }

  /** The name of a statement, or `undefined` if it has none yet. */
  claim(tenantId: string, text: string): NamedStatement | undefined {
    let texts = this.#tenants.get(tenantId)
    if (texts === undefined) this.#tenants.set(tenantId, (texts = new Map()))
    const found = texts.get(text)
    if (found === undefined) {
      if (++this.#seen > this.#max) this.#forgetSeen()
      texts.set(text, 'seen')
      // It may have been the last of its tenant's.
      this.#tenants.set(tenantId, texts)
      return undefined
    }
    if (found !== 'seen') {
      found.usedAt = ++this.#clock
      return found
    }
    const name = `__partywall_${this.#next++}`
    const entry: Entry = {
      name,
      text,
      planned: PLANNED.test(text),
      known: false,
      columns: undefined,
      tenantId,
      usedAt: ++this.#clock,
    }
    this.#seen--
    texts.set(text, entry)
    this.#named.add(entry)
    return entry
  }

  /** Takes a statement off the list that has had its turn, if there are too many; its name must be closed at the server. */
  evict(): NamedStatement | undefined {
    if (this.#named.size <= this.#max) return undefined
    let oldest: Entry | undefined
    for (const entry of this.#named)
      if (oldest === undefined || entry.usedAt < oldest.usedAt) oldest = entry
    if (oldest !== undefined) {
      this.#named.delete(oldest)
      this.#tenants.get(oldest.tenantId)?.delete(oldest.text)
    }
    return oldest
  }

  /** The server has forgotten all of them. */
  clear(): void {
    this.#tenants.clear()
    this.#named.clear()
    this.#seen = 0
  }

  #forgetSeen(): void {
    this.#seen = 1
    for (const [tenantId, texts] of this.#tenants) {
      for (const [text, entry] of texts) if (entry === 'seen') texts.delete(text)
      if (texts.size === 0) this.#tenants.delete(tenantId)
    }
  }
}
