import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { Client } from 'pg'
import { beforeEach, describe, expect, inject, test } from 'vitest'

import { eventually } from './eventually.ts'
import { createFaultProxy, type FaultProxy, type WireMessage } from './fault-proxy.ts'
import { MessageSplitter } from './internal/wire-messages.ts'

/** A message: letter, length, body. The first one of a client goes without a letter. */
function frame(type: string, text: string): Buffer {
  const head = Buffer.alloc(type.length + 4)
  head.write(type, 'latin1')
  head.writeInt32BE(4 + Buffer.byteLength(text), type.length)
  return Buffer.concat([head, Buffer.from(text)])
}
const HELLO = frame('', 'hello')

/** Answers every message of a client but the first by one with the same body. Keeps what it received, and how each connection ended. */
interface Echo {
  readonly url: string
  readonly received: Buffer[]
  readonly ends: string[]
  readonly server: Server
}

let echo: Echo
let proxy: FaultProxy
const sockets = new Set<Socket>()

beforeEach(async () => {
  const received: Buffer[] = []
  const ends: string[] = []
  const server = createServer((socket) => {
    sockets.add(socket)
    const splitter = new MessageSplitter('client')
    socket.on('data', (data: Buffer) => {
      received.push(data)
      for (const { type, bytes } of splitter.feed(data)) if (type !== 'startup') socket.write(bytes)
    })
    socket.on('error', (error: NodeJS.ErrnoException) => ends.push(error.code ?? 'error'))
    socket.on('end', () => ends.push('end'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  echo = { url: `postgres://a:b@127.0.0.1:${port}/db`, received, ends, server }
  proxy = await createFaultProxy(echo.url)
  return async () => {
    for (const socket of sockets) socket.destroy()
    sockets.clear()
    echo.server.close()
    await proxy[Symbol.asyncDispose]()
  }
})

interface Visitor {
  readonly socket: Socket
  /** Every arrival of bytes. */
  readonly chunks: Buffer[]
  /** How it ended: `end` or the code of an error. */
  readonly ends: string[]
  readonly text: () => string
  send(...texts: string[]): void
}

async function visit(): Promise<Visitor> {
  const { hostname, port } = new URL(proxy.url)
  const socket = connect({ host: hostname, port: Number(port), noDelay: true })
  sockets.add(socket)
  const chunks: Buffer[] = []
  const ends: string[] = []
  socket.on('data', (data: Buffer) => chunks.push(data))
  socket.on('end', () => ends.push('end'))
  socket.on('error', (error: NodeJS.ErrnoException) => ends.push(error.code ?? 'error'))
  await once(socket, 'connect')
  socket.write(HELLO)
  return {
    socket,
    chunks,
    ends,
    text: () => Buffer.concat(chunks).toString('latin1'),
    send: (...texts) => void socket.write(Buffer.concat(texts.map((text) => frame('Q', text)))),
  }
}
const echoOf = (...texts: string[]): string =>
  Buffer.concat(texts.map((text) => frame('Q', text))).toString('latin1')
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

describe('a sound wire', () => {
  test('passes on what it gets, in both directions, and both ends of the stream', async () => {
    const visitor = await visit()
    visitor.send('one', 'two')
    await eventually(() => visitor.text() === echoOf('one', 'two'))
    expect(Buffer.concat(echo.received)).toEqual(
      Buffer.concat([HELLO, frame('Q', 'one'), frame('Q', 'two')]),
    )
    visitor.socket.end()
    await eventually(() => visitor.ends.length > 0 && proxy.openConnections === 0)
    expect([visitor.ends, echo.ends]).toEqual([['end'], ['end']])
  })

  test('passes on a message in pieces, a megabyte, and what never becomes a whole message', async () => {
    const visitor = await visit()
    const bytes = frame('Q', 'x'.repeat(3_000_000))
    for (const cut of [2, 7, 1_000_000])
      visitor.socket.write(bytes.subarray(cut === 2 ? 0 : cut === 7 ? 2 : 7, cut))
    visitor.socket.write(bytes.subarray(1_000_000))
    await eventually(() => Buffer.concat(visitor.chunks).length === bytes.length)
    visitor.socket.end(Buffer.from('Q\0\0'))
    await eventually(() => echo.ends.length > 0)
    expect(Buffer.concat(echo.received).subarray(-3)).toEqual(Buffer.from('Q\0\0'))
  })

  test('a server that is not there is a reset', async () => {
    echo.server.close()
    const visitor = await visit()
    await eventually(() => visitor.ends.length > 0)
    expect(visitor.ends).toEqual(['ECONNRESET'])
    await eventually(() => proxy.openConnections === 0)
  })
})

describe('slow wires', () => {
  test('latency holds back each direction by itself, and chunks do not wait for each other', async () => {
    proxy.toServer.latencyMs = 60
    const visitor = await visit()
    const begun = performance.now()
    for (let n = 0; n < 10; n++) {
      visitor.send(`${n}`)
      await pause(2)
    }
    await eventually(() => visitor.text() === echoOf(...'0123456789'), { intervalMs: 2 })
    const took = performance.now() - begun
    expect(took).toBeGreaterThan(60)
    expect(took).toBeLessThan(400)
    proxy.toServer.latencyMs = 0
    proxy.toClient.latencyMs = 80
    const again = performance.now()
    visitor.send('back')
    await eventually(() => visitor.text().endsWith('back'), { intervalMs: 2 })
    expect(performance.now() - again).toBeGreaterThan(75)
  })

  test('bandwidth: so many bytes a second', async () => {
    const visitor = await visit()
    proxy.toClient.bytesPerSecond = 50_000
    const begun = performance.now()
    visitor.send('x'.repeat(10_000))
    await eventually(() => visitor.text().length === 10_005, { intervalMs: 2 })
    const took = performance.now() - begun
    expect(took).toBeGreaterThan(150)
    expect(took).toBeLessThan(1_000)
  })

  test('the slicer passes on a byte at a time, and the reader gets them one by one', async () => {
    const visitor = await visit()
    proxy.toClient.sliceBytes = 1
    visitor.send('a', 'bc')
    await eventually(() => visitor.text() === echoOf('a', 'bc'))
    expect(visitor.chunks.length).toBeGreaterThan(8)
  })

  test('a slow close: the end comes later, the data does not', async () => {
    proxy.toServer.closeDelayMs = 120
    const visitor = await visit()
    visitor.send('bye')
    visitor.socket.end()
    await eventually(() => visitor.text() === echoOf('bye'))
    expect(echo.ends).toEqual([])
    const begun = performance.now()
    await eventually(() => echo.ends.length > 0)
    expect(performance.now() - begun).toBeGreaterThan(60)
    expect(echo.ends).toEqual(['end'])
  })
})

describe('broken wires', () => {
  test.each([
    ['close', ['end'], ['end']],
    ['reset', ['ECONNRESET'], ['ECONNRESET']],
  ] as const)('%s ends both sides', async (how, atClient, atServer) => {
    const visitor = await visit()
    visitor.send('one')
    await eventually(() => visitor.text() === echoOf('one'))
    proxy.end(how)
    await eventually(() => visitor.ends.length > 0 && echo.ends.length > 0)
    expect([visitor.ends, echo.ends]).toEqual([atClient, atServer])
    await eventually(() => proxy.openConnections === 0)
  })

  test('silence: nothing gets through in either direction, not even an end, and others are not touched', async () => {
    const silent = await visit()
    silent.send('one')
    await eventually(() => silent.text() === echoOf('one'))
    proxy.end('silence')
    silent.send('two')
    for (const socket of sockets) if (socket !== silent.socket) socket.write(frame('Q', 'late'))
    silent.socket.end()
    const other = await visit()
    other.send('three')
    await eventually(() => other.text() === echoOf('three'))
    await pause(30)
    expect([silent.text(), silent.ends, echo.ends]).toEqual([echoOf('one'), [], []])
    proxy.heal()
    expect(proxy.openConnections).toBe(2)
    proxy.end('reset')
    await eventually(() => proxy.openConnections === 0 && silent.ends.length > 0)
  })

  test.each(['close', 'reset', 'silence'] as const)(
    'a limit lets so many bytes through, in the middle of a message, and then comes %s',
    async (end) => {
      const visitor = await visit()
      proxy.toClient.limit = { bytes: 12, end }
      visitor.send('one')
      await eventually(() => visitor.text() === echoOf('one'))
      visitor.send('two')
      await eventually(() =>
        end === 'silence' ? visitor.text().length === 12 : visitor.ends.length,
      )
      // A reset takes along what was not read yet.
      if (end !== 'reset') expect(visitor.text()).toBe(echoOf('one', 'two').slice(0, 12))
      expect(visitor.text().length).toBeLessThanOrEqual(12)
      expect(visitor.ends).toEqual({ close: ['end'], reset: ['ECONNRESET'], silence: [] }[end])
    },
  )

  test('new connections can be turned away or left without an answer', async () => {
    proxy.incoming = 'reset'
    const refused = await visit().catch((error: NodeJS.ErrnoException) => error)
    if (!(refused instanceof Error)) await eventually(() => refused.ends.length > 0)
    proxy.incoming = 'silence'
    const unanswered = await visit()
    unanswered.send('hello?')
    await pause(30)
    expect([unanswered.text(), unanswered.ends, echo.received]).toEqual(['', [], []])
    proxy.heal()
    const visitor = await visit()
    visitor.send('one')
    await eventually(() => visitor.text() === echoOf('one'))
  })
})

describe('the hook on messages', () => {
  test('sees both sides, message by message, whatever the chunks are', async () => {
    const seen: string[] = []
    proxy.toServer.sliceBytes = 3
    proxy.onMessage = ({ from, type, index, connection, text }) => {
      seen.push(`${from} ${connection}.${index} ${type} ${text ?? ''}`)
      return 'pass'
    }
    const visitor = await visit()
    visitor.send('one', 'two')
    await eventually(() => visitor.text() === echoOf('one', 'two'))
    expect(seen).toEqual([
      'client 0.0 startup ',
      'client 0.1 Q one',
      'client 0.2 Q two',
      'server 0.0 Q ',
      'server 0.1 Q ',
    ])
  })

  const at = (from: string, body: string) => (message: WireMessage) =>
    message.from === from && message.body.toString() === body

  test.each([
    // What the hook answers at "two", and what then gets through to the server and to the client.
    ['drop', ['one', 'three'], ['one', 'three'], []],
    ['close', ['one'], undefined, ['end']],
    [{ then: 'close' }, ['one', 'two'], undefined, ['end']],
    [{ instead: frame('Q', 'TWO') }, ['one', 'TWO', 'three'], ['one', 'TWO', 'three'], []],
    ['silence', ['one'], undefined, []],
  ] as const)('%j in front of a message of the client', async (verdict, arrived, back, ends) => {
    const two = at('client', 'two')
    proxy.onMessage = (message) => (two(message) ? verdict : 'pass')
    const visitor = await visit()
    visitor.send('one', 'two', 'three')
    await eventually(
      () => Buffer.concat(echo.received).length === HELLO.length + echoOf(...arrived).length,
    )
    if (back !== undefined) await eventually(() => visitor.text() === echoOf(...back))
    if (ends.length > 0) await eventually(() => visitor.ends.length > 0)
    await pause(10)
    expect(Buffer.concat(echo.received).toString('latin1')).toBe(
      HELLO.toString('latin1') + echoOf(...arrived),
    )
    expect(visitor.ends).toEqual(ends)
  })

  test('a reply can be cut off after the server has acted on its message', async () => {
    const two = at('server', 'two')
    proxy.onMessage = (message) => (two(message) ? 'reset' : 'pass')
    const visitor = await visit()
    visitor.send('one', 'two')
    await eventually(() => visitor.ends.length > 0)
    expect(visitor.ends).toEqual(['ECONNRESET'])
    expect(Buffer.concat(echo.received).toString('latin1')).toContain(echoOf('one', 'two'))
  })

  test('a message waits for the answer of the hook, and what stands in front of it does not', async () => {
    const decided = Promise.withResolvers<'pass'>()
    const two = at('client', 'two')
    proxy.onMessage = (message) => (two(message) ? decided.promise : 'pass')
    const visitor = await visit()
    visitor.send('one', 'two', 'three')
    await eventually(() => visitor.text() === echoOf('one'))
    await pause(20)
    expect(visitor.text()).toBe(echoOf('one'))
    decided.resolve('pass')
    await eventually(() => visitor.text() === echoOf('one', 'two', 'three'))
  })
})

describe('in front of Postgres', () => {
  let client: Client
  let recording: FaultProxy
  beforeEach(async () => {
    recording = await createFaultProxy(inject('postgresUrl'), { record: true })
    client = new Client({ connectionString: recording.url })
    client.on('error', () => undefined)
    await client.connect()
    recording.take()
    return async () => {
      await client.end().catch(() => undefined)
      await recording[Symbol.asyncDispose]()
    }
  })

  test('records what is sent, by arrival, and counts round trips', async () => {
    const before = recording.roundTrips
    await client.query('select 1')
    await client.query('select $1::int', [1])
    expect(recording.take()).toEqual(['Q', 'PBDES'])
    expect(recording.roundTrips - before).toBe(2)
    expect(recording.messages.at(-5)).toMatchObject({ type: 'P', text: 'select $1::int' })
  })

  test('knows the statement behind a name, the tag and the code of an answer', async () => {
    const texts: string[] = []
    recording.onMessage = ({ from, type, text }) => {
      if (text !== undefined) texts.push(`${from} ${type} ${text}`)
      return 'pass'
    }
    for (let n = 0; n < 2; n++)
      await client.query({ name: 'one', text: 'select 1 as one', values: [] })
    await client.query('selec').catch(() => undefined)
    expect(texts).toEqual([
      'client P select 1 as one',
      'client B select 1 as one',
      'client E select 1 as one',
      'server C SELECT 1',
      'client B select 1 as one',
      'client E select 1 as one',
      'server C SELECT 1',
      'client Q selec',
      'server E 42601',
    ])
  })

  test('all of it at once: slow, in slices, and every reply is the right one', async () => {
    for (const faults of [recording.toServer, recording.toClient])
      Object.assign(faults, { latencyMs: 1, sliceBytes: 7, bytesPerSecond: 200_000 })
    for (let n = 0; n < 5; n++)
      expect((await client.query('select $1::int as n', [n])).rows).toEqual([{ n }])
  })
})
