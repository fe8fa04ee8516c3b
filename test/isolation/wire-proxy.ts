import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A message of a client (PostgreSQL manual, 53.7). `type` is its letter, `startup` for the first one of a connection. */
export interface FrontendMessage {
  readonly type: string
  readonly body: Buffer
  /** Which connection, counted from 0. */
  readonly connection: number
  /** Which arrival of bytes, counted over the whole proxy: messages of one write that fits the network come in one. */
  readonly chunk: number
}

/** A wire between a pool and the server that is listened to, and can be slowed down or cut. */
export interface WireProxy extends AsyncDisposable {
  readonly url: string
  readonly messages: FrontendMessage[]
  readonly connections: number
  readonly bytes: number
  /** How often the client had to wait for an answer: answers that came between two arrivals of the client's bytes count once. */
  readonly roundTrips: number
  /** The letters of what was sent since the last call, grouped by arrival: `['BEPBDES']`. */
  take(): string[]
  /** Breaks every connection, as a network does. */
  cut(): void
}

export async function createWireProxy(serverUrl: string): Promise<WireProxy> {
  const target = new URL(serverUrl)
  const messages: FrontendMessage[] = []
  const sockets = new Set<Socket>()
  let connections = 0
  let bytes = 0
  let chunk = 0
  let roundTrips = 0
  let waiting = false
  let taken = 0
  const server = createServer((client) => {
    const connection = connections++
    const upstream = connect(Number(target.port || 5432), target.hostname)
    let pending = Buffer.alloc(0)
    let started = false
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    client.on('data', (data: Buffer) => {
      chunk++
      bytes += data.length
      waiting = true
      pending = Buffer.concat([pending, data])
      for (;;) {
        const head = started ? 1 : 0
        if (pending.length < head + 4) break
        const length = head + pending.readInt32BE(head)
        if (pending.length < length) break
        messages.push({
          type: started ? pending.toString('latin1', 0, 1) : 'startup',
          body: Buffer.from(pending.subarray(head + 4, length)),
          connection,
          chunk,
        })
        started = true
        pending = pending.subarray(length)
      }
      upstream.write(data)
    })
    upstream.on('data', (data: Buffer) => {
      if (waiting) roundTrips++
      waiting = false
      client.write(data)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = Object.assign(new URL(serverUrl), {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
  }).href
  return {
    url,
    messages,
    get connections() {
      return connections
    },
    get bytes() {
      return bytes
    },
    get roundTrips() {
      return roundTrips
    },
    take() {
      const groups = new Map<number, string>()
      for (const { type, chunk } of messages.slice(taken))
        groups.set(chunk, (groups.get(chunk) ?? '') + type)
      taken = messages.length
      return [...groups.values()]
    },
    cut() {
      for (const socket of sockets) socket.destroy()
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
