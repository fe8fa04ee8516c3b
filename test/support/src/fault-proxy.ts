import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { MessageSplitter, StatementTracker } from './internal/wire-messages.ts'

/** A message of either side (PostgreSQL manual, 53.7). */
export interface WireMessage {
  readonly from: 'client' | 'server'
  /** Its letter; `startup` for the first one of a client. */
  readonly type: string
  /** What stands behind the length. */
  readonly body: Buffer
  /** Letter, length and body. */
  readonly bytes: Buffer
  /** The statement of a Query, Parse, Bind or Execute; the tag of a CommandComplete; the SQLSTATE of an ErrorResponse. */
  readonly text: string | undefined
  /** Which connection, counted from 0. */
  readonly connection: number
  /** How many messages this side sent before it on this connection. */
  readonly index: number
  /** Which arrival of bytes of this side, counted over the whole proxy: messages of one write that fits the network come in one. */
  readonly chunk: number
}

/** How a connection ends: with a FIN to both sides, with an RST to both, or in silence: nothing gets through any more, and nobody is told. */
export type ConnectionEnd = 'close' | 'reset' | 'silence'

/**
 * What becomes of a message. An end comes in front of it: what was sent before still arrives, the message does not. `then` lets it through and ends the connection behind it; with `instead`,
 * other bytes take its place.
 */
export type Verdict =
  | 'pass'
  | 'drop'
  | ConnectionEnd
  | { readonly then: ConnectionEnd }
  | { readonly instead: Uint8Array }

/** Looks at every message before it is passed on; as long as its promise is open, the message waits, and all of that side behind it. */
export type MessageHook = (message: WireMessage) => Verdict | Promise<Verdict>

/** What is wrong with one direction. Each member can be changed at any time; open connections heed it from their next bytes on. */
export interface WireFaults {
  /** How long every arrival of bytes is held back, in milliseconds. @defaultValue `0` */
  latencyMs: number
  /** @defaultValue `'unlimited'` */
  bytesPerSecond: number | 'unlimited'
  /** Passes on at most so many bytes at a time, each piece in a packet of its own. @defaultValue `'off'` */
  sliceBytes: number | 'off'
  /** How long the end of the stream is held back, in milliseconds. @defaultValue `0` */
  closeDelayMs: number
  /** Lets so many bytes of each connection through, counted from its beginning, and ends it then. @defaultValue `'none'` */
  limit: { readonly bytes: number; readonly end: ConnectionEnd } | 'none'
}

export interface FaultProxyOptions extends Partial<WireFaults> {
  /** Keeps every message of the clients in `messages`. @defaultValue `false` */
  readonly record?: boolean
}

/** A wire between clients and a Postgres, without TLS, that can be listened to, slowed down, cut and silenced while it is in use. */
export interface FaultProxy extends AsyncDisposable {
  /** The connection string of the server, by way of the proxy. */
  readonly url: string
  readonly toServer: WireFaults
  readonly toClient: WireFaults
  /** What happens to new connections. @defaultValue `'accept'` */
  incoming: 'accept' | 'reset' | 'silence'
  onMessage: MessageHook | undefined
  /** Ends every open connection, also the silent ones. */
  end(how: ConnectionEnd): void
  /** Takes every fault and the hook away. What is silent stays silent. */
  heal(): void
  /** How many connections were made so far. */
  readonly connections: number
  /** How many of them are open on either side. */
  readonly openConnections: number
  /** Bytes that came from the clients. */
  readonly bytes: number
  /** How often the clients had to wait for an answer: answers that came between two arrivals of their bytes count once. */
  readonly roundTrips: number
  /** Messages of the clients, if `record` is set. */
  readonly messages: readonly WireMessage[]
  /** The letters of what was recorded since the last call, grouped by arrival: `['BEPBDES']`. */
  take(): string[]
}

const SOUND: Readonly<WireFaults> = {
  latencyMs: 0,
  bytesPerSecond: 'unlimited',
  sliceBytes: 'off',
  closeDelayMs: 0,
  limit: 'none',
}

/** Bytes that may wait in one direction before its sender is held up. */
const HIGH_WATER = 1 << 20

/**
 * Starts a proxy in front of a server, on a free port of the loopback interface.
 *
 * @param options - faults of both directions from the beginning on.
 */
