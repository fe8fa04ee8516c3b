import { TenancyError } from '@partywall/core'
import pg from 'pg'
import type { BackendMessage, TransactionStatus } from './pg-internals.ts'
import { scopeError, taintsSession } from './scope-error.ts'
import { REFUSED } from './scope-statement.ts'
import type { ComposedStatement, ScopedConnection } from './scoped-connection.ts'
import { residueOf } from './session-residue.ts'
import type { TenantPrefix } from './tenant-prefix.ts'

/** One statement of one tenant, on its way through a lane. */
export interface LaneUnit {
  readonly tenantId: string
  readonly prefix: TenantPrefix
  readonly text: string
  readonly config: unknown
  readonly values: unknown
  readonly callback: (error: Error | null, result?: unknown) => void
  /** Runs the statement by itself: it has not run, and a lane is not for what it needs. */
  readonly redo: () => void
  /** Writes the parameters down in the context of the caller, where that may run code of his. */
  readonly within?: (<T>(fn: () => T) => T) | undefined
}

/** The parts of pg's query object that build a result. */
interface ResultBuilder {
  submit(connection: unknown): Error | null
  handleRowDescription(message: BackendMessage): void
  handleDataRow(message: BackendMessage): void
  handleCommandComplete(message: BackendMessage, connection: unknown): void
  handleReadyForQuery(connection: unknown): void
  _result?: { _types?: unknown }
}

interface Sent {
  readonly unit: LaneUnit
  readonly query: ResultBuilder
  readonly statement: ComposedStatement
  entered: boolean
  returnedRows: boolean
  failure: BackendMessage | undefined
  /** When the server came to it, as far as the client can tell. */
  startedAt: number
}

/** What ends a lane, besides being empty. */
export interface LaneEvents {
  /** Told how long the server took for a text once it came to it, in milliseconds; `undefined` if it left something behind. */
  readonly onResult: (text: string, tookMs: number | undefined) => void
  /** A unit was answered. */
  readonly onAnswer: () => void
  /** The connection is gone; every unit has been told. */
  readonly onEnd: (error: Error) => void
}

/**
 * Lets several autocommit statements, also of several tenants, follow each other on one connection without waiting for answers. Each is a batch of its own: scope, statement, Sync. What one of them does or fails to do ends
 * at its Sync, so the next one is as alone as on a connection of its own.
 *
 * What is sent in one turn of the event loop leaves in one write.
 */
export class Lane {
  readonly #connection: ScopedConnection
  readonly #types: unknown
  readonly #events: LaneEvents
  // First in, first out: the server answers in order.
  #sent: Sent[] = []
  #out: Uint8Array[] = []
  #over = false
  #tainted = false
  /** The text of the statement before. */
  #before: string | undefined

  /** @param types - the client's type parsers. */
  constructor(connection: ScopedConnection, types: unknown, events: LaneEvents) {
    this.#connection = connection
    this.#types = types
    this.#events = events
    connection.openLane((event, message) => this.#onMessage(event, message))
    const end = (error?: Error): void => this.#end(error)
    connection.on('error', end)
    connection.on('end', end)
    this.#detach = () => {
      connection.removeListener('error', end)
      connection.removeListener('end', end)
    }
  }

  readonly #detach: () => void

  /** Units that are not answered yet. */
  get load(): number {
    return this.#sent.length
  }

  /** Whether more may be put on it: not behind a statement that takes its time, and not on a session that nobody else should get. */
  joinable(slowAfterMs: number): boolean {
    if (this.#over || this.#tainted) return false
    const head = this.#sent[0]
    return head === undefined || performance.now() - head.startedAt < slowAfterMs
  }

  push(unit: LaneUnit): void {
    const query = new pg.Query(
      unit.config as pg.QueryConfig,
      unit.values as unknown[],
      unit.callback as never,
    ) as unknown as ResultBuilder
    if (query._result !== undefined && query._result._types === undefined)
      query._result._types = this.#types
    const compose = (): ComposedStatement | undefined =>
      this.#connection.compose(unit.tenantId, unit.prefix, unit.text, query)
    let statement: ComposedStatement | undefined
    try {
      statement = unit.within === undefined ? compose() : unit.within(compose)
    } catch (error) {
      unit.callback(error as Error)
    }
    // The parameters could not be written down: the caller was told.
    if (statement === undefined) return this.#events.onAnswer()
    if (this.#out.length === 0) process.nextTick(() => this.#write())
    this.#out.push(...statement.messages)
    this.#sent.push({
      unit,
      query,
      statement,
      entered: false,
      returnedRows: false,
      failure: undefined,
      startedAt: performance.now(),
    })
  }

