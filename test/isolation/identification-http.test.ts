import { createServer, request as httpRequest, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  type AuthorizeInput,
  claim,
  createTenancy,
  domain,
  fallback,
  header,
  MemoryTenantStore,
  path,
  subdomain,
  type Tenancy,
  type TenancyOptions,
  type TenancyRequest,
  type Tenant,
} from '@partywall/core'
import { collectWarnings, eventually } from '@partywall/test-support'
import { describe, expect, test } from 'vitest'
import {
  HOSTS,
  type HostKind,
  type HostOptions,
  problem,
  type RawAnswer,
  RawClient,
  type RunningHost,
  send,
} from './http-hosts.ts'

/** Counts every look-up, so that a test can say that there was none. */
class CountingStore extends MemoryTenantStore {
  lookups = 0

  override findById(id: string): Promise<Tenant | undefined> {
    this.lookups++
    return super.findById(id)
  }

  override findByDomain(name: string): Promise<Tenant | undefined> {
    this.lookups++
    return super.findByDomain(name)
  }
}

interface Fixture extends AsyncDisposable {
  readonly port: number
  readonly tenancy: Tenancy
  readonly store: CountingStore
  /** Tenants that the handler ran for, in order. */
  readonly handled: (string | undefined)[]
  /** Tenants that `authorize` was asked about. */
  readonly asked: string[]
}

type Options = Partial<Pick<TenancyOptions, 'resolve' | 'authorize' | 'reveal'>> &
  Partial<HostOptions>

async function start(host: HostKind, options: Options = {}): Promise<Fixture> {
  const { resolve = [header('X-Tenant-ID')], authorize = () => true, reveal, ...rest } = options
  const store = new CountingStore([
    { id: 'acme', domains: ['shop.acme.example'] },
    { id: 'globex', domains: ['shop.globex.example'] },
    { id: 'zorro' },
    { id: 'gone', status: 'suspended' },
    { id: 'quiet', ingress: false },
    { id: 'public-site' },
  ])
  const asked: string[] = []
  const tenancy = createTenancy({
    store,
    resolve,
    reveal,
    authorize: (input) => {
      asked.push(input.tenant.id)
      return authorize(input)
    },
  })
  const handled: (string | undefined)[] = []
  const handle = (): object => {
    handled.push(tenancy.current()?.tenant.id)
    return { tenant: tenancy.current()?.tenant.id ?? null, canary: tenancy.current()?.tenant.name }
  }
  const running: RunningHost = await host.start(tenancy, {
    routes: { '/': { handle }, '/orders': { handle }, ...rest.routes },
    ...(rest.trustProxy === undefined ? {} : { trustProxy: rest.trustProxy }),
  })
  return {
    port: running.port,
    tenancy,
    store,
    handled,
    asked,
    async [Symbol.asyncDispose]() {
      await running[Symbol.asyncDispose]()
      await tenancy.close()
    },
  }
}

const get = (target: string, ...headers: string[]): string[] => [
  `GET ${target} HTTP/1.1`,
  ...headers,
]
const HOST = 'Host: x.io'

/** What an authentication in front has verified, here written into a header by the test. */
function claimsOfUser(request: TenancyRequest): { tid: string | undefined } | undefined {
  const user = request.header('x-user')
  return user === undefined ? undefined : { tid: user.split('@')[1] }
}

/** The request was refused, and nothing of the application or of a tenant was touched on the way. */
function expectUntouched(fixture: Fixture, answer: RawAnswer, status: number, code: string): void {
  expect(answer.status).toBe(status)
  expect(answer.headers['content-type']).toBe('application/problem+json')
  expect(problem(answer)).toMatchObject({ status, code })
  expect(fixture.handled).toEqual([])
}

