/** COPY FROM STDIN by hand, in the way of pg-copy-streams. */
export class CopyIn {
  readonly done = Promise.withResolvers<string>()
  readonly #text: string
  readonly #lines: string
  #connection: { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void } | undefined
  constructor(text: string, lines: string) {
    this.#text = text
    this.#lines = lines
  }
  submit(connection: {
    query(text: string): void
    sendCopyFromChunk(chunk: Buffer): void
    endCopyFrom(): void
  }): void {
    this.#connection = connection
    connection.query(this.#text)
  }
  handleCopyInResponse(): void {
    this.#connection?.sendCopyFromChunk(Buffer.from(this.#lines))
    this.#connection?.endCopyFrom()
  }
  handleCommandComplete(message: { text: string }): void {
    this.done.resolve(message.text)
  }
  handleReadyForQuery(): void {
    this.done.resolve('no tag')
  }
  handleError(error: Error): void {
    this.done.reject(error)
  }
}
