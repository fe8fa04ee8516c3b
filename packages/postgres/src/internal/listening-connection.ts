import pg from 'pg'

const FIRST_DELAY_MS = 100
const LONGEST_DELAY_MS = 10_000
const KEEP_ALIVE_MS = 30_000
const ANSWER_TIMEOUT_MS = 10_000

export interface ListeningConnectionOptions {
  readonly config: pg.ClientConfig
  /** A notification on one of the channels. */
  readonly onMessage: (channel: string, payload: string) => void
  /** `'lost'`: the connection broke, also at every attempt that fails; nobody tells of anything from here on. `'restored'`: it is there again and listens to all of its channels. */
  readonly onGap: (state: 'lost' | 'restored') => void
  /** Whether the process goes on for the sake of the connection. */
  readonly keepsProcessAlive: boolean
  /** How often the server is asked for a sign of life, in milliseconds. @defaultValue `30_000` */
  readonly keepAliveMs?: number | undefined
  /** How long an answer may take before the connection counts as broken, in milliseconds. @defaultValue `10_000` */
  readonly answerTimeoutMs?: number | undefined
}

/**
 * One connection that listens: opened for the first channel, closed after the last, opened again with growing delay when it breaks. A listening connection sends nothing by itself, so a
 * peer that went away without a word would never be noticed: the server is asked for a sign of life from time to time.
 */
export class ListeningConnection {
  readonly #options: ListeningConnectionOptions
  readonly #channels = new Set<string>()
  #client: pg.Client | undefined
  #timer: NodeJS.Timeout | undefined
  #keepAlive: NodeJS.Timeout | undefined
  #delay = FIRST_DELAY_MS
  #closed = false
  /** One thing after the other: what is asked for while a connection is opened waits for it. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: ListeningConnectionOptions) {
    this.#options = options
  }

  /** Listens to one more channel. Rejects, and does not listen, if the server cannot be reached now. */
  listen(channel: string): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#closed) throw new Error('The listening connection was closed.')
      if (this.#channels.has(channel)) return
      this.#channels.add(channel)
      try {
        if (this.#client === undefined) await this.#reopen()
        else await this.#ask(this.#client, `listen ${pg.escapeIdentifier(channel)}`)
      } catch (error) {
        this.#channels.delete(channel)
        if (this.#channels.size === 0) await this.#hangUp()
        throw error
      }
    })
  }

  /** Listens to a channel no more. Never rejects: of a connection that breaks meanwhile nothing is left to listen. */
  unlisten(channel: string): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#channels.delete(channel)) return
      if (this.#channels.size === 0) return this.#hangUp()
      if (this.#client !== undefined)
        await this.#ask(this.#client, `unlisten ${pg.escapeIdentifier(channel)}`).catch(
          () => undefined,
        )
    })
  }

  /** Ends for good. Repeating it is harmless. */
  close(): Promise<void> {
    this.#closed = true
    this.#channels.clear()
    return this.#inTurn(() => this.#hangUp())
  }

  #inTurn<T>(fn: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(fn)
    this.#turn = done.catch(() => undefined)
    return done
  }

  async #hangUp(): Promise<void> {
    clearTimeout(this.#timer)
    clearTimeout(this.#keepAlive)
    this.#timer = undefined
    this.#delay = FIRST_DELAY_MS
    const client = this.#client
    this.#client = undefined
    if (client === undefined) return
    client.removeAllListeners('end')
    // A goodbye that nobody answers must not hold its caller.
    const timer = setTimeout(() => cut(client), this.#answerTimeoutMs)
    await client.end().catch(() => undefined)
    clearTimeout(timer)
  }

  /** Opens the connection for all channels, and tells of the end of a gap if there was one. */
  async #reopen(): Promise<void> {
    const gap = this.#timer !== undefined
    clearTimeout(this.#timer)
    try {
      await this.#open()
    } catch (error) {
      if (gap) this.#retry()
      throw error
    }
    this.#timer = undefined
    this.#delay = FIRST_DELAY_MS
    if (gap) this.#options.onGap('restored')
  }

  async #open(): Promise<void> {
    const { config, onMessage, keepsProcessAlive } = this.#options
    // A pool hides its password from enumeration, so a copy of its options lacks it.
    const { password } = config
    const client = new pg.Client({
      ...config,
      ...(password === undefined ? {} : { password }),
      keepAlive: true,
      connectionTimeoutMillis: config.connectionTimeoutMillis || this.#answerTimeoutMs,
    })
    client.on('notification', ({ channel, payload }) => {
      // What a default of the login or of the database listens to is not ours to tell.
      if (this.#channels.has(channel)) onMessage(channel, payload ?? '')
    })
    client.on('error', () => undefined)
    try {
      await client.connect()
      // One statement for all: a fleet has thousands of channels.
      await this.#ask(
        client,
        [...this.#channels].map((channel) => `listen ${pg.escapeIdentifier(channel)}`).join(';'),
      )
    } catch (error) {
      cut(client)
      throw error
    }
    this.#client = client
    client.on('end', () => {
      if (this.#client !== client) return
      this.#client = undefined
      clearTimeout(this.#keepAlive)
      this.#retry()
    })
    if (!keepsProcessAlive) (client as unknown as { unref(): void }).unref()
    this.#watchOver(client)
  }

  #retry(): void {
    if (this.#closed || this.#channels.size === 0) return
    this.#timer = setTimeout(() => {
      this.#inTurn(async () => {
        if (this.#client === undefined && this.#channels.size > 0) await this.#reopen()
      }).catch(() => undefined)
    }, this.#delay)
    if (!this.#options.keepsProcessAlive) this.#timer.unref()
    this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY_MS)
    this.#options.onGap('lost')
  }

  #watchOver(client: pg.Client): void {
    this.#keepAlive = setTimeout(() => {
      this.#inTurn(async () => {
        if (this.#client !== client) return
        await this.#ask(client, 'select 1')
        this.#watchOver(client)
      }).catch(() => undefined)
    }, this.#options.keepAliveMs ?? KEEP_ALIVE_MS)
    this.#keepAlive.unref()
  }

  /** Sends a statement; a connection that does not answer in time is broken. */
  async #ask(client: pg.Client, text: string): Promise<void> {
    const timer = setTimeout(() => cut(client), this.#answerTimeoutMs)
    try {
      await client.query(text)
    } finally {
      clearTimeout(timer)
    }
  }

  get #answerTimeoutMs(): number {
    return this.#options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS
  }
}

/** Ends a connection without waiting for anybody. */
function cut(client: pg.Client): void {
  client.connection.stream.destroy()
}