describe.each(HOSTS)('identification on $name', (host) => {
  const member = ({ request, tenant }: AuthorizeInput): boolean =>
    request.header('authorization') === `Bearer ann@${tenant.id}`

  test('I1 a tenant header without an identity that is allowed in that tenant never selects it', async () => {
    await using f = await start(host, { authorize: member })
    const anonymous = await send(f.port, get('/orders', HOST, 'X-Tenant-ID: acme'))
    expectUntouched(f, anonymous, 404, 'ERR_TENANCY_TENANT_UNKNOWN')
    const stranger = await send(
      f.port,
      get('/orders', HOST, 'X-Tenant-ID: acme', 'Authorization: Bearer ann@globex'),
    )
    expectUntouched(f, stranger, 404, 'ERR_TENANCY_TENANT_UNKNOWN')
    expect(f.asked).toEqual(['acme', 'acme'])
    for (const id of ['acme', 'globex']) {
      const own = await send(
        f.port,
        get('/orders', HOST, `X-Tenant-ID: ${id}`, `Authorization: Bearer ann@${id}`),
      )
      expect(JSON.parse(own.body)).toEqual({ tenant: id, canary: id })
    }
  })

  test('I1 header and token that disagree are refused before anything is asked', async () => {
    await using f = await start(host, {
      resolve: [header('X-Tenant-ID'), claim('tid', { claims: claimsOfUser })],
    })
    const answer = await send(
      f.port,
      get('/orders', HOST, 'X-Tenant-ID: acme', 'X-User: ann@globex'),
    )
    expectUntouched(f, answer, 400, 'ERR_TENANCY_SOURCES_DISAGREE')
    expect(f.asked).toEqual([])
    expect(f.store.lookups).toBe(0)
    const agreed = await send(f.port, get('/orders', HOST, 'X-Tenant-ID: acme', 'X-User: ann@acme'))
    expect(agreed.status).toBe(200)
  })

  const sources = [header('X-Tenant-ID'), subdomain({ of: 'x.io' }), path({ prefix: '/t' })]
  test.each([
    ['header', ['X-Tenant-ID: nobody', HOST], '/orders'],
    ['host', ['Host: nobody.x.io'], '/orders'],
    ['domain', ['Host: shop.nobody.example'], '/orders'],
    ['path', [HOST], '/t/nobody/orders'],
    ['claim', [HOST, 'X-User: ann@nobody'], '/orders'],
  ])(
    'I2 an unknown tenant by %s is a 404 and never the default or the first one',
    async (_source, headers, target) => {
      await using f = await start(host, {
        resolve: [
          ...sources,
          domain({ own: 'x.io' }),
          claim('tid', { claims: claimsOfUser }),
          fallback('public-site'),
        ],
        routes: { '/t/nobody/orders': { handle: () => ({ leaked: true }) } },
      })
      const answer = await send(f.port, get(target, ...headers))
      expectUntouched(f, answer, 404, 'ERR_TENANCY_TENANT_UNKNOWN')
      expect(f.asked).toEqual([])
      // The control: without any source, the default tenant does answer.
      const control = await send(f.port, get('/orders', HOST))
      expect(JSON.parse(control.body)).toMatchObject({ tenant: 'public-site' })
    },
  )

  test('I2 unknown, suspended, ingress-disabled and forbidden tenants are answered alike, byte for byte', async () => {
    await using f = await start(host, { authorize: member })
    const answers: RawAnswer[] = []
    for (const id of ['nobody', 'gone', 'quiet', 'acme'])
      answers.push(await send(f.port, get('/orders', HOST, `X-Tenant-ID: ${id}`)))
    const seen = answers.map(({ status, headers, body }) => {
      const { date: _date, ...others } = headers
      return JSON.stringify([status, others, body]).replace(
        /"requestId\\":\\"[^"]*"|content-length":"\d+"/g,
        '',
      )
    })
    expect(new Set(seen).size).toBe(1)
    expect(seen[0]).not.toMatch(/nobody|gone|quiet|acme|schema|stack|cause/)
    expect(answers[0]?.headers['vary']).toBe('X-Tenant-ID')
    expect(f.handled).toEqual([])
  })

  test.each([
    ['repeated', ['X-Tenant-ID: acme', 'X-Tenant-ID: globex'], 'ERR_TENANCY_IDENTIFIER_AMBIGUOUS'],
    [
      'repeated with one value',
      ['X-Tenant-ID: acme', 'x-tenant-id: acme'],
      'ERR_TENANCY_IDENTIFIER_AMBIGUOUS',
    ],
    ['comma-joined', ['X-Tenant-ID: acme, globex'], 'ERR_TENANCY_IDENTIFIER_AMBIGUOUS'],
    ['empty', ['X-Tenant-ID:'], 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['in upper case', ['X-Tenant-ID: ACME'], 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['latin-1', ['X-Tenant-ID: acm\u00e9'], 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['SQL', [`X-Tenant-ID: acme"; drop schema globex`], 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['with underscores', ['X_Tenant_ID: acme'], 'ERR_TENANCY_IDENTIFIER_MISSING'],
  ])('I4 a tenant header that is %s is a 400', async (_how, headers, code) => {
    await using f = await start(host)
    const answer = await send(f.port, get('/orders', HOST, ...headers))
    expectUntouched(f, answer, 400, code)
    expect(f.asked).toEqual([])
    expect(f.store.lookups).toBe(0)
  })

  describe('I5 the forwarded host', () => {
    const resolve = [subdomain({ of: 'x.io' })]

    test('I5 counts from a trusted peer only', async () => {
      await using trusting = await start(host, { resolve, trustProxy: 'loopback' })
      await using distrusting = await start(host, { resolve, trustProxy: '10.0.0.0/8' })
      await using unaware = await start(host, { resolve })
      const lines = get('/orders', 'Host: acme.x.io', 'X-Forwarded-Host: globex.x.io:443')
      for (const [f, tenant] of [
        [trusting, 'globex'],
        [distrusting, 'acme'],
        [unaware, 'acme'],
      ] as const)
        expect(JSON.parse((await send(f.port, lines)).body)).toMatchObject({ tenant })
    })

    test.each([
      ['joined', ['X-Forwarded-Host: acme.x.io, globex.x.io']],
      ['joined the other way round', ['X-Forwarded-Host: globex.x.io, acme.x.io']],
      ['repeated', ['X-Forwarded-Host: acme.x.io', 'X-Forwarded-Host: globex.x.io']],
    ])(
      'I5 %s hosts of a trusted peer are a 400, and of another one no tenant of theirs',
      async (_how, headers) => {
        await using trusting = await start(host, { resolve, trustProxy: 'loopback' })
        const answer = await send(trusting.port, get('/orders', 'Host: zorro.x.io', ...headers))
        expectUntouched(trusting, answer, 400, 'ERR_TENANCY_HOST_INVALID')
        expect(trusting.store.lookups).toBe(0)
        await using distrusting = await start(host, { resolve, trustProxy: '10.0.0.0/8' })
        const ignored = await send(distrusting.port, get('/orders', 'Host: zorro.x.io', ...headers))
        expect(JSON.parse(ignored.body)).toMatchObject({ tenant: 'zorro' })
      },
    )

    test.each([
      [['Host: acme.x.io', 'Host: globex.x.io']],
      [['Host: acme.x.io', 'host: acme.x.io']],
      [['Host: acme.x.io', 'Host: globex.x.io', 'X-Forwarded-Host: acme.x.io']],
    ])('I5 two Host lines are a 400: %j', async (headers) => {
      await using f = await start(host, { resolve, trustProxy: 'loopback' })
      const answer = await send(f.port, get('/orders', ...headers))
      expect(answer.status).toBe(400)
      expect(f.handled).toEqual([])
      expect(f.store.lookups).toBe(0)
    })

    test.each([
      '::ffff:0:0/96',
      '::ffff:10.0.0.0/8',
      '::ffff:a00:0/104',
      '0:0:0:0:0:ffff:10.1.2.3/120',
      '::/1',
      '::/64',
    ])('I5 trust in the mapped subnet %s is refused at load', async (subnet) => {
      const attempt = async (): Promise<RawAnswer> => {
        await using f = await start(host, { resolve, trustProxy: ['10.0.0.0/8', subnet] })
        return await send(f.port, get('/orders', 'Host: acme.x.io'))
      }
      if (host.name === 'fastify')
        await expect(attempt()).rejects.toMatchObject({ code: 'ERR_TENANCY_OPTION_INVALID' })
      else expect(problem(await attempt())).toMatchObject({ code: 'ERR_TENANCY_OPTION_INVALID' })
    })

    test.each(['10.0.0.0/8', '::ffff:10.0.0.1', 'fd00::/8', 'loopback, uniquelocal'])(
      'I5 trust in %s is accepted',
      async (trustProxy) => {
        await using f = await start(host, { resolve, trustProxy })
        expect((await send(f.port, get('/orders', 'Host: acme.x.io'))).status).toBe(200)
      },
    )

    test('I5 trust in every peer is warned of once, and only where hosts name tenants', async () => {
      using warnings = collectWarnings()
      const code = 'PARTYWALL_PERMISSIVE_TRUST_PROXY'
      await using byHeader = await start(host, { trustProxy: true })
      await send(byHeader.port, get('/orders', HOST, 'X-Tenant-ID: acme'))
      await using byHost = await start(host, { resolve, trustProxy: true })
      await send(byHost.port, get('/orders', 'Host: acme.x.io'))
      await send(byHost.port, get('/orders', 'Host: globex.x.io'))
      await eventually(() => warnings.withCode(code).length > 0)
      process.emitWarning('after', { code: 'AFTER' })
      await eventually(() => warnings.withCode('AFTER').length > 0)
      expect(warnings.withCode(code)).toHaveLength(1)
    })
  })

  test('I6 a tenant header that Connection declares hop-by-hop never becomes the default tenant', async () => {
    await using f = await start(host, { resolve: [header('X-Tenant-ID'), fallback('public-site')] })
    await using strict = await start(host)
    const lines = get('/orders', HOST, 'Connection: close, X-Tenant-ID', 'X-Tenant-ID: acme')
    const direct = await send(f.port, lines)
    expectUntouched(f, direct, 400, 'ERR_TENANCY_IDENTIFIER_AMBIGUOUS')
    expect(f.store.lookups).toBe(0)
    await using proxy = await stripping(strict.port)
    expectUntouched(strict, await send(proxy.port, lines), 400, 'ERR_TENANCY_IDENTIFIER_MISSING')
    expect(strict.store.lookups).toBe(0)
    // The control: the same proxy passes the header on where it is not declared hop-by-hop.
    const control = await send(proxy.port, get('/orders', HOST, 'X-Tenant-ID: acme'))
    expect(JSON.parse(control.body)).toMatchObject({ tenant: 'acme' })
  })

  describe('I7 host forms', () => {
    const MISSING = 'ERR_TENANCY_IDENTIFIER_MISSING'
    const MALFORMED = 'ERR_TENANCY_HOST_INVALID'
    test.each([
      ['acme.x.io', 'acme'],
      ['ACME.X.io', 'acme'],
      ['acme.x.io.', 'acme'],
      ['acme.x.io:8080', 'acme'],
      ['globex.x.io.:443', 'globex'],
      ['acme.localhost', 'acme'],
      ['x.io', MISSING],
      ['www.x.io', MISSING],
      ['localhost:3000', MISSING],
      ['127.0.0.1', MISSING],
      ['[::1]:80', MISSING],
      ['acme.evil-x.io', MISSING],
      ['evilx.io', MISSING],
      ['acme.x.io:443:globex', MALFORMED],
      ['globex.x.io@acme.x.io', MALFORMED],
      ['*.x.io', MALFORMED],
      ['acme.x.io:99999', MALFORMED],
      ['acme..x.io', MALFORMED],
      ['.x.io', MALFORMED],
      ['acme.x.io, globex.x.io', MALFORMED],
      ['acme.x.io/globex', MALFORMED],
      ['[::1', MALFORMED],
      ['', MALFORMED],
      ['a.acme.x.io', 'ERR_TENANCY_IDENTIFIER_INVALID'],
      ['ac_me.x.io', 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ])('I7 Host %j gives %s', async (value, expected) => {
      await using f = await start(host, { resolve: [subdomain({ of: 'x.io' })] })
      const answer = await send(f.port, get('/orders', `Host: ${value}`))
      if (!expected.startsWith('ERR_')) {
        expect(JSON.parse(answer.body)).toEqual({ tenant: expected, canary: expected })
        return
      }
      expectUntouched(f, answer, 400, expected)
      expect(f.asked).toEqual([])
      expect(f.store.lookups).toBe(0)
    })

    test('I7 HTTP/1.0 without a host names no tenant', async () => {
      await using f = await start(host, { resolve: [subdomain({ of: 'x.io' })] })
      const answer = await send(f.port, ['GET /orders HTTP/1.0'])
      expectUntouched(f, answer, 400, MISSING)
    })
  })

  test.each([
    'http://globex.x.io/orders',
    'HTTP://globex.x.io/t/globex',
    '/t%2fglobex',
    '/t/acme%2f..%2fglobex',
    '/t/acme/../globex',
    '/t/acme/%2e%2e/globex',
    '//globex/t/acme',
    '/t//globex',
    '/t/%67lobex',
    '/t/acme\\..\\globex',
  ])('I8 the target %s cannot make resolver and router disagree', async (target) => {
    const seen: string[] = []
    const see = (tag: string) => ({
      handle: () => {
        seen.push(tag)
        return { tag }
      },
    })
    await using f = await start(host, {
      resolve: [path({ prefix: '/t' }), subdomain({ of: 'x.io' })],
      routes: { '/t/acme': see('acme'), '/t/globex': see('globex'), '/t/:id': see('any') },
    })
    const answer = await send(f.port, get(target, 'Host: acme.x.io'))
    // 404 where the router had no such route, which Fastify finds out first.
    expect([400, 404]).toContain(answer.status)
    expect(answer.body).not.toContain('canary')
    expect(seen).toEqual([])
    expect(f.handled).toEqual([])
    const control = await send(f.port, get('/t/acme', 'Host: acme.x.io'))
    expect(control.status).toBe(200)
    expect(seen).toEqual(['acme'])
  })

  test.each([
    ['suspend', { status: 'suspended' }],
    ['ingress off', { ingress: false }],
    ['archive', { status: 'archived' }],
  ] as const)(
    'I11 %s takes effect on the next request of a kept-alive socket',
    async (_what, changes) => {
      await using f = await start(host)
      await f.tenancy.ready()
      using client = await RawClient.open(f.port)
      const lines = (id: string) => get('/orders', HOST, `X-Tenant-ID: ${id}`)
      expect((await client.request(lines('acme'))).status).toBe(200)
      f.store.update('acme', changes)
      const refused = await client.request(lines('acme'))
      expect(refused.status).toBe(404)
      expect((await client.request(lines('globex'))).status).toBe(200)
      f.store.update('acme', { status: 'active', ingress: true })
      expect((await client.request(lines('acme'))).status).toBe(200)
      f.store.delete('acme')
      expect((await client.request(lines('acme'))).status).toBe(404)
      expect(f.handled).toEqual(['acme', 'globex', 'acme'])
    },
  )

  test('an unknown route needs no tenant and learns nothing', async () => {
    await using f = await start(host)
    const answer = await send(f.port, get('/nowhere', HOST))
    // Express runs its middleware before it knows the route.
    expect(answer.status).toBe(host.name === 'fastify' ? 404 : 400)
    expect(answer.body).not.toMatch(/acme|globex/)
    expect(f.store.lookups).toBe(0)
  })
})

/** A proxy that does what RFC 9110, 7.6.1 asks of it: it drops what `Connection` names. */
async function stripping(target: number): Promise<AsyncDisposable & { readonly port: number }> {
  const server: Server = createServer((req, res) => {
    const headers = { ...req.headers }
    for (const name of (headers.connection ?? '').split(','))
      delete headers[name.trim().toLowerCase()]
    delete headers.connection
    const onward = httpRequest(
      { port: target, host: '127.0.0.1', method: req.method, path: req.url, headers, agent: false },
      (answer) => {
        res.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(res)
      },
    )
    req.pipe(onward)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
