import { once } from 'node:events'
import type { RequestListener } from 'node:http'
import { setImmediate as immediate, setTimeout as sleep } from 'node:timers/promises'
import { createTenancy, header, memoryTenantStore, type Tenancy } from '@partywall/core'
import { TenantPool } from '@partywall/postgres'
import { canary, eventually, foreignCanaries } from '@partywall/test-support'
import { describe, expect, test } from 'vitest'
import {
  type Call,
  HOSTS,
  type HostKind,
  type HostOptions,
  problem,
  RawClient,
  type Route,
  type RunningHost,
  send,
} from './http-hosts.ts'

const TENANTS = ['acme', 'globex'] as const

interface Fixture extends AsyncDisposable {
  readonly host: RunningHost
  readonly port: number
  readonly tenancy: Tenancy
}

async function start(
  host: HostKind,
  routes: (tenancy: Tenancy) => HostOptions['routes'],
  options: Partial<HostOptions> = {},
): Promise<Fixture> {
  const tenancy = createTenancy({
    store: memoryTenantStore(TENANTS.map((id) => ({ id }))),
    resolve: [header('X-Tenant-ID')],
    authorize: () => true,
  })
  const running = await host.start(tenancy, { ...options, routes: routes(tenancy) })
  return {
    host: running,
    port: running.port,
    tenancy,
    async [Symbol.asyncDispose]() {
      await running[Symbol.asyncDispose]()
      await tenancy.close()
    },
  }
}

function upload(
  path: string,
  tenant: string,
  type: string,
  body: string,
  ...more: string[]
): string[] {
  return [
    `POST ${path} HTTP/1.1`,
    'Host: x.io',
    `X-Tenant-ID: ${tenant}`,
    `Content-Type: ${type}`,
    `Content-Length: ${Buffer.byteLength(body, 'latin1')}`,
    ...more,
  ]
}

const multipart = (value: string): string =>
  ['note', 'file']
    .map(
      (name) =>
        `--edge\r\nContent-Disposition: form-data; name="${name}"${name === 'file' ? '; filename="f.bin"\r\nContent-Type: application/octet-stream' : ''}\r\n\r\n${value}\r\n`,
    )
    .join('') + '--edge--\r\n'

const BODIES = [
  ['JSON', '/parsed', 'application/json', (value: string) => JSON.stringify({ value })],
  [
    'urlencoded',
    '/parsed',
    'application/x-www-form-urlencoded',
    (value: string) => `value=${encodeURIComponent(value)}`,
  ],
  ['multipart', '/parsed', 'multipart/form-data; boundary=edge', multipart],
  [
    'a raw stream, iterated',
    '/iterated',
    'application/octet-stream',
    (value: string) => value.repeat(2_000),
  ],
  [
    'a raw stream, by listeners',
    '/listened',
    'application/octet-stream',
    (value: string) => value.repeat(2_000),
  ],
] as const

/** Answers with every tenant that was seen on the way, and what was uploaded. */
const bodyRoutes = (tenancy: Tenancy): HostOptions['routes'] => {
  const here = (): string => tenancy.current()?.tenant.id ?? 'none'
  return {
    '/parsed': {
      async handle({ body, tenantId }) {
        const seen = [here(), tenantId]
        await sleep(1)
        seen.push(here())
        return { seen, body }
      },
    },
    '/iterated': {
      async handle({ req }) {
        const seen = [here()]
        let body = ''
        for await (const chunk of req) {
          seen.push(here())
          body += String(chunk)
        }
        seen.push(here())
        return { seen, body: body.slice(0, 40), length: body.length }
      },
    },
    '/listened': {
      async handle({ req }) {
        const seen = [here()]
        let body = ''
        req.on('data', (chunk: Buffer) => {
          seen.push(here())
          body += chunk.toString()
        })
        await new Promise<void>((resolve) => {
          req.on('end', () => {
            seen.push(here())
            resolve()
          })
        })
        return { seen, body: body.slice(0, 40), length: body.length }
      },
    },
  }
}

