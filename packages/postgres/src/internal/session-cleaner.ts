import type { BackendMessage } from './pg-internals.ts'

/** What the cleaner wants after a message of the server. */
export type CleanerStep =
  | { readonly kind: 'wait' }
  | { readonly kind: 'send'; readonly text: string }
  /** The session is clean: the statement that was turned away can be sent again. */
  | { readonly kind: 'clean'; readonly again: () => void }
  | { readonly kind: 'failed'; readonly cause: BackendMessage }

/** Not DISCARD ALL: it would also take what the pool's `onConnect` set, and the statements that pg has prepared. */
const CLEAN =
  'reset search_path; reset app.tenant_id; discard temp; unlisten *; close all; select pg_catalog.pg_advisory_unlock_all()'

/**
 * What is cleaned in front of the statement that was turned away, where the next transaction may come to another session. In a transaction of its own: a ROLLBACK in the text of that statement would bring back what was taken away, and the rest
 * of the text would find it. Locks and subscriptions of strangers are left alone: no statement meets them.
 */
export const CLEAN_FIRST: readonly string[] = [
  'begin',
  'reset search_path',
  'reset app.tenant_id',
  'discard temp',
  'close all',
  'commit',
]

const WAIT: CleanerStep = { kind: 'wait' }

/**
 * Cleans a session after the scope statement turned a statement away because of what an earlier tenant had left there: temporary objects, a base path. No command tag tells of
 * what a function does, and code like `create temp table if not exists` would find the other tenant's rows.
 *
 * A state machine over the answers of the server: end of the failed batch, ROLLBACK if a BEGIN was part of it, then the cleaning.
 */
export class SessionCleaner {
  #stage: 'drain' | 'rollback' | 'discard' = 'drain'
  #failure: BackendMessage | undefined

  readonly #again: () => void
  readonly #text: string | undefined

  /**
   * @param again - sends the statement that was turned away once more.
   * @param mode - `'keep'`: there is nothing to clean, only the statement is to be sent anew; or what is to be sent in front of it instead.
   */
  constructor(again: () => void, mode: 'clean' | 'keep' | { readonly send: string }) {
    this.#again = again
    this.#text = mode === 'clean' ? CLEAN : mode === 'keep' ? undefined : mode.send
  }

  onMessage(event: string | symbol, message: BackendMessage): CleanerStep {
    if (event === 'errorMessage') this.#failure ??= message
    if (event !== 'readyForQuery') return WAIT
    if (this.#failure !== undefined) return { kind: 'failed', cause: this.#failure }
    if (this.#stage === 'drain' && message.status !== 'I') {
      this.#stage = 'rollback'
      return { kind: 'send', text: 'rollback' }
    }
    if (this.#text !== undefined && this.#stage !== 'discard') {
      this.#stage = 'discard'
      return { kind: 'send', text: this.#text }
    }
    return { kind: 'clean', again: this.#again }
  }
}
