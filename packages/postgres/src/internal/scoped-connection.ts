import { TenancyError } from '@partywall/core'
import {
  bindMessage,
  closeStatementMessage,
  describePortalMessage,
  executeMessage,
  flushMessage,
  parseMessage,
  syncMessage,
} from './frontend-messages.ts'
import { HeldTransaction, type LocalAnswer } from './held-transaction.ts'
import {
  type BackendMessage,
  PgConnectionBase,
  type PgConnectionConfig,
  type TransactionStatus,
} from './pg-internals.ts'
import { MANY_STATEMENTS } from './query-config.ts'
import { scopeError, taintsSession } from './scope-error.ts'
import { type Prefix, REFUSED } from './scope-statement.ts'
import { CLEAN_FIRST, type CleanerStep, SessionCleaner } from './session-cleaner.ts'
import { residueOf } from './session-residue.ts'
import { type NamedStatement, type StatementColumns, StatementNames } from './statement-names.ts'
import type { TenantPrefix } from './tenant-prefix.ts'

/** What the server answers to statements; everything else (notices, parameters, the end of the connection) passes by. */
const ANSWERS = new Set<string | symbol>([
  'parseComplete',
  'bindComplete',
  'closeComplete',
  'rowDescription',
  'dataRow',
  'noData',
  'commandComplete',
  'emptyQuery',
  'portalSuspended',
  'copyInResponse',
  'copyOutResponse',
  'copyData',
  'copyDone',
  'errorMessage',
  'readyForQuery',
])

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

/** COPY that reads from the client, which hangs in the extended protocol: the Sync is swallowed. A text that only looks like it is sent the simple way, too. */
const COPY_FROM_CLIENT = /\bcopy\b[\s\S]*\bfrom\b[\s\S]*\bstdin\b/i

/** What one connection may gather. */
export interface ConnectionLimits {
  /** Statements with names of their own. */
  readonly preparedStatements?: number | 'off'
  readonly maxTenantsPerConnection?: number
  /** A pooler stands in between: nothing is kept by name, and each transaction may come to another session. */
  readonly pooled?: boolean
}

/** How a statement is sent once more: behind messages that prepare it, behind statements that clean the session. */
interface Again {
  readonly first?: readonly Uint8Array[]
  readonly clean?: readonly string[]
}

/** For whom a connection works: nobody (`refuse`), the pool's own set-up, or one tenant. */
type Mode = 'refuse' | 'setup' | 'scoped' | 'lane'

/** A statement with its scope in front and a Sync behind, as messages. */
export interface ComposedStatement {
  readonly messages: readonly Uint8Array[]
  readonly scope: Prefix
  readonly named: NamedStatement | undefined
  /** The server knew it by name when it was composed. */
  readonly known: boolean
  /** Its columns, if the server is not asked for them. */
  readonly columns: StatementColumns | undefined
  readonly binary: boolean
}