export async function createFaultProxy(
  serverUrl: string,
  { record = false, ...faults }: FaultProxyOptions = {},
): Promise<FaultProxy> {
  const target = new URL(serverUrl)
  const toServer: WireFaults = { ...SOUND, ...faults }
  const toClient: WireFaults = { ...SOUND, ...faults }
  const links = new Set<Link>()
  const unanswered = new Set<Socket>()
  const messages: WireMessage[] = []
  const counters = { client: 0, server: 0 }
  let connections = 0
  let bytes = 0
  let roundTrips = 0
  let waiting = false
  let taken = 0

  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    if (proxy.incoming === 'reset') return void client.resetAndDestroy()
    if (proxy.incoming === 'silence') {
      unanswered.add(client.on('error', () => undefined).resume())
      return
    }
    const upstream = connect({
      host: target.hostname,
      port: Number(target.port || 5432),
      allowHalfOpen: true,
      noDelay: true,
    })
    const number = connections++
    const statements = new StatementTracker()
    const link = new Link(client, upstream, () => links.delete(link))
    links.add(link)
    const flow = (from: 'client' | 'server'): Flow => {
      const splitter = new MessageSplitter(from)
      let index = 0
      return new Flow({
        link,
        source: from === 'client' ? client : upstream,
        sink: from === 'client' ? upstream : client,
        faults: from === 'client' ? toServer : toClient,
        splitter,
        arrived: (data) => {
          const chunk = ++counters[from]
          if (from === 'client') {
            bytes += data.length
            waiting = true
          } else {
            if (waiting) roundTrips++
            waiting = false
          }
          return splitter.feed(data).map((frame) => {
            const text = statements.textOf(from, frame)
            const message = { ...frame, from, text, connection: number, index: index++, chunk }
            if (record && from === 'client') messages.push(message)
            return message
          })
        },
        hook: () => proxy.onMessage,
      })
    }
    flow('client')
    flow('server')
  })

  const proxy: FaultProxy = {
    url: '',
    toServer,
    toClient,
    incoming: 'accept',
    onMessage: undefined,
    end(how) {
      for (const link of links) link.end(how)
    },
    heal() {
      Object.assign(toServer, SOUND)
      Object.assign(toClient, SOUND)
      proxy.incoming = 'accept'
      proxy.onMessage = undefined
    },
    get connections() {
      return connections
    },
    get openConnections() {
      return links.size
    },
    get bytes() {
      return bytes
    },
    get roundTrips() {
      return roundTrips
    },
    messages,
    take() {
      const groups = new Map<number, string>()
      for (const { type, chunk } of messages.slice(taken))
        groups.set(chunk, (groups.get(chunk) ?? '') + type)
      taken = messages.length
      return [...groups.values()]
    },
    async [Symbol.asyncDispose]() {
      server.close()
      for (const link of links) link.end('reset')
      for (const client of unanswered) client.destroy()
      await once(server, 'close')
    },
  }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return Object.assign(proxy, {
    url: Object.assign(new URL(serverUrl), { host: `127.0.0.1:${port}` }).href,
  })
}

/** One client and its connection to the server. */
class Link {
  readonly #client: Socket
  readonly #upstream: Socket
  #silent = false
  #ended = false

  constructor(client: Socket, upstream: Socket, gone: () => void) {
    this.#client = client
    this.#upstream = upstream
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      // A reset of one side, or a server that is not there, is one of the other.
      socket.on('error', () => {
        if (!this.#silent && !other.destroyed) other.resetAndDestroy()
      })
      socket.on('close', () => {
        if (client.destroyed && upstream.destroyed) gone()
      })
    }
  }

  /** Nothing may be passed on any more. */
  get over(): boolean {
    return this.#silent || this.#ended
  }

