import { TenancyError } from '@partywall/core'
import { bindMessage, executeMessage, flushMessage, parseMessage } from './frontend-messages.ts'
import {
  type BackendMessage,
  PgConnectionBase,
  type PgConnectionConfig,
  type TransactionStatus,
} from './pg-internals.ts'
import { residueOf } from './session-residue.ts'
import { type CleanerStep, TemporaryObjectsCleaner } from './temporary-objects.ts'
import {
  PREPARE_SCOPE,
  PREPARE_SCOPE_SQL,
  type Prefix,
  TEMPORARY_OBJECTS_FOUND,
  type TenantPrefix,
} from './tenant-prefix.ts'
import { beginTag, finishTag, isSetTransaction } from './transaction-text.ts'

/** What a cleaner listens to; everything else (notices, parameters, the end of the connection) passes by. */
const CLEANED = new Set<string | symbol>([
  'parseComplete',
  'bindComplete',
  'rowDescription',
  'dataRow',
  'noData',
  'commandComplete',
  'emptyQuery',
  'errorMessage',
  'readyForQuery',
])

/** For whom a connection works: nobody (`refuse`), the pool's own set-up, or one tenant. */
type Mode = 'refuse' | 'setup' | 'scoped'

/**
 * A connection that puts the tenant's scope in front of every statement that is not inside an open transaction, in the same write and the same implicit transaction: the server runs both or
 * neither, and the setting is gone afterwards. A SET of its own would fail open. In the extended protocol one Sync covers both; text without parameters gets the scope as its first
 * statement. (A simple Query behind an extended message, which older servers take, leaves PostgreSQL 18 in a broken transaction.)
 *
 * It sits below queries, cursors and COPY streams, which all speak through `query`, `parse` and `bind`, and swallows the replies to what it adds. A BEGIN is held back and
 * travels with the first statement, in front of the scope: `BEGIN ISOLATION LEVEL` fails behind it (25001). Inside a transaction nothing is added: in a failed one an addition
 * would swallow the ROLLBACK.
 */
export class ScopedConnection extends PgConnectionBase {
  #mode: Mode = 'refuse'
  #tenantId: string | undefined
  #prefix: TenantPrefix | undefined
  /** Nothing was sent for this tenant yet. */
  #fresh = false
  /** What the server said last; not what a held BEGIN makes the client believe. */
  #status: TransactionStatus = 'I'
  /** BEGIN, and SET TRANSACTION behind it, that the server has not seen. */
  #held: string[] = []
  /** The scope of the open transaction may have ended with a transaction that was chained to it. */
  #rescope = false
  #chained = false
  /** The server knows the scope statement by name. */
  #prepared = false
  #residue: string | undefined
  #dead = false

  // About the statement that is under way, from its first message to ReadyForQuery.
  #underWay = false
  #text: string | undefined
  #returnedRows = false
  /** Characters of ours in front of the text: what the server says of positions counts them. */
  #shift = 0
  /** Statements of ours whose replies are still to come. */
  #ownReplies = 0
  /** What was sent of the first statement of a loan, until its scope has held. */
  #record: Recording | undefined
  #cleaner: TemporaryObjectsCleaner | undefined

  constructor(config: PgConnectionConfig) {
    super(config)
    const die = (): void => {
      this.#dead = true
    }
    this.on('end', die)
    this.on('error', die)
  }

