/** The part of a connection of `pg` that COPY needs. */
interface CopyConnection {
  query(text: string): void
  sendCopyFromChunk(chunk: Buffer): void
  endCopyFrom(): void
  sendCopyFail(message: string): void
}

/** A query object for `client.query`, in the way of pg-copy-streams, that a test moves on step by step. */
abstract class Copy {
  readonly #text: string
  readonly #begun = Promise.withResolvers<void>()
  readonly #done = Promise.withResolvers<string>()
  #tag = 'no tag'
  protected connection: CopyConnection | undefined

  constructor(text: string) {
    this.#text = text
    // A test may look at one of them only.
    this.#begun.promise.catch(() => undefined)
    this.#done.promise.catch(() => undefined)
  }

  /** The server waits for data, or has sent some. */
  get begun(): Promise<void> {
    return this.#begun.promise
  }

  /** The tag, `COPY 3`, once the server is ready for the next statement. */
  get done(): Promise<string> {
    return this.#done.promise
  }

  protected begin(): void {
    this.#begun.resolve()
  }

  /** @internal */
  submit(connection: unknown): void {
    this.connection = connection as CopyConnection
    this.connection.query(this.#text)
  }

  /** @internal */
  handleCommandComplete(message: { text: string }): void {
    this.#tag = message.text
  }

  /** @internal */
  handleReadyForQuery(): void {
    this.#begun.resolve()
    this.#done.resolve(this.#tag)
  }

  /** @internal */
  handleError(error: Error): void {
    this.#begun.reject(error)
    this.#done.reject(error)
  }
}

/** `COPY ... FROM STDIN`. */
export class CopyIn extends Copy {
  /** @internal */
  handleCopyInResponse(): void {
    this.begin()
  }

  write(lines: string): void {
    this.connection?.sendCopyFromChunk(Buffer.from(lines))
  }

  end(): void {
    this.connection?.endCopyFrom()
  }

  fail(message: string): void {
    this.connection?.sendCopyFail(message)
  }
}

/** `COPY ... TO STDOUT`. */
export class CopyOut extends Copy {
  /** What has come so far. */
  readonly lines: string[] = []

  /** @internal */
  handleCopyData(message: { chunk: Buffer }): void {
    this.lines.push(message.chunk.toString().trimEnd())
    this.begin()
  }
}
