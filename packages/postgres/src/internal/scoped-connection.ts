import { TenancyError } from '@partywall/core'
import { bindMessage, executeMessage, parseMessage } from './frontend-messages.ts'
import {
  type BackendMessage,
  PgConnectionBase,
  type PgConnectionConfig,
  type TransactionStatus,
} from './pg-internals.ts'
import { residueOf } from './session-residue.ts'
import { PREPARE_SCOPE } from './tenant-prefix.ts'
import { beginTag, finishTag, isSetTransaction } from './transaction-text.ts'

/** For whom a connection works: nobody (`refuse`), the pool's own set-up, or one tenant. */
type Mode = 'refuse' | 'setup' | 'scoped'

/**
 * A connection that puts the tenant's scope in front of every statement that is not inside an open transaction, in the same write and the same implicit transaction: one Sync
 * covers both, so the server runs both or neither, and the setting is gone afterwards. A SET with a Sync of its own would fail open.
 *
 * It sits below queries, cursors and COPY streams, which all speak through `query`, `parse` and `bind`, and swallows the replies to what it adds. A BEGIN is held back and
 * travels with the first statement, in front of the scope: `BEGIN ISOLATION LEVEL` fails behind it (25001). Inside a transaction nothing is added: in a failed one an addition
 * would swallow the ROLLBACK.
 */
export class ScopedConnection extends PgConnectionBase {
  #mode: Mode = 'refuse'
  #tenantId: string | undefined
  #prefix: Buffer | undefined
  /** What the server said last; not what a held BEGIN makes the client believe. */
  #status: TransactionStatus = 'I'
  /** BEGIN, and SET TRANSACTION behind it, that the server has not seen. */
  #held: string[] = []
  /** The scope of the open transaction may have ended with a transaction that was chained to it. */
  #rescope = false
  #prepared = false
  /** Between the first message of a statement and ReadyForQuery. */
  #underWay = false
  #simple = false
  #text: string | undefined
  /** Statements of ours whose replies are still to come. */
  #ownReplies = 0
  #returnedRows = false
  #chained = false
  #residue: string | undefined
  #dead = false

  constructor(config: PgConnectionConfig) {
    super(config)
    const die = (): void => {
      this.#dead = true
    }
    this.on('end', die)
    this.on('error', die)
  }

  /** Lends the connection to a tenant: `prefix` are the bytes that enter it. */
  lend(tenantId: string, prefix: Buffer): void {
    this.#mode = 'scoped'
    this.#tenantId = tenantId
    this.#prefix = prefix
  }

  /** Lets the pool's own set-up talk, without a tenant, while the connection belongs to nobody. */
  openSetup(): void {
    this.#mode = 'setup'
  }

  /** Ends the loan. From here on the connection refuses to send anything. */
  takeBack(): void {
    this.#mode = 'refuse'
    this.#tenantId = undefined
    this.#prefix = undefined
    this.#held = []
  }

