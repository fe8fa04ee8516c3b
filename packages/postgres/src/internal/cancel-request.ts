import type { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import pg from 'pg'

const TIMEOUT_MS = 5000

/** The part of pg's connection that a cancel request needs (`lib/connection.js`, `Client.prototype.cancel`, which knows neither TLS nor an answer). */
interface CancellingConnection extends EventEmitter {
  readonly stream: Duplex
  connect(portOrPath: number | string, host?: string): void
  requestSsl(): void
  cancel(processId: number, secretKey: number): void
}

const Connection = pg.Connection as unknown as new (options: {
  readonly stream?: unknown
  readonly ssl: unknown
  readonly sslNegotiation?: string | undefined
}) => CancellingConnection

/** Whose statement is to be cancelled, and how its server is reached. */
export interface CancelTarget {
  readonly host: string
  readonly port: number
  readonly processId: number
  readonly secretKey: number
  readonly ssl: unknown
  readonly sslNegotiation?: string | undefined
  /** Makes the socket, where the pool was given a function for that. */
  readonly stream?: unknown
}

/**
 * Asks the server to cancel what a session does at this moment (PostgreSQL manual, 54.2.9). Resolves once the server has closed the connection of the request: it has sent its signal by then, and
 * a session that is not at work any more takes no notice of one. `false`: it is not known whether the request arrived.
 */
export function requestCancel(target: CancelTarget): Promise<boolean> {
  const { host, port, processId, secretKey, ssl, sslNegotiation, stream } = target
  return new Promise((resolve) => {
    const connection = new Connection({ stream, ssl, sslNegotiation })
    let sent = false
    const timer = setTimeout(() => finish(false), TIMEOUT_MS)
    const finish = (answered: boolean): void => {
      clearTimeout(timer)
      connection.stream.destroy()
      resolve(answered)
    }
    const send = (): void => {
      sent = true
      connection.cancel(processId, secretKey)
    }
    connection.on('error', () => finish(false))
    connection.on('end', () => finish(sent))
    connection.on('sslconnect', send)
    connection.on('connect', () => {
      if (!ssl) send()
      else if (sslNegotiation !== 'direct') connection.requestSsl()
    })
    if (host.startsWith('/')) connection.connect(`${host}/.s.PGSQL.${port}`)
    else connection.connect(port, host)
  })
}