  /** Lends the connection to a tenant: `prefix` is what enters it. */
  lend(tenantId: string, prefix: TenantPrefix): void {
    this.#mode = 'scoped'
    this.#fresh = true
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
    const prefix = this.#begin(text)
    if (prefix === 'refused') return
    if (prefix === undefined) return super.query(text)
    const held = this.#takeHeld()
    const send = (scope: Prefix): void => {
      const own = [...held, ...(this.#prepared ? [] : [PREPARE_SCOPE_SQL]), scope.sql]
      // A line end, because a held BEGIN may end in a comment.
      const front = own.map((statement) => `${statement.replace(/;\s*$/, '')}\n;`).join('')
      this.#ownReplies = own.length
      this.#shift = [...front].length
      super.query(front + text)
    }
    if (this.#fresh) this.#record = { synced: true, again: () => send(prefix.next) }
    send(this.#fresh ? prefix.first : prefix.next)
    this.#fresh = false
  }

  override parse(message: { text: string; name?: string; types?: unknown }): void {
    if (this.#beginExtended(message.text)) super.parse(message)
  }

  override bind(message: unknown): void {
    if (this.#beginExtended(undefined)) super.bind(message)
  }

  override flush(): void {
    // Not by way of _send in pg; a flush belongs to the record like everything else.
    this._send(flushMessage())
  }

  override sync(): void {
    if (this.#record !== undefined) this.#record.synced = true
    super.sync()
  }

  override _send(buffer: Uint8Array): boolean {
    this.#record?.sent?.push(buffer)
    return super._send(buffer)
  }

  override emit(event: string | symbol, ...args: unknown[]): boolean {
    const message = args[0] as BackendMessage
    if (this.#cleaner !== undefined && CLEANED.has(event)) {
      this.#clean(this.#cleaner.onMessage(event, message), message)
      return true
    }
    switch (event) {
      case 'parseComplete':
        // The scope is the last of our statements. It stays prepared even if what follows fails.
        if (this.#ownReplies === 1) this.#prepared = true
        if (this.#ownReplies > 0) return true
        break
      case 'bindComplete':
      case 'dataRow':
        if (this.#ownReplies > 0) return true
        break
      case 'rowDescription':
        if (this.#ownReplies > 0) return true
        this.#returnedRows = true
        break
      case 'commandComplete':
        if (this.#ownReplies > 0) {
          if (message.text === 'PREPARE') this.#prepared = true
          if (--this.#ownReplies === 0) this.#record = undefined
          return true
        }
        this.#completed(message.text ?? '')
        break
      case 'errorMessage':
        if (this.#ownReplies === 0) {
          this.#shiftPosition(message)
          break
        }
        if (message.code === TEMPORARY_OBJECTS_FOUND && this.#record !== undefined) {
          this.#startCleaning(this.#record)
          return true
        }
        return super.emit(event, this.#scopeFailed(message))
      case 'notice':
        if (this.#ownReplies === 0) this.#shiftPosition(message)
        break
      case 'readyForQuery':
        this.#ready(message.status ?? 'I')
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

  /** Begins a statement. Returns the scope to put in front of it, `undefined` if it needs none, `'refused'` if it must not be sent. */
  #begin(text: string | undefined): TenantPrefix | 'refused' | undefined {
    if (this.#underWay) return undefined
    if (this.#mode === 'refuse' || this.#dead) {
      this.stream.destroy(
        new TenancyError(
          'ERR_TENANCY_CONTEXT_MISSING',
          'A statement was sent on a connection that is lent to nobody.',
        ),
      )
      return 'refused'
    }
    this.#underWay = true
    this.#text = text
    this.#returnedRows = false
    this.#shift = 0
    if (this.#mode === 'setup') return undefined
    return this.#status === 'I' || (this.#status === 'T' && this.#rescope)
      ? this.#prefix
      : undefined
  }

  #beginExtended(text: string | undefined): boolean {
    const prefix = this.#begin(text)
    if (prefix === 'refused') return false
    if (prefix === undefined) return true
    if (this.#status === 'I' && this.#held.length === 0 && text !== undefined && beginTag(text)) {
      // A BEGIN in the extended protocol cannot be answered here; the scope follows with the next statement.
      this.#rescope = true
      return true
    }
    const held = this.#takeHeld()
    const send = (scope: Prefix): void => {
      const messages: Uint8Array[] = []
      for (const statement of held)
        messages.push(parseMessage('', statement), bindMessage('', []), executeMessage())
      if (!this.#prepared) messages.push(PREPARE_SCOPE)
      messages.push(scope.bytes)
      this.#ownReplies = held.length + 1
      super._send(messages.length === 1 ? scope.bytes : Buffer.concat(messages))
    }
    send(this.#fresh ? prefix.first : prefix.next)
    if (this.#fresh) {
      const sent: Uint8Array[] = []
      this.#record = {
        synced: false,
        sent,
        again: () => {
          send(prefix.next)
          super._send(Buffer.concat(sent))
        },
      }
    }
    this.#fresh = false
    return true
  }

  #takeHeld(): readonly string[] {
    const held = this.#held
    this.#held = []
    this.#rescope = false
    return held
  }

  #startCleaning(record: Recording): void {
    this.#ownReplies = 0
    this.#record = undefined
    this.#cleaner = new TemporaryObjectsCleaner(record.again)
    if (!record.synced) super.sync()
  }

  #clean(step: CleanerStep, message: BackendMessage): void {
    if (step.kind === 'wait') return
    if (step.kind === 'send') return super.query(step.text)
    this.#cleaner = undefined
    if (step.kind === 'clean') return step.again()
    this.#residue = 'temporary objects'
    super.emit('errorMessage', this.#scopeFailed(step.cause))
    this.emit('readyForQuery', message)
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
    this.#record = undefined
    // The server is ending the connection: that is not about the scope.
    if (message.severity === 'FATAL') return message
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

  #shiftPosition(message: BackendMessage): void {
    const position = Number(message.position)
    if (this.#shift > 0 && position > this.#shift) message.position = String(position - this.#shift)
  }

  #ready(status: TransactionStatus): void {
    // A transaction that is open right after one ended was chained to it, and has no scope yet. (ROLLBACK TO reports the same tag: one scope too many does no harm.)
    if (status === 'T' && this.#chained) this.#rescope = true
    if (status === 'I') this.#rescope = false
    this.#chained = false
    this.#status = status
    this.#underWay = false
    this.#text = undefined
    this.#shift = 0
  }
}

/** A statement that can be sent once more. */
interface Recording {
  /** Its batch has an end, so ReadyForQuery will come. */
  synced: boolean
  /** What was sent behind the scope; absent where `again` knows. */
  readonly sent?: Uint8Array[]
  readonly again: () => void
}
