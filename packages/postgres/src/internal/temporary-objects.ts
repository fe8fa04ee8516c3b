import type { BackendMessage } from './pg-internals.ts'

/** What the cleaner wants after a message of the server. */
export type CleanerStep =
  | { readonly kind: 'wait' }
  | { readonly kind: 'send'; readonly text: string }
  /** The session is clean: the statement that was turned away can be sent again. */
  | { readonly kind: 'clean'; readonly again: () => void }
  | { readonly kind: 'failed'; readonly cause: BackendMessage }

const WAIT: CleanerStep = { kind: 'wait' }

/**
 * Removes temporary objects that an earlier tenant left in the session, after the scope statement turned a statement away because of them. No command tag tells of a temporary table that a
 * function makes, and code like `create temp table if not exists` would find the other tenant's rows.
 *
 * A state machine over the answers of the server: end of the failed batch, ROLLBACK if a BEGIN was part of it, DISCARD TEMP.
 */
export class TemporaryObjectsCleaner {
  #stage: 'drain' | 'rollback' | 'discard' = 'drain'
  #failure: BackendMessage | undefined

  readonly #again: () => void

  /** @param again - sends the statement that was turned away once more. */
  constructor(again: () => void) {
    this.#again = again
  }

  onMessage(event: string | symbol, message: BackendMessage): CleanerStep {
    if (event === 'errorMessage') this.#failure ??= message
    if (event !== 'readyForQuery') return WAIT
    if (this.#failure !== undefined) return { kind: 'failed', cause: this.#failure }
    if (this.#stage === 'drain' && message.status !== 'I') {
      this.#stage = 'rollback'
      return { kind: 'send', text: 'rollback' }
    }
    if (this.#stage !== 'discard') {
      this.#stage = 'discard'
      return { kind: 'send', text: 'discard temp' }
    }
    return { kind: 'clean', again: this.#again }
  }
}
