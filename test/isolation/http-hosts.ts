import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import fastifyMultipart from '@fastify/multipart'
import type { Tenancy, TenancyMode } from '@partywall/core'
import { tenancyErrorHandler, tenancyMiddleware } from '@partywall/express'
import { tenancyPlugin } from '@partywall/fastify'
import express from 'express'
import Fastify from 'fastify'
import multer from 'multer'

/** What a route of these tests is given, whatever the framework. */
export interface Call {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  /** `req.tenant` or `request.tenant`. */
  readonly tenantId: string | undefined
  readonly body: unknown
}

export interface Route {
  readonly mode?: TenancyMode
  /** Answers with JSON of what it returns; `undefined` means that it has answered itself. */
  readonly handle: (call: Call) => unknown
}

export interface HostOptions {
  readonly routes: Readonly<Record<string, Route>>
  readonly trustProxy?: boolean | string | string[]
  /** Seen before the tenancy: what is mounted in front of it. */
  readonly before?: (req: IncomingMessage, res: ServerResponse) => void
}

export interface RunningHost extends AsyncDisposable {
  readonly port: number
  readonly server: Server
}

export interface HostKind {
  readonly name: string
  start(tenancy: Tenancy, options: HostOptions): Promise<RunningHost>
}

const expressHost: HostKind = {
  name: 'express',
  async start(tenancy, { routes, trustProxy, before }) {
    const app = express()
    app.set('env', 'test')
    if (trustProxy !== undefined) app.set('trust proxy', trustProxy)
    app.use((req, res, next) => {
      before?.(req, res)
      next()
    })
    app.use(tenancyMiddleware(tenancy, { mode: (req) => routes[req.path]?.mode ?? 'required' }))
    app.use(express.json(), express.urlencoded({ extended: false }), multer().any())
    for (const [path, { handle }] of Object.entries(routes))
      app.all(path, async (req, res) => {
        const files = (req.files ?? []) as Express.Multer.File[]
        const fields = Object.fromEntries(
          files.map((file) => [file.fieldname, file.buffer.toString()]),
        )
        const body: unknown = req.body
        const answer = await handle({
          req,
          res,
          tenantId: req.tenant?.id,
          body: files.length > 0 ? { ...(body as object), ...fields } : body,
        })
        if (answer !== undefined) res.json(answer)
      })
    app.use(tenancyErrorHandler())
    const server = await new Promise<Server>((resolve) => {
      const listening = app.listen(0, '127.0.0.1', () => resolve(listening))
    })
    return running(server, async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    })
  },
}

const fastifyHost: HostKind = {
  name: 'fastify',
  async start(tenancy, { routes, trustProxy, before }) {
    const app = Fastify({
      forceCloseConnections: true,
      ...(trustProxy === undefined ? {} : { trustProxy }),
    })
    app.addHook('onRequest', (request, reply, done) => {
      before?.(request.raw, reply.raw)
      done()
    })
    await app.register(tenancyPlugin, { tenancy })
    await app.register(fastifyMultipart, { attachFieldsToBody: 'keyValues' })
    app.addContentTypeParser(
      'application/x-www-form-urlencoded',
      { parseAs: 'string' },
      (_request, body, done) => done(null, Object.fromEntries(new URLSearchParams(String(body)))),
    )
    // Left unread: the handler reads the stream itself.
    app.addContentTypeParser('application/octet-stream', (_request, _payload, done) => done(null))
    for (const [url, { mode, handle }] of Object.entries(routes))
      app.route({
        method: ['GET', 'POST'],
        url,
        ...(mode === undefined ? {} : { config: { tenancy: mode } }),
        handler: async (request, reply) => {
          const answer = await handle({
            req: request.raw,
            res: reply.raw,
            tenantId: request.tenant?.id,
            body: textFields(request.body),
          })
          if (answer !== undefined) return answer
          reply.hijack()
          return undefined
        },
      })
    await app.listen({ port: 0, host: '127.0.0.1' })
    return running(app.server, () => app.close())
  },
}

function textFields(body: unknown): unknown {
  if (typeof body !== 'object' || body === null) return body
  return Object.fromEntries(
    Object.entries(body).map(([name, value]: [string, unknown]) => [
      name,
      Buffer.isBuffer(value) ? value.toString() : value,
    ]),
  )
}

function running(server: Server, close: () => Promise<unknown>): RunningHost {
  return {
    server,
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      await close()
    },
  }
}

/** Both frameworks: every row of the matrix runs on each. */
export const HOSTS: readonly HostKind[] = [expressHost, fastifyHost]

export interface RawAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** A socket that sends exactly the bytes it is given, so that no client library repairs a hostile request. */
export class RawClient implements Disposable {
  readonly socket: Socket
  #received = ''
  readonly #waiting = new Set<() => void>()

  private constructor(socket: Socket) {
    this.socket = socket
    const wake = (): void => {
      for (const check of this.#waiting) check()
    }
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => {
      this.#received += chunk
      wake()
    })
    socket.on('close', wake)
    socket.on('error', () => {})
  }

  static async open(port: number): Promise<RawClient> {
    const socket = connect(port, '127.0.0.1')
    const client = new RawClient(socket)
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    return client
  }

  write(text: string): void {
    this.socket.write(text, 'latin1')
  }

  /** The next answer on this socket, in the order of the requests. Rejects if the server hangs up first. */
  async answer(): Promise<RawAnswer> {
    for (;;) {
      const answer = this.#take()
      if (answer !== undefined) return answer
      if (this.socket.destroyed || this.socket.readableEnded)
        throw new Error(`The server hung up after ${JSON.stringify(this.#received)}.`)
      await new Promise<void>((resolve) => {
        const check = (): void => {
          this.#waiting.delete(check)
          resolve()
        }
        this.#waiting.add(check)
      })
    }
  }

  async request(lines: readonly string[], body = ''): Promise<RawAnswer> {
    this.write(`${lines.join('\r\n')}\r\n\r\n${body}`)
    return this.answer()
  }

  #take(): RawAnswer | undefined {
    const end = this.#received.indexOf('\r\n\r\n')
    if (end === -1) return undefined
    const [first = '', ...lines] = this.#received.slice(0, end).split('\r\n')
    const headers = Object.fromEntries(
      lines.map((line) => {
        const colon = line.indexOf(':')
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
      }),
    )
    const length = Number(headers['content-length'] ?? 0)
    const rest = this.#received.slice(end + 4)
    if (rest.length < length) return undefined
    this.#received = rest.slice(length)
    return { status: Number(first.split(' ')[1]), headers, body: rest.slice(0, length) }
  }

  [Symbol.dispose](): void {
    this.socket.destroy()
  }
}

/** One request on a socket of its own. */
export async function send(
  port: number,
  lines: readonly string[],
  body?: string,
): Promise<RawAnswer> {
  using client = await RawClient.open(port)
  return await client.request(lines, body)
}

export function problem(answer: RawAnswer): { readonly code?: unknown } & Record<string, unknown> {
  return JSON.parse(answer.body) as Record<string, unknown>
}
