import { Agent, request } from 'node:http'
import { connect } from 'node:net'

export interface Answer {
  readonly status: number
  readonly body: unknown
}

export interface Call {
  readonly method?: 'GET' | 'POST'
  /** How the tenant is named, if it is: `{ 'X-Tenant-ID': 'acme' }`, `{ Host: 'acme.localhost' }`. */
  readonly headers?: Readonly<Record<string, string>>
  readonly json?: unknown
}

/** Few connections that everybody shares: what a connection remembered of one tenant would show with the next. */
const agent = new Agent({ keepAlive: true, maxSockets: 16 })

export function closeConnections(): void {
  agent.destroy()
}

/** Not `fetch`, which does not let anybody choose the Host. */
export function call(address: string, path: string, options: Call = {}): Promise<Answer> {
  const { method = 'GET', headers = {}, json } = options
  const payload = json === undefined ? undefined : JSON.stringify(json)
  return new Promise((resolve, reject) => {
    const outgoing = request(
      new URL(path, address),
      {
        agent,
        method,
        headers: {
          ...headers,
          ...(payload === undefined
            ? {}
            : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(payload) }),
        },
      },
      (incoming) => {
        let text = ''
        incoming.setEncoding('utf8')
        incoming.on('data', (part: string) => {
          text += part
        })
        incoming.on('error', reject)
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body: parse(text) }))
      },
    )
    outgoing.on('error', reject)
    outgoing.end(payload)
  })
}

/** Sends header lines exactly as they stand, also those that no client library would send. */
export function callRaw(address: string, path: string, lines: readonly string[]): Promise<Answer> {
  const { hostname, port } = new URL(address)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname)
    let text = ''
    socket.setEncoding('utf8')
    socket.on('data', (part: string) => {
      text += part
    })
    socket.on('error', reject)
    socket.on('end', () => {
      const [head = '', body = ''] = text.split('\r\n\r\n')
      resolve({ status: Number(head.split(' ')[1]), body: parse(body) })
    })
    socket.write([`GET ${path} HTTP/1.1`, ...lines, 'Connection: close', '', ''].join('\r\n'))
  })
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
