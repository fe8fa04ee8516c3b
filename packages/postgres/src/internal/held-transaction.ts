import type { TransactionStatus } from './pg-internals.ts'
import { beginTag, finishTag, isSetTransaction } from './transaction-text.ts'

/** What a statement is answered with in the server's place. */
export interface LocalAnswer {
  readonly tag: string
  readonly status: TransactionStatus
}

/**
 * A transaction that was opened and that the server has not seen: its BEGIN, and SET TRANSACTION behind it, wait for the first statement and travel with it. One that ends before that never reaches the server.
 */
export class HeldTransaction {
  #statements: string[] = []

  /** The answer to a statement that needs no server, or `undefined`. */
  answer(text: string): LocalAnswer | undefined {
    if (this.#statements.length === 0) {
      const tag = beginTag(text)
      return tag === undefined ? undefined : this.#hold(text, tag)
    }
    if (isSetTransaction(text)) return this.#hold(text, 'SET')
    const tag = finishTag(text)
    if (tag === undefined) return undefined
    this.#statements = []
    return { tag, status: 'I' }
  }

  /** The statements to send in front of the first one, which are then held no more. */
  take(): readonly string[] {
    const statements = this.#statements
    this.#statements = []
    return statements
  }

  #hold(text: string, tag: string): LocalAnswer {
    this.#statements.push(text)
    return { tag, status: 'T' }
  }
}
