import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'

import { Client } from 'pg'

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
}

interface ServerSide {
  readonly client: Client
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
  const servers: ServerSide[] = []
  for (let n = 0; n < connections; n++) servers.push(await openServer(postgresUrl))
  const free = [...servers]
  const waiting: ((server: ServerSide) => void)[] = []
  const sockets = new Set<Socket>()

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
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    let server: ServerSide | undefined
    let last: ServerSide | undefined
    let unanswered = 0
    let work = Promise.resolve()
    const answer = (data: Buffer): void => {
      socket.write(data)
    }
    const frames = frameReader((type, frame) => {
      answer(frame)
      // Between transactions, and nothing is on its way.
      if (type !== 'Z' || --unanswered > 0 || frame[5] !== 0x49 || server === undefined) return
      server.stream.removeAllListeners('data')
      last = server
      giveBack(server)
      server = undefined
    })
    const fromClient = frameReader((type, frame) => {
      work = work.then(async () => {
        if (type === 'X') return void socket.end()
        if (type === 'Q' || type === 'S') unanswered++
        if (server === undefined) {
          server = await take(last)
          server.stream.on('data', frames)
        }
        server.stream.write(frame)
      })
    })
    socket.once('data', (first) => {
      if (first.readInt32BE(4) === CANCEL_REQUEST) return void socket.destroy()
      const login = (): void => {
        socket.on('data', fromClient)
        const claimed = key === 'server' ? (free.at(-1)?.pid ?? 0) : randomInt(1, 2 ** 31)
        socket.write(welcome(claimed))
      }
      if (first.readInt32BE(4) !== SSL_REQUEST) return login()
      socket.write('N')
      socket.once('data', login)
    })
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const address = listener.address()
  if (address === null || typeof address === 'string') throw new Error('The system gave no port.')
  return {
    url: Object.assign(new URL(postgresUrl), { hostname: '127.0.0.1', port: address.port }).href,
    async [Symbol.asyncDispose]() {
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
  return { client, stream, pid: processID }
}

/** Cuts a stream of bytes into messages with a type. */
function frameReader(onFrame: (type: string, frame: Buffer) => void): (data: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0)
  return (data) => {
    rest = Buffer.concat([rest, data])
    while (rest.length >= 5) {
      const end = 1 + rest.readInt32BE(1)
      if (rest.length < end) return
      const frame = rest.subarray(0, end)
      rest = rest.subarray(end)
      onFrame(String.fromCharCode(frame[0] ?? 0), frame)
    }
  }
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