/** A query object, as far as it writes its messages. */
interface Submits {
  submit(connection: unknown): Error | null
  handleError?(error: Error, connection: unknown): void
}

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
  /** This tenant was not entered yet. */
  #fresh = false
  /** What the server said last; not what a held BEGIN makes the client believe. */
  #status: TransactionStatus = 'I'
  readonly #held = new HeldTransaction()
  /** The scope of the open transaction may have ended with a transaction that was chained to it. */
  #rescope = false
  #chained = false
  /** The scope statements that the server knows by name. */
  readonly #prepared = new Set<string>()
  /** The one that the batch under way prepares. */
  #preparing: string | undefined
  /** The session has had temporary objects of more than one tenant. */
  #cleaned = false
  #residue: string | undefined
  #dead = false
  #distrusted = false

  // About the statement that is under way, from its first message to ReadyForQuery.
  #underWay = false
  #text: string | undefined
  #returnedRows = false
  /** Characters of ours in front of the text: what the server says of positions counts them. */
  #shift = 0
  /** Statements of ours whose replies are still to come. */
  #ownReplies = 0
  /** How many they were, in front of a simple query; 0 in the extended protocol. */
  #ownStatements = 0
  /** What was sent as one simple query, of which the server runs all or, if it cannot be parsed, nothing. */
  #whole: { readonly text: string; readonly held: readonly string[] } | undefined
  #scope: Prefix | undefined
  /** Its batch has an end, so ReadyForQuery will come. */
  #synced = false
  /** Messages are swallowed: the statement was answered here. */
  #muted = false
  /** Answers are swallowed until the end of the batch: the statement was answered by a refusal of ours. */
  #refused = false
  /** What the end of the answer waits for: a cancel request that may still reach the server. */
  #readyAfter: Promise<unknown> | undefined
  /** Sends the statement under way once more; known until it runs. */
  #record: ((again: Again) => void) | undefined
  /** What was sent of it behind the scope. */
  #sent: Uint8Array[] | undefined
  #cleaner: SessionCleaner | undefined
  #lane: ((event: string | symbol, message: BackendMessage) => void) | undefined

  readonly #names: StatementNames | undefined
  #named: NamedStatement | undefined
  /** The columns of the named statement under way, which the server is not asked for again. */
  #columns: StatementColumns | undefined
  #binary = false
  readonly #pooled: boolean
  /** Of statements with names of the caller's, behind a pooler. */
  readonly #texts = new Map<string, string>()

  /** Messages of a batch, which leave in one write. */
  #gathered: Uint8Array[] | undefined

  readonly #maxTenants: number
  readonly #tenants = new Set<string>()

  constructor(
    config: PgConnectionConfig,
    {
      preparedStatements = 'off',
      maxTenantsPerConnection = Number.POSITIVE_INFINITY,
      pooled = false,
    }: ConnectionLimits = {},
  ) {
    super(config)
    this.#names =
      preparedStatements === 'off' || pooled ? undefined : new StatementNames(preparedStatements)
    this.#pooled = pooled
    // pg would not send again what it believes the server to know.
    if (pooled) this.parsedStatements = forgetful(this.#texts)
    if (pooled) this.submittedNamedStatements = forgetful(this.#texts)
    this.#maxTenants = maxTenantsPerConnection
    const die = (): void => {
      this.#dead = true
    }
    this.on('end', die)
    this.on('error', die)
  }

  /** Keeps the end of the answer that is under way back until then: nothing else is sent before, for nobody. */
  holdReady(until: Promise<unknown>): void {
    this.#readyAfter = until
  }

  /** Lends the connection to a tenant: `prefix` is what enters it. */
  lend(tenantId: string, prefix: TenantPrefix): void {
    this.#mode = 'scoped'
    this.#fresh = true
    this.#tenantId = tenantId
    this.#prefix = prefix
    this.#tenants.add(tenantId)
  }

  /** Lends the connection to a lane, which sends what `compose` makes and hears the answers. */
  openLane(onMessage: (event: string | symbol, message: BackendMessage) => void): void {
    this.#mode = 'lane'
    this.#lane = onMessage
  }

  /**
   * The messages of one statement of a tenant, for a lane. `undefined` if its parameters could not be written down; the query object was told.
   *
   * @param text - one statement.
   */
  compose(
    tenantId: string,
    prefix: TenantPrefix,
    text: string,
    query: Submits,
  ): ComposedStatement | undefined {
    const scope = this.#cleaned ? prefix.firstAgain : prefix.first
    const named = this.#names?.claim(tenantId, text)
    const known = named?.known === true
    const name = named?.name ?? ''
    const base = PgConnectionBase.prototype
    let columns = known ? named.columns : undefined
    let binary = false
    const bind: Uint8Array[] = []
    // pg's query object writes itself down; names, scope and end are ours.
    const recorder = {
      stream: {},
      parsedStatements: {},
      submittedNamedStatements: {},
      parse: ignore,
      bind: (message: { binary?: boolean }) => {
        binary = message.binary === true
        if (binary) columns = undefined
        base.bind.call(this, { ...message, statement: name })
      },
      query: () => recorder.bind({}),
      describe: ignore,
      execute: ignore,
      sync: ignore,
      flush: ignore,
      close: ignore,
    }
    this.#gathered = bind
    try {
      const refused = query.submit(recorder)
      if (refused !== null) process.nextTick(() => query.handleError?.(refused, recorder))
    } finally {
      this.#gathered = undefined
    }
    if (bind.length === 0) return undefined
    // From here on everything is sent.
    this.#tenants.add(tenantId)
    const messages: Uint8Array[] = []
    if (this.#mustPrepare(scope)) {
      messages.push(scope.statement.parse)
      // At once: the next statement of the lane follows before the answer.
      this.#hasPrepared()
    }
    messages.push(scope.bytes)
    if (!known) {
      const evicted = named === undefined ? undefined : this.#names?.evict()
      if (evicted?.known === true) messages.push(closeStatementMessage(evicted.name))
      if (named !== undefined) messages.push(closeStatementMessage(name))
      messages.push(parseMessage(name, text))
    }
    messages.push(...bind)
    if (columns === undefined) messages.push(describePortalMessage(''))
    messages.push(executeMessage(), syncMessage())
    return { messages, scope, named, known, columns, binary }
  }

  /** Has the scopes to come ask what a session holds now, and not what it has ever held. `false` if its session is one and the same. */
  expectPast(): boolean {
    if (this.#pooled) this.#cleaned = true
    return this.#pooled
  }

  /** Sends messages of a lane. */
  write(bytes: Uint8Array): void {
    super._send(bytes)
  }

  /** Keeps the connection from everybody else. */
  taint(reason: string): void {
    this.#residue ??= reason
  }

  /** Whether the server says that it set what was asked: path and role. */
  enters({ statement, set }: Prefix, { fields }: BackendMessage): boolean {
    return set.every((value, index) => String(fields?.[statement.column + index]) === value)
  }

  /** Whether it has served as many tenants as it may: the server remembers something of each, and forgets nothing. */
  get spent(): boolean {
    return this.#tenants.size >= this.#maxTenants
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
    this.#lane = undefined
    this.#held.take()
  }

  /** Why the connection must not go to another tenant, as far as the server's answers tell; `undefined` if nothing speaks against it. */
  get residue(): string | undefined {
    if (this.#status === 'T') return 'an open transaction'
    if (this.#status === 'E') return 'a failed transaction'
    return this.#residue
  }

  override query(text: string): void {
    if (this.#answerHere(text)) return
    if (MANY_STATEMENTS.test(text) || COPY_FROM_CLIENT.test(text)) return this.#querySimple(text)
    // The same answers as to a simple query, and a scope that is planned once per connection.
    const sent = this.#beginExtended(text)
    if (sent === 'refused') return
    if (sent === 'bare') {
      this.#synced = true
      this.#gathered = undefined
      return super.query(text)
    }
    this.#sendParse({ text })
    this.#sendBind({})
    this.describe({ type: 'P' })
    super.execute({})
    this.sync()
  }

  /** The scope as the first statement of a simple query. */
  #querySimple(text: string): void {
    const prefix = this.#begin(text)
    if (prefix === 'refused') return
    this.#synced = true
    if (prefix === undefined) return super.query(text)
    const held = this.#takeHeld()
    this.#whole = { text, held }
    const send = (scope: Prefix, front: readonly string[] = []): void => {
      const own = [
        ...front,
        ...held,
        ...(this.#mustPrepare(scope) ? [scope.statement.prepare] : []),
        scope.sql,
      ]
      // A line end, because a held BEGIN may end in a comment.
      const before = own.map((statement) => `${statement.replace(/;\s*$/, '')}\n;`).join('')
      this.#ownReplies = own.length
      this.#ownStatements = own.length
      this.#scope = scope
      // The server counts characters, not UTF-16 units; ours are ASCII, and so is a BEGIN that was recognised but for its comments.
      this.#shift = Array.from(before).length
      super.query(before + text)
    }
    const cleans = this.#mayClean
    const scope = this.#scopeFor(prefix)
    if (cleans) this.#record = (again) => send(this.#scopeAgain(prefix), again.clean)
    send(scope)
  }

  override parse(given: { text: string; name?: string; types?: unknown }): void {
    const message = this.#pooled && given.name ? this.#withoutName(given) : given
    if (this.#muteIfAnswered(message.text)) return
    if (this.#beginExtended(message.text) !== 'refused') this.#sendParse(message)
  }

  /** A name says nothing where the next transaction may come to another session. Who gives a text with it once may leave it out later, as with pg. */
  #withoutName({ name = '', ...message }: { text: string; name?: string; types?: unknown }): {
    text: string
    types?: unknown
  } {
    return { ...message, text: message.text ?? this.#texts.get(name) }
  }

  override bind(message: { statement?: string }): void {
    const text = this.#textOf(message.statement)
    if (this.#muteIfAnswered(text)) return
    if (this.#beginExtended(text) !== 'refused') this.#sendBind(message)
  }

  /** Sends a Parse, or nothing if the server knows the statement by a name of ours. */
  #sendParse(message: { text: string; name?: string; types?: unknown }): void {
    const named =
      this.#mode === 'scoped' && this.#tenantId !== undefined && !message.name && !message.types
        ? this.#names?.claim(this.#tenantId, message.text)
        : undefined
    this.#named = named
    if (named === undefined) return super.parse(message)
    if (named.known) {
      this.#columns = named.columns
      return
    }
    const evicted = this.#names?.evict()
    if (evicted?.known === true) this._send(closeStatementMessage(evicted.name))
    // The name may be taken: by what was prepared before the columns changed, or by a Parse whose end nobody saw.
    this._send(closeStatementMessage(named.name))
    super.parse({ ...message, name: named.name })
  }

  #sendBind(message: { statement?: string; binary?: boolean }): void {
    // Whether values come as text or in binary is part of what a description says.
    this.#binary = message.binary === true
    if (this.#binary) this.#columns = undefined
    if (this.#pooled && message.statement) return super.bind({ ...message, statement: '' })
    super.bind(
      this.#named === undefined || message.statement
        ? message
        : { ...message, statement: this.#named.name },
    )
  }

  /** Asks for the columns, unless they are known: those of a statement that was planned cannot change (0A000). */
  override describe(message: { type: 'P' | 'S'; name?: string }): void {
    if (this.#columns === undefined || message.type === 'S') {
      this.#columns = undefined
      return super.describe(message)
    }
    // Sent after all if the statement has to be prepared anew.
    this.#sent?.push(describePortalMessage(message.name ?? ''))
  }

  override flush(): void {
    // Not by way of _send in pg; a flush belongs to the record like everything else.
    this._send(flushMessage())
    this.#write()
  }

  override sync(): void {
    this.#synced = true
    super.sync()
    this.#write()
  }

  override _send(buffer: Uint8Array): boolean {
    if (this.#muted) return true
    this.#sent?.push(buffer)
    if (this.#gathered === undefined) return super._send(buffer)
    this.#gathered.push(buffer)
    return true
  }

  /** One write for a batch: a system call costs more than the rest of a statement. */
  #write(): void {
    const gathered = this.#gathered
    this.#gathered = undefined
    if (gathered === undefined || gathered.length === 0) return
    super._send(gathered.length === 1 ? (gathered[0] as Uint8Array) : Buffer.concat(gathered))
  }

  /** Whether a statement was sent whose answer has not come to its end. */
  get underWay(): boolean {
    return this.#underWay
  }

  /** Ends the batch that is under way if nobody has: the server answers a failed one with ReadyForQuery only then. */
  endBatch(): void {
    if (this.#underWay && !this.#synced) this.sync()
  }

  override emit(event: string | symbol, ...args: unknown[]): boolean {
    // Of a session that lies, only its end is of interest.
    if (this.#distrusted && event !== 'end' && event !== 'error') return true
    const message = args[0] as BackendMessage
    if (this.#lane !== undefined && ANSWERS.has(event)) {
      this.#lane(event, message)
      return true
    }
    if (this.#mode === 'scoped') {
      // Whatever listens here, a function for example: channels belong to the whole database, and so does what they tell.
      if (event === 'notification') return true
      if (this.#refused && CLEANED.has(event) && event !== 'readyForQuery') return true
    }
    if (event === 'readyForQuery' && this.#readyAfter !== undefined) {
      const after = this.#readyAfter
      this.#readyAfter = undefined
      void after.then(() => this.#dead || this.emit(event, ...args))
      return true
    }
    if (this.#cleaner !== undefined && CLEANED.has(event)) {
      this.#clean(this.#cleaner.onMessage(event, message), message)
      return true
    }
    switch (event) {
      case 'parseComplete':
        // The scope is the last of our statements. It stays prepared even if what follows fails.
        if (this.#ownReplies === 1) this.#hasPrepared()
        if (this.#ownReplies > 0) return true
        if (this.#named !== undefined) this.#named.known = true
        break
      case 'bindComplete':
        if (this.#ownReplies > 0) return true
        // From here on the statement runs.
        this.#forgetRecord()
        if (this.#columns !== undefined) {
          super.emit(event, ...args)
          return this.#describe(this.#columns, message)
        }
        break
      case 'dataRow':
        if (this.#ownReplies > 0) {
          if (this.#ownReplies === 1) this.#verify(message)
          return true
        }
        break
      case 'rowDescription':
        if (this.#ownReplies > 0) return true
        this.#returnedRows = true
        this.#learn(message)
        break
      case 'noData':
        this.#learn('none')
        break
      case 'commandComplete':
        if (this.#ownReplies > 0) {
          if (message.text === 'PREPARE') this.#hasPrepared()
          if (--this.#ownReplies === 0) {
            // Not before: a scope that was cancelled, or not even parsed, has not looked at the session.
            this.#fresh = false
            if (this.#named?.known !== true) this.#forgetRecord()
          }
          return true
        }
        this.#completed(message.text ?? '')
        if (message.text === 'LISTEN' && this.#mode === 'scoped') {
          this.#refused = true
          return super.emit('errorMessage', listenRefused(this.#tenantId))
        }
        break
      case 'errorMessage':
        if (this.#ownReplies > 0 && !this.#isOfCaller(message)) {
          if (this.#record !== undefined && REFUSED.session.some((code) => code === message.code)) {
            this.#startCleaning(this.#record)
            return true
          }
          return super.emit(event, this.#scopeFailed(message))
        }
        if (this.#startAnew(message)) return true
        if (this.#ownReplies > 0 && this.#beginAfterAll()) return true
        this.#ownReplies = 0
        this.#forgetRecord()
        this.#shiftPosition(message)
        if (this.#mode === 'scoped') this.#residue ??= residueOf('ERROR', this.#text, true)
        break
      case 'notice':
        if (this.#ownReplies === 0) this.#shiftPosition(message)
        break
      case 'readyForQuery':
        this.#ready(message.status ?? 'I')
        break
    }
    return super.emit(event, ...args)
  }

  /** Keeps the columns of a statement that goes by a name of ours. */
  #learn(columns: StatementColumns): void {
    if (this.#named?.planned === true && !this.#binary) this.#named.columns = columns
  }

  /** Says what the server was not asked to say. */
  #describe(columns: StatementColumns, message: BackendMessage): boolean {
    if (columns === 'none') return super.emit('noData', { ...message, name: 'noData' })
    this.#returnedRows = true
    // pg hands the list to its caller.
    return super.emit('rowDescription', { ...columns, fields: columns.fields?.slice() })
  }

  /** Answers a BEGIN without the server, and everything up to the first statement that needs one. */
  #answerHere(text: string): boolean {
    if (this.#mode !== 'scoped' || this.#status !== 'I' || this.#underWay || this.#dead)
      return false
    const answer = this.#held.answer(text)
    if (answer === undefined) return false
    this.#reply(answer)
    return true
  }

  /** The same for the messages of the extended protocol: they are swallowed until the answer was given. */
  #muteIfAnswered(text: string | undefined): boolean {
    if (!this.#muted && text !== undefined && this.#answerHere(text)) this.#muted = true
    return this.#muted
  }

  /** The text of a statement that pg knows by name. */
  #textOf(name: string | undefined): string | undefined {
    if (!name) return undefined
    return this.parsedStatements[name] ?? this.submittedNamedStatements?.[name]
  }

  #reply({ tag, status }: LocalAnswer): void {
    process.nextTick(() => {
      // A connection that broke in the meantime has already failed the statement.
      if (this.#dead) return
      super.emit('commandComplete', { name: 'commandComplete', length: tag.length + 5, text: tag })
      this.#muted = false
      super.emit('readyForQuery', { name: 'readyForQuery', length: 5, status })
    })
  }

  /** Begins a statement. Returns the scope to put in front of it, `undefined` if it needs none, `'refused'` if it must not be sent. */
  #begin(text: string | undefined): TenantPrefix | 'refused' | undefined {
    if (this.#underWay) return undefined
    if (this.#mode === 'refuse' || this.#mode === 'lane' || this.#dead) {
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
    this.#synced = false
    if (this.#mode === 'setup') return undefined
    return this.#status === 'I' || (this.#status === 'T' && this.#rescope)
      ? this.#prefix
      : undefined
  }

  /** Begins a statement in the extended protocol: `'scoped'` if the scope was put in front of it, `'bare'` if it needs none, `'refused'` if it must not be sent. */
  #beginExtended(text: string | undefined): 'scoped' | 'bare' | 'refused' {
    const prefix = this.#begin(text)
    if (prefix === 'refused') return 'refused'
    if (prefix === undefined) return 'bare'
    const held = this.#takeHeld()
    const messagesOf = (scope: Prefix, front: readonly string[] = []): Uint8Array[] => {
      const messages: Uint8Array[] = []
      for (const statement of [...front, ...held])
        messages.push(parseMessage('', statement), bindMessage('', []), executeMessage())
      if (this.#mustPrepare(scope)) messages.push(scope.statement.parse)
      messages.push(scope.bytes)
      this.#ownReplies = held.length + front.length + 1
      this.#scope = scope
      return messages
    }
    this.#ownStatements = 0
    this.#gathered = messagesOf(this.#scopeFor(prefix))
    const sent: Uint8Array[] = []
    this.#sent = sent
    this.#record = ({ first = [], clean = [] }) => {
      super._send(
        Buffer.concat([...messagesOf(this.#scopeAgain(prefix), clean), ...first, ...sent]),
      )
    }
    return 'scoped'
  }

  #scopeFor({ first, firstAgain, next }: TenantPrefix): Prefix {
    if (!this.#mayClean) return next
    return this.#cleaned ? firstAgain : first
  }

  /** For a statement that is sent once more; behind a pooler, perhaps in yet another session. */
  #scopeAgain({ firstAgain, next }: TenantPrefix): Prefix {
    return this.#pooled ? firstAgain : next
  }

  /** The statement that is to be sent asks whether the session is clean: as the first of a checkout, or of a transaction that may have come to another session. Not inside of one, whose own path and temporary objects it would find. */
  get #mayClean(): boolean {
    return this.#status === 'I' && (this.#fresh || this.#pooled)
  }

  #mustPrepare({ statement }: Prefix): boolean {
    if (statement.name === '' || this.#prepared.has(statement.name)) return false
    this.#preparing = statement.name
    return true
  }

  #hasPrepared(): void {
    if (this.#preparing !== undefined) this.#prepared.add(this.#preparing)
    this.#preparing = undefined
  }

  #takeHeld(): readonly string[] {
    this.#rescope = false
    return this.#held.take()
  }

  #forgetRecord(): void {
    this.#record = undefined
    this.#sent = undefined
  }

  #startCleaning(again: (again: Again) => void): void {
    this.#cleaned = true
    // Behind a pooler the next transaction may come to another session, so the cleaning travels with the statement.
    this.#repeat(
      this.#pooled
        ? new SessionCleaner(() => again({ clean: CLEAN_FIRST }), 'keep')
        : new SessionCleaner(() => again({}), 'clean'),
    )
  }

  /** A statement of ours that the server has forgotten, or whose columns have changed since it was planned, is prepared anew; it has not run yet. */
  #startAnew({ code }: BackendMessage): boolean {
    const named = this.#named
    if (named?.known !== true || (code !== '0A000' && code !== '26000')) return false
    named.known = false
    named.columns = undefined
    const again = this.#record
    // In a transaction of the caller's, its error stands: the transaction has failed.
    if (again === undefined || this.#status !== 'I') return false
    const first = [closeStatementMessage(named.name), parseMessage(named.name, named.text)]
    this.#repeat(new SessionCleaner(() => again({ first }), 'keep'))
    return true
  }

  #repeat(cleaner: SessionCleaner): void {
    this.#ownReplies = 0
    this.#columns = undefined
    this.#forgetRecord()
    this.#cleaner = cleaner
    if (!this.#synced) super.sync()
  }

  /** The server says which path and role it set. A statement of the scope's name that somebody else prepared would say something else, and then nothing of this session can be believed. */
  #verify(message: BackendMessage): void {
    if (this.#scope === undefined || this.enters(this.#scope, message)) return
    // At once: the rows behind it stand in the same packet.
    super.emit(
      'errorMessage',
      new TenancyError(
        'ERR_TENANCY_SCOPE_FAILED',
        `The session does not enter tenant ${this.#tenantId}; the connection was ended.`,
        { tenantId: this.#tenantId },
      ),
    )
    this.#distrusted = true
    this.#dead = true
    this.stream.destroy()
  }

  /** Whether an error is the caller's although our statements have not answered: a text of several statements is parsed as a whole before any of them runs. */
  #isOfCaller({ code, position }: BackendMessage): boolean {
    return (
      this.#ownStatements > 0 &&
      this.#ownReplies === this.#ownStatements &&
      (code === '42601' || Number(position) > this.#shift)
    )
  }

  /**
   * A text could not be parsed, so that nothing of ours in front of it has run. A BEGIN that was held back opens its transaction now, by itself; then the text is sent once more, to fail inside of it: what the caller sends behind it must not
   * be saved one by one.
   */
  #beginAfterAll(): boolean {
    if (this.#whole === undefined || this.#whole.held.length === 0) return false
    const { text, held } = this.#whole
    this.#shift = 0
    const send = held.map((statement) => `${statement.replace(/;\s*$/, '')}\n;`).join('')
    this.#repeat(new SessionCleaner(() => super.query(text), { send }))
    return true
  }

  #clean(step: CleanerStep, message: BackendMessage): void {
    if (step.kind === 'wait') return
    if (step.kind === 'send') return super.query(step.text)
    this.#cleaner = undefined
    if (step.kind === 'clean') return step.again()
    this.#residue = 'what an earlier tenant left'
    super.emit('errorMessage', this.#scopeFailed(step.cause))
    this.emit('readyForQuery', message)
  }

  #completed(tag: string): void {
    if (this.#mode === 'setup') return
    if (tag === 'COMMIT' || tag === 'ROLLBACK') this.#chained = true
    if (tag === 'DISCARD ALL' || tag === 'DEALLOCATE ALL') {
      this.#prepared.clear()
      this.#names?.clear()
    }
    this.#residue ??= residueOf(tag, this.#text, this.#returnedRows)
    this.#returnedRows = false
  }

  #scopeFailed(message: BackendMessage): TenancyError | BackendMessage {
    this.#ownReplies = 0
    this.#forgetRecord()
    // The server is ending the connection: that is not about the scope.
    if (message.severity === 'FATAL') return message
    if (taintsSession(message)) this.#residue = 'a scope that failed'
    return scopeError(message, this.#tenantId)
  }

  #shiftPosition(message: BackendMessage): void {
    const position = Number(message.position)
    if (this.#shift > 0 && position > this.#shift) message.position = String(position - this.#shift)
  }

  #ready(status: TransactionStatus): void {
    // A transaction that is open right after one ended was chained to it, and has no scope yet. (ROLLBACK TO reports the same tag: one scope too many does no harm.)
    if (status === 'T' && this.#chained) this.#rescope = true
    if (status === 'I') this.#rescope = false
    this.#forgetRecord()
    this.#refused = false
    this.#named = undefined
    this.#columns = undefined
    this.#chained = false
    this.#status = status
    this.#underWay = false
    this.#text = undefined
    this.#shift = 0
    this.#whole = undefined
  }
}

function ignore(): void {}
function listenRefused(tenantId: string | undefined): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_STATEMENT_REFUSED',
    'LISTEN does not work on a connection of the pool: it is shared by all tenants, and channels belong to the whole database.',
    { tenantId, hint: 'Use pool.listen(channel, listener) and pool.notify(channel, payload).' },
  )
}

/** A record that shows nothing of what it is given; `texts` has it. */
function forgetful(texts: Map<string, string>): Record<string, string> {
  return new Proxy<Record<string, string>>(
    {},
    { set: (_, name, text: string) => texts.set(String(name), text) !== undefined },
  )
}
