/**
 * Bounds how many connections one tenant has at a time, so that no tenant drains the pool: the rest of its callers wait for its own, in the order in which they came, and not in front of everybody else.
 */
export class TenantTurns {
  readonly #max: number
  readonly #tenants = new Map<string, { active: number; readonly waiting: (() => void)[] }>()

  constructor(max: number) {
    this.#max = max
  }

  /** Starts now, or when the tenant has given a connection back. Returns the function that gives up waiting; harmless once it has started. */
  enter(tenantId: string, start: () => void): () => void {
    let turn = this.#tenants.get(tenantId)
    if (turn === undefined) this.#tenants.set(tenantId, (turn = { active: 0, waiting: [] }))
    if (turn.active < this.#max) {
      turn.active++
      start()
      return () => undefined
    }
    const { waiting } = turn
    waiting.push(start)
    return () => {
      const index = waiting.indexOf(start)
      if (index !== -1) waiting.splice(index, 1)
    }
  }

  /** Once for each that has started. */
  leave(tenantId: string): void {
    const turn = this.#tenants.get(tenantId)
    if (turn === undefined) return
    const next = turn.waiting.shift()
    if (next !== undefined) return next()
    // Tenants at rest take no room.
    if (--turn.active === 0) this.#tenants.delete(tenantId)
  }
}