function expectOwn(answer: { status: number; body: string }, tenant: string): void {
  expect(answer.status).toBe(200)
  const { seen, body } = JSON.parse(answer.body) as { seen: string[]; body: unknown }
  expect(new Set(seen)).toEqual(new Set([tenant]))
  expect(JSON.stringify(body)).toContain(`canary:${tenant}:`)
  expect(foreignCanaries(body, tenant)).toEqual([])
}

describe.each(HOSTS)('context on $name', (host) => {
  test.each(BODIES)('C2 the context is intact after %s', async (_kind, path, type, encode) => {
    await using f = await start(host, bodyRoutes)
    await Promise.all(
      Array.from({ length: 40 }, async (_, n) => {
        const tenant = TENANTS[n % 2] ?? 'acme'
        const body = encode(canary(tenant, 1))
        expectOwn(await send(f.port, upload(path, tenant, type, body), body), tenant)
      }),
    )
  })

  test.each(BODIES)(
    'C2 the context is intact after a slow body: %s',
    async (_kind, path, type, encode) => {
      await using f = await start(host, bodyRoutes)
      await Promise.all(
        TENANTS.map(async (tenant, shift) => {
          using client = await RawClient.open(f.port)
          const body = encode(canary(tenant, 1))
          client.write(`${upload(path, tenant, type, body).join('\r\n')}\r\n\r\n`)
          const step = Math.ceil(body.length / 12)
          for (let at = 0; at < body.length; at += step) {
            client.write(body.slice(at, at + step))
            await sleep(2 + shift)
          }
          expectOwn(await client.answer(), tenant)
        }),
      )
    },
  )

  test('C2 C3 an aborted upload ends in its own context', async () => {
    const events: [string, string, string | undefined][] = []
    let started = 0
    await using f = await start(host, (tenancy) => ({
      '/upload': {
        async handle({ req, res }) {
          const own = tenancy.require().tenant.id
          const note = (event: string) => (): void => {
            events.push([own, event, tenancy.current()?.tenant.id])
          }
          for (const event of ['aborted', 'close', 'end']) req.on(event, note(`req.${event}`))
          for (const event of ['finish', 'close']) res.on(event, note(`res.${event}`))
          started++
          await new Promise((resolve) => req.on('error', resolve).resume())
          note('error')()
          await immediate()
          note('detached')()
          return undefined
        },
      },
    }))
    await Promise.all(
      Array.from({ length: 10 }, async (_, n) => {
        const tenant = TENANTS[n % 2] ?? 'acme'
        using client = await RawClient.open(f.port)
        client.write(
          `${upload('/upload', tenant, 'application/octet-stream', 'x'.repeat(100)).join('\r\n')}\r\n\r\nabc`,
        )
        await eventually(() => started > n)
      }),
    )
    await eventually(() => events.filter(([, event]) => event === 'detached').length === 10)
    await eventually(() => events.filter(([, event]) => event === 'res.close').length === 10)
    expect(new Set(events.map(([, event]) => event))).toContain('req.aborted')
    for (const [own, event, seen] of events) expect([own, event, seen]).toEqual([own, event, own])
  })

  describe('C3 listeners never run in the context of another request', () => {
    interface Noted {
      readonly own: string
      readonly event: string
      readonly seen: string
    }

    /** Every route listens to everything; `x-wait` delays the answer and `x-do` chooses what is special. */
    function listening(notes: Noted[], special: Record<string, (call: Call) => void> = {}) {
      return (tenancy: Tenancy): HostOptions['routes'] => {
        const handle = async (call: Call): Promise<unknown> => {
          const { req, res } = call
          const own = tenancy.current()?.tenant.id ?? 'none'
          const note = (event: string) => (): void => {
            notes.push({ own, event, seen: tenancy.current()?.tenant.id ?? 'none' })
          }
          for (const event of ['end', 'close', 'aborted', 'error', 'timeout'])
            req.on(event, note(`req.${event}`))
          for (const event of ['prefinish', 'finish', 'close', 'error', 'timeout', 'drain'])
            res.on(event, note(`res.${event}`))
          special[String(req.headers['x-do'])]?.(call)
          await sleep(Number(req.headers['x-wait'] ?? 0))
          return { canary: canary(own, 1) }
        }
        return {
          '/': { handle },
          '/optional': { mode: 'optional', handle },
          '/central': { mode: 'central', handle },
        }
      }
    }

    const expectOwnOrNone = (notes: readonly Noted[]): void => {
      expect(notes.filter(({ own, seen }) => seen !== own && seen !== 'none')).toEqual([])
    }
    const line = (tenant: string | undefined, path = '/', ...more: string[]): string =>
      [
        `GET ${path} HTTP/1.1`,
        'Host: x.io',
        ...(tenant === undefined ? [] : [`X-Tenant-ID: ${tenant}`]),
        ...more,
        '\r\n',
      ].join('\r\n')

    test('C3 with pipelined requests of two tenants on one socket, the first answered last', async () => {
      const notes: Noted[] = []
      await using f = await start(host, listening(notes))
      using client = await RawClient.open(f.port)
      const order = ['acme', 'globex', undefined, 'acme', 'globex', 'central', 'globex', 'acme']
      client.write(
        order
          .map((who, n) => {
            const wait = `X-Wait: ${n === 0 ? 60 : n}`
            if (who === 'central') return line('acme', '/central', wait)
            return line(who, who === undefined ? '/optional' : '/', wait)
          })
          .join(''),
      )
      for (const who of order) {
        const answer = await client.answer()
        const own = who === undefined || who === 'central' ? 'none' : who
        expect(JSON.parse(answer.body)).toEqual({ canary: canary(own, 1) })
      }
      await eventually(
        () => notes.filter(({ event }) => event === 'res.close').length === order.length,
      )
      expectOwnOrNone(notes)
      // What is stronger: a tenant's own listeners do run in its context.
      const finished = notes.filter(({ event }) => event === 'res.finish')
      expect(finished.map(({ own, seen }) => [own, seen])).toEqual(
        finished.map(({ own }) => [own, own]),
      )
    })

    test('C3 with pipelined requests of two tenancies on one socket', async () => {
      const tenancies = [1, 2].map(() =>
        createTenancy({
          store: memoryTenantStore(TENANTS.map((id) => ({ id }))),
          resolve: [header('X-Tenant-ID')],
          authorize: () => true,
        }),
      ) as [Tenancy, Tenancy]
      const active = (): string =>
        tenancies.map(({ context }) => context.current()?.tenant.id ?? context.mode()).join(' ')
      const seen: string[] = []
      const route =
        (kind: string): Route['handle'] =>
        async ({ req, res, tenantId }) => {
          const own = `${kind} ${tenantId ?? 'none'}`
          res.on('finish', () => seen.push(`${own}: ${active()}`))
          await sleep(Number(req.headers['x-wait']))
          res.end(own)
          return undefined
        }
      await using first = await host.start(tenancies[0], {
        routes: {
          '/': { handle: route('first') },
          '/central': { mode: 'central', handle: route('central') },
        },
      })
      await using second = await host.start(tenancies[1], {
        routes: { '/second': { mode: 'optional', handle: route('second') } },
      })
      // Both behind one server, as two walls in one process.
      const one = first.server.listeners('request')[0] as RequestListener
      const two = second.server.listeners('request')[0] as RequestListener
      first.server.removeListener('request', one)
      first.server.on('request', (req, res) => (req.url === '/second' ? two : one)(req, res))
      using client = await RawClient.open(first.port)
      const order = [
        ['acme', '/'],
        [undefined, '/second'],
        ['globex', '/second'],
        [undefined, '/central'],
        [undefined, '/second'],
      ] as const
      client.write(
        order.map(([who, path], n) => line(who, path, `X-Wait: ${n % 3 === 0 ? 50 : 1}`)).join(''),
      )
      await eventually(() => seen.length === order.length)
      expect(seen).toEqual([
        'first acme: acme none',
        'second none: none none',
        'second globex: none globex',
        'central none: none none',
        'second none: none none',
      ])
      for (const tenancy of tenancies) await tenancy.close()
    })

    test('C3 callbacks of writes run as whoever wrote, with pipelined requests of two tenants', async () => {
      const seen: [string, string | undefined][] = []
      await using f = await start(host, (tenancy) => ({
        '/': {
          async handle({ req, res, tenantId }) {
            const own = tenantId ?? 'none'
            await sleep(Number(req.headers['x-wait']))
            res.write('x', () => void seen.push([own, tenancy.current()?.tenant.id]))
            res.end('y', () => void seen.push([own, tenancy.current()?.tenant.id]))
            return undefined
          },
        },
      }))
      using client = await RawClient.open(f.port)
      const order = ['acme', 'globex', 'acme', 'globex']
      client.write(order.map((who, n) => line(who, '/', `X-Wait: ${n === 0 ? 60 : n}`)).join(''))
      await eventually(() => seen.length === 2 * order.length)
      expect(seen.filter(([own, active]) => own !== active)).toEqual([])
    })

    test('C3 when one request destroys the socket under the others', async () => {
      const notes: Noted[] = []
      await using f = await start(
        host,
        listening(notes, { destroy: ({ req }) => void req.socket.destroy() }),
      )
      using client = await RawClient.open(f.port)
      client.write(
        line('acme', '/', 'X-Wait: 40') +
          line('globex', '/', 'X-Wait: 40') +
          line('acme', '/', 'X-Do: destroy') +
          line('globex', '/', 'X-Wait: 40'),
      )
      await once(client.socket, 'close')
      await eventually(() => notes.filter(({ event }) => event === 'req.close').length >= 3)
      await sleep(60)
      expectOwnOrNone(notes)
    })

    test('C3 when a timeout that one request set fires in the next one on the socket', async () => {
      const notes: Noted[] = []
      await using f = await start(
        host,
        listening(notes, { timer: ({ req }) => void req.socket.setTimeout(150) }),
      )
      // With it, Node sets a timeout of its own between two requests.
      f.host.server.keepAliveTimeout = 0
      f.host.server.timeout = 0
      f.host.server.on('timeout', () => {})
      using client = await RawClient.open(f.port)
      client.write(line('acme', '/', 'X-Do: timer'))
      await client.answer()
      client.write(line('globex', '/', 'X-Wait: 400'))
      await client.answer()
      expect(
        notes.filter(({ own, event }) => own === 'globex' && event === 'res.timeout'),
      ).not.toEqual([])
      expectOwnOrNone(notes)
    })

    test('C3 with clients that hang up half way, on interleaved keep-alive sockets', async () => {
      const notes: Noted[] = []
      await using f = await start(host, listening(notes))
      await Promise.all(
        Array.from({ length: 20 }, async (_, n) => {
          using client = await RawClient.open(f.port)
          for (let round = 0; round < 4; round++) {
            const tenant = TENANTS[(n + round) % 2] ?? 'acme'
            client.write(line(tenant, '/', `X-Wait: ${(n * 7 + round) % 5}`))
            expect(foreignCanaries((await client.answer()).body, tenant)).toEqual([])
          }
          client.write(line(TENANTS[n % 2], '/', 'X-Wait: 20'))
          await sleep(5)
        }),
      )
      await eventually(() => notes.filter(({ event }) => event === 'res.close').length === 100)
      expectOwnOrNone(notes)
    })
  })

  test('C8 detached work after the answer is still the tenant’s, whatever the socket does next', async () => {
    const late: [string, string | undefined][] = []
    await using f = await start(host, (tenancy) => ({
      '/': {
        handle({ tenantId }) {
          const own = tenantId ?? 'none'
          void (async () => {
            await sleep(20)
            late.push([own, tenancy.current()?.tenant.id])
            await tenancy.run(own, async () => immediate())
            late.push([own, tenancy.require().tenant.id])
          })()
          return { canary: canary(own, 1) }
        },
      },
    }))
    using client = await RawClient.open(f.port)
    for (let n = 0; n < 10; n++)
      await client.request(['GET / HTTP/1.1', 'Host: x.io', `X-Tenant-ID: ${TENANTS[n % 2]}`])
    await eventually(() => late.length === 20)
    expect(late.filter(([own, seen]) => own !== seen)).toEqual([])
    expect(late.filter(([own]) => own === 'globex')).toHaveLength(10)
  })

  describe('I3 routes without a tenant', () => {
    const pools: TenantPool[] = []
    const routes = (tenancy: Tenancy): HostOptions['routes'] => {
      // Nobody listens there: a statement that left the process would fail in another way.
      const pool = new TenantPool(tenancy, { host: '127.0.0.1', port: 1, user: 'nobody' })
      pools.push(pool)
      const handle = async ({ tenantId }: Call): Promise<unknown> => {
        const code = await pool.query('select 1').then(
          () => 'answered',
          (error: { code?: string }) => error.code,
        )
        return { tenantId: tenantId ?? null, mode: tenancy.context.mode(), code }
      }
      return {
        '/required': { handle },
        '/optional': { mode: 'optional', handle },
        '/central': { mode: 'central', handle },
        '/unguarded': { mode: 'optional', handle: () => pool.query('select 1') },
      }
    }
    const get = (path: string, ...headers: string[]): string[] => [
      `GET ${path} HTTP/1.1`,
      'Host: x.io',
      ...headers,
    ]

    test('I3 a tenant route without a tenant is an error and its handler does not run', async () => {
      await using f = await start(host, routes)
      const answer = await send(f.port, get('/required'))
      expect(answer.status).toBe(400)
      expect(problem(answer)).toMatchObject({ code: 'ERR_TENANCY_IDENTIFIER_MISSING' })
      expect(answer.headers['vary']).toBe('X-Tenant-ID')
    })

    test('I3 an optional route without a tenant has no context, and tenant resources refuse', async () => {
      await using f = await start(host, routes)
      const answer = await send(f.port, get('/optional'))
      expect(JSON.parse(answer.body)).toEqual({
        tenantId: null,
        mode: 'none',
        code: 'ERR_TENANCY_CONTEXT_MISSING',
      })
      const named = await send(f.port, get('/optional', 'X-Tenant-ID: acme'))
      expect(JSON.parse(named.body)).toMatchObject({ tenantId: 'acme', mode: 'tenant' })
    })

    test('I3 a central route has none even where the request names one, and tenant resources refuse', async () => {
      await using f = await start(host, routes)
      const reasons: string[] = []
      f.tenancy.on('context:centralized', ({ reason }) => reasons.push(reason))
      const answer = await send(f.port, get('/central', 'X-Tenant-ID: acme'))
      expect(JSON.parse(answer.body)).toEqual({
        tenantId: null,
        mode: 'central',
        code: 'ERR_TENANCY_CONTEXT_MISSING',
      })
      expect(reasons).toEqual(['route GET /central'])
    })

    test('I3 what a tenant resource refuses is answered without telling why', async () => {
      await using f = await start(host, routes)
      const answer = await send(f.port, get('/unguarded'))
      expect(answer.status).toBe(500)
      expect(problem(answer)).toMatchObject({
        code: 'ERR_TENANCY_CONTEXT_MISSING',
        title: 'Internal Server Error',
      })
      expect(answer.body).not.toMatch(/hint|stack|cause|select|schema|tenancy\.run/)
    })
  })
})
