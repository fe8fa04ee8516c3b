import type { View } from '../variant-world.ts'

/** What somebody saw that the model does not allow. */
export class Mismatch extends Error {
  override readonly name = 'Mismatch'
}

export function mustBe(what: string, got: unknown, wanted: unknown): void {
  const [told, expected] = [JSON.stringify(got), JSON.stringify(wanted)]
  if (told !== expected) throw new Mismatch(`${what}: got ${told}, and should get ${expected}`)
}

/** What is known of a write: it is there, it is not, or nobody can tell. */
export type Fate = 'pending' | 'saved' | 'lost' | 'unknown'

/** The writes of one walk, by their unit. */
export class Ledger {
  readonly #writes = new Map<string, { readonly tenantId: string; fate: Fate }>()
  readonly #name: string

  /** @param name - in front of every unit; no other walk on the same tables has it. */
  constructor(name: string) {
    this.#name = name
  }

  next(tenantId: string): string {
    const unit = `${this.#name}-${this.#writes.size}`
    this.#writes.set(unit, { tenantId, fate: 'pending' })
    return unit
  }

  settle(units: readonly string[], fate: Fate): void {
    for (const unit of units) {
      const write = this.#writes.get(unit)
      if (write !== undefined) write.fate = fate
    }
  }

  /** Compares with what the server has. */
  verify(
    found: readonly { readonly place: string; readonly unit: string; readonly owner: string }[],
    canaryOf: (tenantId: string) => string,
  ): void {
    const seen = new Set<string>()
    for (const { place, unit, owner } of found) {
      const write = this.#writes.get(unit)
      if (write === undefined) throw new Mismatch(`${unit} is in ${place}, and nobody wrote it`)
      mustBe(`${unit}, its place and owner`, [place, owner], [write.tenantId, canaryOf(place)])
      if (seen.has(unit)) throw new Mismatch(`${unit} is there twice`)
      seen.add(unit)
      if (write.fate === 'lost' || write.fate === 'pending')
        throw new Mismatch(`${unit} is there, and should be ${write.fate}`)
    }
    for (const [unit, { fate }] of this.#writes)
      if (fate === 'saved' && !seen.has(unit)) throw new Mismatch(`${unit} was saved, and is gone`)
  }
}

/** Where a session is: outside of a transaction, behind a BEGIN that nothing has followed yet, inside of a transaction, or in one that has failed. */
export type TransactionState = 'none' | 'begun' | 'open' | 'failed'

interface Savepoint {
  readonly name: string
  readonly writes: number
  readonly local: Partial<View>
}

/** What must become of a connection when it is released. */
export type Residue = 'clean' | 'maybe' | 'dirty'

/** What a plain Postgres would do with one session of one tenant, from checkout to release. */
export class SessionModel {
  readonly #ledger: Ledger
  state: TransactionState = 'none'
  /** The connection is broken. */
  gone = false
  /** An answer is outstanding that nobody waits for: nothing more can be asked. */
  stuck = false
  residue: Residue = 'clean'
  /** Settings of the transaction that the tenant has changed. */
  local: Partial<View> = {}
  /** The session may have temporary objects of its own. */
  temporary = false
  #writes: string[] = []
  #savepoints: Savepoint[] = []

  constructor(ledger: Ledger) {
    this.#ledger = ledger
  }

  /** The session was left with something that must not reach anybody else. */
  leaves(residue: Residue): void {
    if (this.residue !== 'dirty') this.residue = residue
  }

  /** A statement was taken or refused. */
  ran(ok: boolean): void {
    if (this.gone) return
    if (this.state === 'begun') this.state = 'open'
    if (!ok && this.state === 'open') this.state = 'failed'
  }

  /** A write was acknowledged. */
  wrote(unit: string): void {
    if (this.state === 'open') this.#writes.push(unit)
    else this.#ledger.settle([unit], 'saved')
  }

  begin(): void {
    if (this.state === 'none') this.state = 'begun'
    else if (this.state === 'begun') this.state = 'open'
  }

  get failed(): boolean {
    return this.state === 'failed'
  }

  /** The transaction ends, well or not. */
  end(how: 'commit' | 'rollback', chain: boolean): void {
    const saved = how === 'commit'
    this.#ledger.settle(this.#writes, saved ? 'saved' : 'lost')
    this.#writes = []
    this.#savepoints = []
    this.local = {}
    this.state = chain ? 'open' : 'none'
  }

  setSavepoint(name: string): void {
    this.#savepoints.push({ name, writes: this.#writes.length, local: { ...this.local } })
  }

  hasSavepoint(name: string): boolean {
    return this.#savepoints.some((savepoint) => savepoint.name === name)
  }

  rollbackTo(name: string): void {
    const index = this.#savepoints.findLastIndex((savepoint) => savepoint.name === name)
    const savepoint = this.#savepoints[index]
    if (savepoint === undefined) return
    this.#savepoints = this.#savepoints.slice(0, index + 1)
    this.#ledger.settle(this.#writes.slice(savepoint.writes), 'lost')
    this.#writes = this.#writes.slice(0, savepoint.writes)
    this.local = { ...savepoint.local }
    this.state = 'open'
  }

  releaseSavepoint(name: string): void {
    const index = this.#savepoints.findLastIndex((savepoint) => savepoint.name === name)
    this.#savepoints = this.#savepoints.slice(0, index)
  }

  /** The connection broke: what was not saved is lost. */
  breakDown(): void {
    this.gone = true
    this.#ledger.settle(this.#writes, 'lost')
    this.#writes = []
  }

  /** The checkout ends. Returns what must become of the connection; a broken one is nobody's any more. */
  release(): Residue {
    this.#ledger.settle(this.#writes, 'lost')
    this.#writes = []
    if (this.gone) return 'maybe'
    if (this.stuck || this.state === 'open' || this.state === 'failed') return 'dirty'
    return this.residue
  }
}
