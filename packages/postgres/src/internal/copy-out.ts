import { EventEmitter } from 'node:events'
import { isSubmittable, type PgConnection, type Submittable } from './pg-internals.ts'

/**
 * The slice of pg-copy-streams that COPY TO STDOUT rests on (`copy-to.js`, read in 7.0): it takes the `data` listener off the socket and reads the server's messages itself, from the first byte on.
 */
interface SocketReader extends Submittable {
  readonly destroyed: boolean
  _attach(): void
  handleError(error: unknown): void
  handleCommandComplete(message: unknown): void
  handleCopyData?(message: { readonly chunk: Uint8Array }): void
}

const COPY_DATA = 0x64
const COPY_DONE = Buffer.from([0x63, 0, 0, 0, 4])

/** Bytes that wait to be read before the socket is paused. */
const HIGH_WATER_MARK = 65_536

/** Whether a query object reads the socket past the connection. Streams that write as well (COPY BOTH) belong to replication connections, which a pool has not. */
function readsSocket(query: unknown): query is SocketReader {
  return (
    isSubmittable(query) &&
    typeof (query as Partial<SocketReader>)._attach === 'function' &&
    !('_write' in query)
  )
}

/**
 * Gives a query object that would read the socket by itself a stand-in for it. Taken for its own, the answers to the scope statement would end the copy before its first row, and the rest would reach a
 * query that cannot read it, as an exception that ends the process. The connection goes on reading; what it hears of the copy is framed once more for the query object. Others are left alone.
 */
export function relayCopyOut(query: unknown): void {
  if (!readsSocket(query)) return
  const { submit, handleError, handleCommandComplete } = query
  let relay: SocketRelay | undefined
  query.submit = (connection) => {
    const { stream } = connection as PgConnection
    relay = new SocketRelay(stream)
    return submit.call(query, {
      stream: relay,
      query: (text: string) => (connection as PgConnection).query(text),
    })
  }
  query.handleCopyData = ({ chunk }) => {
    // A copy: the parser reuses its buffer, and the reader may be slow.
    const frame = Buffer.allocUnsafe(5 + chunk.length)
    frame[0] = COPY_DATA
    frame.writeInt32BE(chunk.length + 4, 1)
    frame.set(chunk, 5)
    relay?.push(frame)
  }
  query.handleError = (error) => {
    // Whoever left the copy early does not listen any more; the connection that is closed for it is no news.
    if (!query.destroyed) handleError.call(query, error)
  }
  query.handleCommandComplete = (message) => {
    relay?.push(COPY_DONE)
    handleCommandComplete.call(query, message)
  }
}

/** What a query object sees instead of the socket. Keeps the back pressure: the socket waits while nobody reads. */
class SocketRelay extends EventEmitter {
  readonly #socket: PgConnection['stream']
  #chunks: Uint8Array[] = []
  #waiting = 0

  constructor(socket: PgConnection['stream']) {
    super()
    this.#socket = socket
    // Taken off and put back by the query object; the connection never stops listening.
    this.on('data', () => undefined)
  }

  push(chunk: Uint8Array): void {
    this.#chunks.push(chunk)
    this.#waiting += chunk.length
    this.emit('readable')
    if (this.#waiting >= HIGH_WATER_MARK) this.#socket.pause()
  }

  read(): Buffer | null {
    if (this.#waiting === 0) return null
    const bytes = Buffer.concat(this.#chunks)
    this.#chunks = []
    this.#waiting = 0
    if (this.#socket.isPaused()) this.#socket.resume()
    return bytes
  }

  pause(): this {
    return this
  }

  resume(): this {
    return this
  }
}
