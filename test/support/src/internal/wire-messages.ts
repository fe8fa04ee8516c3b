/** A message of the protocol with its header, as it came over the wire. */
export interface Frame {
  /** Its letter (PostgreSQL manual, 53.7); `startup` for the first one of a client, which has none. */
  readonly type: string
  readonly bytes: Buffer
  /** What stands behind the length. */
  readonly body: Buffer
}

/** Cuts a stream of bytes into messages, wherever the network cut it. Knows no TLS: a server that is asked for it answers without a frame. */
export class MessageSplitter {
  #headless: boolean
  #pending: Buffer = Buffer.alloc(0)

  /** @param from - the first message of a client, and no other, comes without a letter. */
  constructor(from: 'client' | 'server') {
    this.#headless = from === 'client'
  }

  /** The messages that these bytes complete. */
  feed(data: Buffer): Frame[] {
    let rest = this.#pending.length === 0 ? data : Buffer.concat([this.#pending, data])
    const frames: Frame[] = []
    for (;;) {
      const head = this.#headless ? 0 : 1
      if (rest.length < head + 4) break
      const length = head + rest.readInt32BE(head)
      if (rest.length < length) break
      frames.push({
        type: this.#headless ? 'startup' : rest.toString('latin1', 0, 1),
        bytes: rest.subarray(0, length),
        body: rest.subarray(head + 4, length),
      })
      this.#headless = false
      rest = rest.subarray(length)
    }
    this.#pending = rest
    return frames
  }

  /** The beginning of a message that has not ended. */
  rest(): Buffer {
    const rest = this.#pending
    this.#pending = Buffer.alloc(0)
    return rest
  }
}

/** Tells of each message of a connection which statement it is about: names and portals stand for what was parsed under them. */
export class StatementTracker {
  readonly #statements = new Map<string, string>()
  readonly #portals = new Map<string, string>()

  /** The statement of a Query, Parse, Bind or Execute of a client; the tag of a CommandComplete and the SQLSTATE of an ErrorResponse of the server. */
  textOf(from: 'client' | 'server', { type, body }: Frame): string | undefined {
    const strings = (): string[] => body.toString('utf8').split('\0')
    if (from === 'server') {
      if (type === 'C') return strings()[0]
      return type === 'E'
        ? strings()
            .find((field) => field.startsWith('C'))
            ?.slice(1)
        : undefined
    }
    switch (type) {
      case 'Q':
        return strings()[0]
      case 'P': {
        const [name = '', sql = ''] = strings()
        this.#statements.set(name, sql)
        return sql
      }
      case 'B': {
        const [portal = '', name = ''] = strings()
        const sql = this.#statements.get(name) ?? ''
        this.#portals.set(portal, sql)
        return sql
      }
      case 'E':
        return this.#portals.get(strings()[0] ?? '') ?? ''
      default:
        return undefined
    }
  }
}
