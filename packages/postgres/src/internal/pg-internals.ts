import type { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import pg from 'pg'

/**
 * The slice of node-postgres below its public types that scoping rests on. Read in pg 8.23 (`lib/connection.js`, `lib/client.js`); the members are the same since 8.11, and
 * `scoped-connection.test.ts` runs against the real ones.
 */
export interface PgConnection extends EventEmitter {
  stream: Duplex
  readonly ssl: unknown
  readonly sslNegotiation?: string
  readonly _keepAlive?: boolean
  readonly _keepAliveInitialDelayMillis?: number
  /** Text by name of the statements that were prepared on this connection. */
  parsedStatements: Record<string, string>
  submittedNamedStatements?: Record<string, string>
  query(text: string): void
  parse(message: { text: string; name?: string; types?: unknown }): void
  bind(message: { statement?: string; binary?: boolean }): void
  describe(message: { type: 'P' | 'S'; name?: string }): void
  execute(message: { portal?: string; rows?: number }): void
  sync(): void
  flush(): void
  _send(buffer: Uint8Array): boolean
}

export interface PgConnectionConfig {
  readonly stream: Duplex
  readonly ssl: unknown
  readonly sslNegotiation?: string | undefined
  readonly keepAlive?: boolean | undefined
  readonly keepAliveInitialDelayMillis?: number | undefined
}

export const PgConnectionBase = pg.Connection as unknown as {
  new (config: PgConnectionConfig): PgConnection
  readonly prototype: PgConnection
}

/** What a client keeps about the work that it was given. */
export interface PgClientState {
  connection: PgConnection
  readonly readyForQuery?: boolean
  readonly _queryable: boolean
  readonly _ending: boolean
  readonly _ended?: boolean
  readonly _queryQueue: readonly unknown[]
  readonly _activeQuery?: unknown
  readonly activeQuery?: unknown
  readonly connectionParameters: { readonly client_encoding?: string }
  _types: pg.TypeOverrides
  _txStatus?: TransactionStatus | null
  getStartupConf(): Record<string, string>
}

/** A message of the server, as pg-protocol parses it. */
export interface BackendMessage {
  readonly name: string
  readonly text?: string
  readonly status?: TransactionStatus
  readonly code?: string
  readonly severity?: string
  position?: string
  readonly fields?: readonly unknown[]
}

/** Idle, in a transaction, in a failed transaction (PostgreSQL manual, 53.7, ReadyForQuery). */
export type TransactionStatus = 'I' | 'T' | 'E'

/** A query object of pg, pg-cursor, pg-query-stream or pg-copy-streams. */
export interface Submittable {
  submit(connection: unknown): unknown
  callback?: unknown
}

export function isSubmittable(value: unknown): value is Submittable {
  return typeof (value as Submittable | null | undefined)?.submit === 'function'
}