  end(how: ConnectionEnd): void {
    if (how === 'silence') {
      this.#silent = true
      return
    }
    this.#ended = true
    for (const socket of [this.#client, this.#upstream])
      if (how === 'reset') socket.resetAndDestroy()
      else socket.destroySoon()
  }
}

interface FlowParts {
  readonly link: Link
  readonly source: Socket
  readonly sink: Socket
  readonly faults: WireFaults
  readonly splitter: MessageSplitter
  readonly arrived: (data: Buffer) => WireMessage[]
  readonly hook: () => MessageHook | undefined
}

/** Bytes that came in one piece, and the messages that they completed. */
interface Arrival {
  readonly size: number
  readonly messages: readonly WireMessage[]
  readonly due: Promise<void> | undefined
}

/** One direction of a link: whole messages, in order. */
class Flow {
  readonly #parts: FlowParts
  readonly #queue: Arrival[] = []
  #queued = 0
  #pumping = false
  #ending = false
  #passed = 0
  #owedMs = 0

  constructor(parts: FlowParts) {
    this.#parts = parts
    const { source, faults, link } = parts
    source.on('data', (data: Buffer) => {
      if (link.over) return
      const { latencyMs } = faults
      this.#queued += data.length
      this.#queue.push({
        size: data.length,
        messages: parts.arrived(data),
        // From its arrival on: chunks that come close to each other are held back together.
        due: latencyMs > 0 ? sleep(latencyMs, undefined, { ref: false }) : undefined,
      })
      if (this.#queued > HIGH_WATER) source.pause()
      void this.#pump()
    })
    source.on('end', () => {
      this.#ending = true
      void this.#pump()
    })
  }

  async #pump(): Promise<void> {
    if (this.#pumping) return
    this.#pumping = true
    const { link, source, sink, splitter, faults } = this.#parts
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      if (next.due !== undefined) await next.due
      await this.#passOn(next.messages)
      this.#queued -= next.size
      if (source.isPaused() && this.#queued < HIGH_WATER / 2) source.resume()
    }
    this.#pumping = false
    if (!this.#ending || link.over) return
    this.#ending = false
    const rest = splitter.rest()
    if (rest.length > 0) await this.#write(rest)
    if (faults.closeDelayMs > 0) await sleep(faults.closeDelayMs, undefined, { ref: false })
    if (!link.over) sink.end()
  }

  async #passOn(messages: readonly WireMessage[]): Promise<void> {
    const { link, hook } = this.#parts
    // One arrival stays one write as long as nobody decides otherwise.
    const through: Uint8Array[] = []
    const flush = async (): Promise<void> => {
      const data = Buffer.concat(through.splice(0))
      if (data.length > 0) await this.#write(data)
    }
    for (const message of messages) {
      if (link.over) return
      const asked = hook()?.(message) ?? 'pass'
      // What stands in front of a message that has to wait must not wait with it.
      if (asked instanceof Promise) await flush()
      const verdict = asked instanceof Promise ? await asked : asked
      if (link.over) return
      if (verdict === 'pass') through.push(message.bytes)
      else if (verdict === 'drop') continue
      else if (typeof verdict === 'string') {
        await flush()
        return link.end(verdict)
      } else if ('instead' in verdict) through.push(verdict.instead)
      else {
        through.push(message.bytes)
        await flush()
        return link.end(verdict.then)
      }
    }
    await flush()
  }

  async #write(data: Buffer): Promise<void> {
    const { link, sink, faults } = this.#parts
    const { limit } = faults
    const left = limit === 'none' ? data.length : Math.max(0, limit.bytes - this.#passed)
    const whole = data.subarray(0, left)
    for (let from = 0; from < whole.length && !link.over && !sink.destroyed; ) {
      const piece = whole.subarray(from, from + this.#pieceSize(whole.length))
      from += piece.length
      this.#passed += piece.length
      await this.#wait(piece.length)
      if (link.over || sink.destroyed) return
      if (!sink.write(piece))
        await Promise.race([once(sink, 'drain'), once(sink, 'close')]).catch(() => undefined)
      // One turn of the event loop is enough for a reader in this process to get the piece by itself.
      if (faults.sliceBytes !== 'off') await nextTurn()
    }
    if (left < data.length && limit !== 'none') link.end(limit.end)
  }

  #pieceSize(length: number): number {
    const { sliceBytes, bytesPerSecond } = this.#parts.faults
    if (sliceBytes !== 'off') return sliceBytes
    return bytesPerSecond === 'unlimited' ? length : Math.max(1, Math.ceil(bytesPerSecond / 100))
  }

  async #wait(length: number): Promise<void> {
    const { bytesPerSecond } = this.#parts.faults
    if (bytesPerSecond === 'unlimited') return
    this.#owedMs += (length / bytesPerSecond) * 1_000
    if (this.#owedMs < 1) return
    const begun = performance.now()
    await sleep(this.#owedMs, undefined, { ref: false })
    this.#owedMs -= performance.now() - begun
  }
}