  /** Ends the use of the connection as a lane; nothing may be under way. */
  close(): void {
    this.#over = true
    this.#detach()
  }

  #write(): void {
    const out = this.#out
    this.#out = []
    if (!this.#over && out.length > 0) this.#connection.write(Buffer.concat(out))
  }

  #onMessage(event: string | symbol, message: BackendMessage): void {
    const sent = this.#sent[0]
    if (sent === undefined) return
    const { query, statement, entered } = sent
    switch (event) {
      case 'parseComplete':
        if (entered && statement.named !== undefined) statement.named.known = true
        break
      case 'bindComplete':
        if (entered && statement.columns !== undefined && statement.columns !== 'none') {
          sent.returnedRows = true
          const { columns } = statement
          query.handleRowDescription({ ...columns, fields: columns.fields?.slice() ?? [] })
        }
        break
      case 'rowDescription':
        sent.returnedRows = true
        if (statement.named !== undefined && !statement.binary) statement.named.columns = message
        query.handleRowDescription(message)
        break
      case 'noData':
        if (statement.named !== undefined && !statement.binary) statement.named.columns = 'none'
        break
      case 'dataRow':
        if (entered) query.handleDataRow(message)
        else if (!this.#connection.enters(statement.scope, message)) this.#distrust(sent)
        break
      case 'commandComplete':
        if (!entered) sent.entered = true
        else {
          query.handleCommandComplete(message, undefined)
          if (residueOf(message.text ?? '', sent.unit.text, sent.returnedRows) !== undefined) {
            this.#taint('what a statement of a lane left')
            this.#events.onResult(sent.unit.text, undefined)
          }
        }
        break
      case 'errorMessage':
        sent.failure = message
        break
      case 'readyForQuery':
        this.#answered(sent, message.status)
        break
    }
  }

  #taint(reason: string): void {
    this.#tainted = true
    this.#connection.taint(reason)
  }

  #answered(sent: Sent, status: TransactionStatus | undefined): void {
    // Every batch is one implicit transaction; a session that says something else has been led astray.
    if (status !== 'I') return this.#distrust(sent)
    this.#sent.shift()
    const now = performance.now()
    const next = this.#sent[0]
    if (next !== undefined) next.startedAt = now
    const { unit, query, failure, statement, entered } = sent
    const tell = failure === undefined ? undefined : this.#failed(unit, failure, statement, entered)
    if (failure === undefined && !this.#tainted)
      this.#events.onResult(unit.text, now - sent.startedAt)
    this.#before = unit.text
    // The connection is back before its user hears of the answer, as with any pool.
    this.#events.onAnswer()
    if (tell === undefined) query.handleReadyForQuery(undefined)
    else tell()
  }

  #failed(
    unit: LaneUnit,
    failure: BackendMessage,
    { named, known }: ComposedStatement,
    entered: boolean,
  ): () => void {
    const { code } = failure
    if (!entered) {
      // The session has to be cleaned first, which is nothing for a lane.
      if (REFUSED.session.some((refused) => refused === code)) {
        // Behind a pooler the session is not this connection's, and anybody may have left it so.
        if (!this.#connection.pooled) {
          this.#taint('what an earlier tenant left')
          if (this.#before !== undefined) this.#events.onResult(this.#before, undefined)
        }
        return unit.redo
      }
      if (failure.severity !== 'FATAL' && taintsSession(failure)) this.#taint('a scope that failed')
      const error =
        failure.severity === 'FATAL'
          ? (failure as unknown as Error)
          : scopeError(failure, unit.tenantId)
      return () => unit.callback(error)
    }
    if (known && named !== undefined && (code === '0A000' || code === '26000')) {
      named.known = false
      named.columns = undefined
      return unit.redo
    }
    return () => unit.callback(failure as unknown as Error)
  }

  /** The session answers something else than what was asked of it: nothing of it can be believed. */
  #distrust({ unit }: Sent): void {
    this.#end(
      new TenancyError(
        'ERR_TENANCY_SCOPE_FAILED',
        `The session does not enter tenant ${unit.tenantId}; the connection was ended.`,
        { tenantId: unit.tenantId },
      ),
    )
    this.#connection.stream.destroy()
  }

  #end(error = new Error('Connection terminated unexpectedly')): void {
    if (this.#over) return
    this.close()
    const sent = this.#sent
    this.#sent = []
    this.#events.onEnd(error)
    // Of the first, the server may have said why.
    for (const { unit, failure } of sent) unit.callback((failure as Error | undefined) ?? error)
  }
}
