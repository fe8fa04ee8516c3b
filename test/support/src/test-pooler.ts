import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'

import { Client } from 'pg'

import { type Frame, MessageSplitter } from './internal/wire-messages.ts'

export interface TestPoolerOptions {
  readonly postgresUrl: string
  /** Server connections, all opened at the start. */
  readonly connections: number
  /**
   * Which free connection a transaction gets: the one that was used last, the one that was used longest ago, or the one that its client had before if that is free, otherwise as `fifo`.
   * @defaultValue `'lifo'`
   */
  readonly order?: 'lifo' | 'fifo' | 'sticky' | undefined
  /** What a client is told at login of the process that it speaks to: a number of the pooler's own, or a real one. @defaultValue `'own'` */
  readonly key?: 'own' | 'server' | undefined
}

/** A transaction pooler of ours. It takes every login and ignores its parameters, as some products do. */
export interface TestPooler extends AsyncDisposable {
  readonly url: string
  /** Opens all connections of the server anew; nobody may be using one. */
  reconnect(): Promise<void>
}

interface ServerSide {
  readonly stream: Socket
  readonly pid: number
}

const SSL_REQUEST = 80_877_103
const CANCEL_REQUEST = 80_877_102

/** Starts a small transaction pooler, to stand for what is installed nowhere: it differs from PgBouncer in what it tells and in whom it gives what. */
export async function startTestPooler({
  postgresUrl,
  connections,
  order = 'lifo',
  key = 'own',
}: TestPoolerOptions): Promise<TestPooler> {
  const servers = new Set<ServerSide>()
  const free: ServerSide[] = []
  const open = async (): Promise<void> => {
    const server = await openServer(postgresUrl)
    servers.add(server)
    giveBack(server)
  }
  const close = (server: ServerSide): void => {
    servers.delete(server)
    server.stream.destroy()
  }
  const waiting: ((server: ServerSide) => void)[] = []
  const sockets = new Set<Socket>()
  let closed = false

  const take = async (last: ServerSide | undefined): Promise<ServerSide> => {
    const own = order === 'sticky' && last !== undefined ? free.indexOf(last) : -1
    const next = own >= 0 ? free.splice(own, 1)[0] : order === 'lifo' ? free.pop() : free.shift()
    return next ?? new Promise((resolve) => waiting.push(resolve))
  }
  const giveBack = (server: ServerSide): void => {
    const next = waiting.shift()
    if (next === undefined) free.push(server)
    else next(server)
  }

  const listener = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    let server: ServerSide | undefined
    let last: ServerSide | undefined
    let unanswered = 0
    let work = Promise.resolve()
    socket.on('error', () => {})
    socket.on('close', () => {
      sockets.delete(socket)
      // In the middle of a transaction: nobody knows how it would go on.
      if (server === undefined || closed) return
      close(server)
      server = undefined
      void open()
    })
    const fromServer = new MessageSplitter('server')
    const answer = (data: Buffer): void => {
      for (const { type, bytes, body } of fromServer.feed(data)) {
        if (socket.destroyed) return
        socket.write(bytes)
        // Between transactions, and nothing is on its way.
        if (type !== 'Z' || --unanswered > 0 || body.toString() !== 'I' || server === undefined)
          continue
        server.stream.removeAllListeners('data')
        last = server
        server = undefined
        giveBack(last)
      }
    }
    const forward = async ({ type, bytes, body }: Frame): Promise<void> => {
      if (type === 'startup') return logIn(body)
      if (type === 'X') return void socket.end()
      if (type === 'Q' || type === 'S') unanswered++
      if (server === undefined) {
        const taken = await take(last)
        if (socket.destroyed) return giveBack(taken)
        server = taken
        server.stream.on('data', answer)
      }
      server.stream.write(bytes)
    }
    let fromClient = new MessageSplitter('client')
    const logIn = (body: Buffer): void => {
      const request = body.readInt32BE(0)
      if (request === CANCEL_REQUEST) return void socket.destroy()
      if (request === SSL_REQUEST) {
        fromClient = new MessageSplitter('client')
        return void socket.write('N')
      }
      const claimed = key === 'server' ? (free.at(-1)?.pid ?? 0) : randomInt(1, 2 ** 31)
      socket.write(welcome(claimed))
    }
    socket.on('data', (data) => {
      for (const frame of fromClient.feed(data)) work = work.then(() => forward(frame))
    })
  })
  for (let n = 0; n < connections; n++) await open()
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const address = listener.address()
  if (address === null || typeof address === 'string') throw new Error('The system gave no port.')
  return {
    url: Object.assign(new URL(postgresUrl), { hostname: '127.0.0.1', port: address.port }).href,
    async reconnect() {
      for (const server of free.splice(0)) close(server)
      while (servers.size < connections) await open()
    },
    async [Symbol.asyncDispose]() {
      closed = true
      listener.close()
      for (const socket of sockets) socket.destroy()
      for (const { stream } of servers) stream.destroy()
      await once(listener, 'close').catch(() => {})
    },
  }
}

/** Logs in by way of the driver, and goes on with its socket. */
async function openServer(url: string): Promise<ServerSide> {
  const client = new Client({ connectionString: url })
  client.on('error', () => {})
  await client.connect()
  const { connection, processID } = client as unknown as {
    readonly connection: { readonly stream: Socket }
    readonly processID: number
  }
  const { stream } = connection
  stream.removeAllListeners('data')
  return { stream, pid: processID }
}

/** Authentication is done, this is your key, I am ready. */
function welcome(pid: number): Buffer {
  const message = (type: string, body: Buffer): Buffer => {
    const length = Buffer.alloc(4)
    length.writeInt32BE(4 + body.length)
    return Buffer.concat([Buffer.from(type), length, body])
  }
  const keyData = Buffer.alloc(8)
  keyData.writeInt32BE(pid)
  return Buffer.concat([
    message('R', Buffer.alloc(4)),
    message('S', Buffer.from('server_version\u000018.0\u0000')),
    message('K', keyData),
    message('Z', Buffer.from('I')),
  ])
}