  /** Why the connection must not go to another tenant, as far as the server's answers tell; `undefined` if nothing speaks against it. */
  get residue(): string | undefined {
    if (this.#status === 'T') return 'an open transaction'
    if (this.#status === 'E') return 'a failed transaction'
    return this.#residue
  }

  override query(text: string): void {
    if (this.#answerHere(text)) return
    this.stream.cork()
    try {
      if (this.#enter(text, true)) super.query(text)
    } finally {
      this.stream.uncork()
    }
  }

  override parse(message: { text: string; name?: string; types?: unknown }): void {
    if (this.#enter(message.text, false)) super.parse(message)
  }

  override bind(message: unknown): void {
    if (this.#enter(undefined, false)) super.bind(message)
  }

  override emit(event: string | symbol, ...args: unknown[]): boolean {
    switch (event) {
      case 'parseComplete':
        if (this.#ownReplies > 0) {
          // The scope is the last of our statements. It stays prepared even if what follows fails.
          if (this.#ownReplies === 1) this.#prepared = true
          return true
        }
        break
      case 'bindComplete':
      case 'dataRow':
        if (this.#ownReplies > 0) return true
        break
      case 'rowDescription':
        this.#returnedRows = true
        break
      case 'commandComplete':
        if (this.#ownReplies > 0) {
          this.#ownReplies--
          return true
        }
        this.#completed((args[0] as BackendMessage).text ?? '')
        break
      case 'errorMessage':
        if (this.#ownReplies > 0)
          return super.emit(event, this.#scopeFailed(args[0] as BackendMessage))
        break
      case 'readyForQuery':
        this.#ready((args[0] as BackendMessage).status ?? 'I')
        break
    }
    return super.emit(event, ...args)
  }

  /** Answers a BEGIN without the server, and everything up to the first statement that needs one. */
  #answerHere(text: string): boolean {
    if (this.#mode !== 'scoped' || this.#status !== 'I' || this.#underWay) return false
    if (this.#held.length === 0) {
      const tag = beginTag(text)
      if (tag === undefined) return false
      this.#held.push(text)
      this.#reply(tag, 'T')
      return true
    }
    if (isSetTransaction(text)) {
      this.#held.push(text)
      this.#reply('SET', 'T')
      return true
    }
    const tag = finishTag(text)
    if (tag === undefined) return false
    this.#held = []
    this.#reply(tag, 'I')
    return true
  }

  #reply(tag: string, status: TransactionStatus): void {
    process.nextTick(() => {
      // A connection that broke in the meantime has already failed the statement.
      if (this.#dead) return
      super.emit('commandComplete', { name: 'commandComplete', length: tag.length + 5, text: tag })
      super.emit('readyForQuery', { name: 'readyForQuery', length: 5, status })
    })
  }

  /** Puts the scope in front of a statement that begins. Tells whether it may be sent. */
  #enter(text: string | undefined, simple: boolean): boolean {
    if (this.#underWay) return true
    if (this.#mode === 'refuse' || this.#dead) {
      this.stream.destroy(
        new TenancyError(
          'ERR_TENANCY_CONTEXT_MISSING',
          'A statement was sent on a connection that is lent to nobody.',
        ),
      )
      return false
    }
    this.#underWay = true
    this.#simple = simple
    this.#text = text
    this.#returnedRows = false
    const prefix = this.#prefix
    if (this.#mode === 'setup' || prefix === undefined) return true
    const outside = this.#status === 'I'
    if (!outside && !(this.#status === 'T' && this.#rescope)) return true
    if (outside && !simple && this.#held.length === 0 && text !== undefined && beginTag(text)) {
      // A BEGIN in the extended protocol cannot be answered here; the scope follows with the next statement.
      this.#rescope = true
      return true
    }
    const messages: Buffer[] = []
    for (const held of this.#held)
      messages.push(parseMessage('', held), bindMessage('', []), executeMessage())
    this.#ownReplies = this.#held.length + 1
    this.#held = []
    this.#rescope = false
    if (!this.#prepared) messages.push(PREPARE_SCOPE)
    messages.push(prefix)
    this._send(messages.length === 1 ? prefix : Buffer.concat(messages))
    return true
  }

  #completed(tag: string): void {
    if (this.#mode === 'setup') return
    if (tag === 'COMMIT' || tag === 'ROLLBACK') this.#chained = true
    if (tag === 'DISCARD ALL' || tag === 'DEALLOCATE ALL' || tag === 'DEALLOCATE')
      this.#prepared = false
    this.#residue ??= residueOf(tag, this.#text, this.#returnedRows)
    this.#returnedRows = false
  }

  #scopeFailed(message: BackendMessage): TenancyError | BackendMessage {
    this.#ownReplies = 0
    // The server is ending the connection: that is not about the scope.
    if (message.severity === 'FATAL') return message
    // The statement behind it is skipped up to a Sync, which a simple query does not bring along.
    if (this.#simple) this.sync()
    // Gone by a DEALLOCATE inside a function, say. It is prepared anew the next time.
    this.#prepared = this.#prepared && message.code !== '26000'
    const options = { cause: message, tenantId: this.#tenantId }
    return message.code === '3F000'
      ? new TenancyError(
          'ERR_TENANCY_SCHEMA_MISSING',
          `The schema of tenant ${this.#tenantId} does not exist; the statement was not run.`,
          options,
        )
      : new TenancyError(
          'ERR_TENANCY_SCOPE_FAILED',
          `Tenant ${this.#tenantId} could not be entered; the statement was not run.`,
          options,
        )
  }

  #ready(status: TransactionStatus): void {
    // A transaction that is open right after one ended was chained to it, and has no scope yet. (ROLLBACK TO reports the same tag: one scope too many does no harm.)
    if (status === 'T' && this.#chained) this.#rescope = true
    if (status === 'I') this.#rescope = false
    this.#chained = false
    this.#status = status
    this.#underWay = false
    this.#text = undefined
  }
}
