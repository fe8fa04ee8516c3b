import {
  type AuthorizeInput,
  claim,
  createTenancy,
  createTenant,
  domain,
  fallback,
  header,
  MemoryTenantStore,
  path,
  subdomain,
  type TenancyError,
  type TenancyOptions,
  type TenancyRequest,
  type Tenant,
} from '@partywall/core'
import { seededRandom } from '@partywall/test-support'
import { createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify, SignJWT } from 'jose'
import { beforeAll, describe, expect, test } from 'vitest'

/** Counts every look-up, so that a test can say that there was none. */
class CountingStore extends MemoryTenantStore {
  calls = 0

  override findById(id: string): Promise<Tenant | undefined> {
    this.calls += 1
    return super.findById(id)
  }

  override findByDomain(name: string): Promise<Tenant | undefined> {
    this.calls += 1
    return super.findByDomain(name)
  }
}

interface RequestParts {
  readonly headers?: Readonly<Record<string, string>>
  readonly host?: string | null
  readonly target?: string
}

const ids = ['acme', 'globex', 'zorg']

/** An application in miniature: what a host adapter does, with everything counted that must not happen to a refused request. */
async function setUp(options: Partial<TenancyOptions> = {}) {
  const store = new CountingStore(
    ids.map((id) => ({ id, name: `canary of ${id}`, domains: [`${id}.example`] })),
  )
  const counts = { authorize: 0, handler: 0 }
  const tenancy = createTenancy({
    store,
    resolve: [
      header('X-Tenant-ID'),
      subdomain({ of: 'x.io' }),
      path({ prefix: '/t' }),
      fallback('public'),
    ],
    ...options,
    authorize: (input: AuthorizeInput) => {
      counts.authorize += 1
      return options.authorize?.(input) ?? true
    },
  })
  await tenancy.ready()

  const requestOf = ({ headers = {}, host, target = '/' }: RequestParts): TenancyRequest => ({
    raw: undefined,
    method: 'GET',
    target,
    authority: host,
    header: (name) => (Object.hasOwn(headers, name) ? headers[name] : undefined),
  })

  async function send(parts: RequestParts): Promise<string> {
    const scope = await tenancy.resolve(requestOf(parts))
    if (scope === undefined) throw new Error('No tenant and no default one.')
    return tenancy.run(scope, () => {
      counts.handler += 1
      return tenancy.require().tenant.name
    })
  }

  /** Sends a request that must be refused, and asserts that nothing ran for it. */
  async function refusal(parts: RequestParts, storeCalls: number): Promise<TenancyError> {
    const before = { ...counts, calls: store.calls }
    const error = await send(parts).then(
      (answer) => {
        throw new Error(`${JSON.stringify(parts)} was let in and saw ${answer}.`)
      },
      (cause: TenancyError) => cause,
    )
    expect({ ...counts, calls: store.calls }, JSON.stringify(parts)).toEqual({
      ...before,
      calls: before.calls + storeCalls,
    })
    return error
  }
  return { store, counts, tenancy, send, refusal }
}

describe('I2', () => {
  test.each<[string, RequestParts]>([
    ['header', { headers: { 'x-tenant-id': 'hooli' } }],
    ['host', { host: 'hooli.x.io' }],
    ['path', { target: '/t/hooli/orders' }],
  ])('I2 an unknown tenant by %s is a 404 with one look-up and nothing else', async (_, parts) => {
    const { send, refusal, counts } = await setUp()
    const error = await refusal(parts, 1)
    expect(error).toMatchObject({ code: 'ERR_TENANCY_TENANT_UNKNOWN', status: 404 })
    // The second time not even that.
    await refusal(parts, 0)
    expect(await send({ headers: { 'x-tenant-id': 'acme' } })).toBe('canary of acme')
    expect(counts).toEqual({ authorize: 1, handler: 1 })
  })

  test('I2 an unknown custom domain is a 404, neither the default nor the first tenant', async () => {
    const { send, refusal } = await setUp({
      resolve: [domain({ own: 'x.io' }), fallback('public')],
    })
    expect(await refusal({ host: 'hooli.example' }, 1)).toMatchObject({
      code: 'ERR_TENANCY_TENANT_UNKNOWN',
      status: 404,
    })
    expect(await send({ host: 'acme.example' })).toBe('canary of acme')
    expect(await send({ host: 'globex.example' })).toBe('canary of globex')
    expect(await send({ host: 'x.io' })).toBe('public')
  })
})

describe('I3', () => {
  test('I3 a request without a tenant gets none, and whatever needs one throws', async () => {
    const { tenancy, counts, store } = await setUp({ resolve: [header('X-Tenant-ID')] })
    const scope = await tenancy.resolve({
      raw: undefined,
      method: 'GET',
      target: '/',
      authority: 'acme.x.io',
      header: () => undefined,
    })
    expect(scope).toBeUndefined()
    expect(() => tenancy.require()).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_MISSING' }),
    )
    tenancy.central('a central route', () => {
      expect(tenancy.current()).toBeUndefined()
      expect(() => tenancy.require()).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_MISSING' }),
      )
    })
    expect({ ...counts, calls: store.calls }).toEqual({ authorize: 0, handler: 0, calls: 0 })
  })
})

describe('I4', () => {
  test.each(['acme, globex', 'acme,globex', 'acme, acme', ',acme', 'acme,'])(
    'I4 the joined header %j is a 400',
    async (value) => {
      const { refusal } = await setUp()
      expect(await refusal({ headers: { 'x-tenant-id': value } }, 0)).toMatchObject({
        code: 'ERR_TENANCY_IDENTIFIER_AMBIGUOUS',
        status: 400,
      })
    },
  )

  test('I4 X_Tenant_ID is not X-Tenant-ID', async () => {
    const { send } = await setUp()
    expect(await send({ headers: { x_tenant_id: 'acme' } })).toBe('public')
    expect(await send({ headers: { x_tenant_id: 'globex', 'x-tenant-id': 'acme' } })).toBe(
      'canary of acme',
    )
  })
})

describe('I7', () => {
  test.each([
    'acme.x.io',
    'ACME.x.IO',
    'acme.x.io.',
    'acme.x.io:443',
    'acme.x.io.:8443',
    'acme.localhost:3000',
  ])('I7 %s is acme', async (host) => {
    const { send } = await setUp()
    expect(await send({ host })).toBe('canary of acme')
  })

  test.each<[string | null, string]>([
    ['acme.x.io:443:globex', 'ERR_TENANCY_HOST_INVALID'],
    ['globex.x.io@acme.x.io', 'ERR_TENANCY_HOST_INVALID'],
    ['acme.x.io, globex.x.io', 'ERR_TENANCY_HOST_INVALID'],
    ['*.x.io', 'ERR_TENANCY_HOST_INVALID'],
    ['', 'ERR_TENANCY_HOST_INVALID'],
    ['.', 'ERR_TENANCY_HOST_INVALID'],
    ['acme..x.io', 'ERR_TENANCY_HOST_INVALID'],
    ['acme.x.io\u0000', 'ERR_TENANCY_HOST_INVALID'],
    ['\u212Aiwi.x.io', 'ERR_TENANCY_HOST_INVALID'],
    [`${'a'.repeat(64)}.x.io`, 'ERR_TENANCY_HOST_INVALID'],
    [`${'ab.'.repeat(83)}abx.io`, 'ERR_TENANCY_HOST_INVALID'],
    [null, 'ERR_TENANCY_HOST_INVALID'],
    ['globex.acme.x.io', 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['ac_me.x.io', 'ERR_TENANCY_IDENTIFIER_INVALID'],
  ])('I7 the host %j is a 400, never a tenant and never the default one', async (host, code) => {
    const { refusal } = await setUp()
    expect(await refusal({ host }, 0)).toMatchObject({ code, status: 400 })
  })

  test.each([
    undefined,
    'x.io',
    'www.x.io',
    'localhost',
    '127.0.0.1',
    '[::1]:80',
    'acme.evil-x.io',
  ])('I7 the host %j names no tenant', async (host) => {
    const { send } = await setUp()
    expect(await send(host === undefined ? {} : { host })).toBe('public')
  })
})

describe('I8', () => {
  test.each([
    'http://globex.x.io/t/acme',
    'https://globex.x.io/',
    'globex.x.io:443',
    '//t/acme',
    '/t//acme',
    '/t/globex/../acme',
    '/t/globex/%2e%2e/acme',
    '/t/acme%2f..%2fglobex',
    '/t/%61cme',
    '/%74/acme',
    '/t/globex\\..\\acme',
    '/t/globex/x\\..\\..\\acme',
  ])('I8 the target %s is a 400', async (target) => {
    const { refusal } = await setUp()
    expect(await refusal({ target, host: 'acme.x.io' }, 0)).toMatchObject({
      code: 'ERR_TENANCY_REQUEST_TARGET_INVALID',
      status: 400,
    })
  })

  test('I8 path and host must agree', async () => {
    const { send, refusal } = await setUp()
    expect(await send({ target: '/t/acme/orders', host: 'acme.x.io' })).toBe('canary of acme')
    expect(await refusal({ target: '/t/acme/orders', host: 'globex.x.io' }, 0)).toMatchObject({
      code: 'ERR_TENANCY_SOURCES_DISAGREE',
      status: 400,
    })
  })
})

describe('I9', () => {
  type KeyPair = Awaited<ReturnType<typeof generateKeyPair>>
  const keys: Record<string, KeyPair> = {}
  const issuer = 'https://id.x.io'
  const audience = 'shop'
  const secondsFromNow = (seconds: number) => Math.floor(Date.now() / 1000) + seconds
  const encode = (value: unknown) =>
    Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

  beforeAll(async () => {
    for (const id of ids) keys[id] = await generateKeyPair('ES256', { extractable: true })
  })

  /** Keys belong to tenants: the verifier says whose key it was. */
  async function withTokens() {
    const jwks = await Promise.all(
      ids.map(async (id) => ({
        ...(await exportJWK((keys[id] as KeyPair).publicKey)),
        kid: id,
        alg: 'ES256',
      })),
    )
    const findKey = createLocalJWKSet({ keys: jwks })
    let verified = 0
    const app = await setUp({
      resolve: [
        claim('tid', {
          verify: async (token) => {
            verified += 1
            const { payload, protectedHeader } = await jwtVerify(token, findKey, {
              issuer,
              audience,
              algorithms: ['ES256'],
              requiredClaims: ['exp'],
            })
            return { claims: payload, tenantId: protectedHeader.kid }
          },
        }),
        header('X-Tenant-ID'),
        fallback('public'),
      ],
    })
    return { ...app, verified: () => verified }
  }

  interface TokenParts {
    readonly tid?: unknown
    readonly signedBy?: string
    readonly kid?: string
    readonly iss?: string
    readonly aud?: string
    readonly exp?: number
  }

  async function tokenOf({
    tid,
    signedBy = 'acme',
    kid = signedBy,
    iss = issuer,
    aud = audience,
    exp = secondsFromNow(60),
  }: TokenParts): Promise<string> {
    return await new SignJWT({ ...(tid === undefined ? {} : { tid }), iss, aud, exp })
      .setProtectedHeader({ alg: 'ES256', kid })
      .sign((keys[signedBy] as KeyPair).privateKey)
  }
  const bearer = (token: string): RequestParts => ({
    headers: { authorization: `Bearer ${token}` },
  })

  test('I9 a valid token enters its tenant, each its own', async () => {
    const { send, counts } = await withTokens()
    for (const id of ids)
      expect(await send(bearer(await tokenOf({ tid: id, signedBy: id })))).toBe(`canary of ${id}`)
    expect(counts).toEqual({ authorize: 3, handler: 3 })
  })

  test.each<[string, TokenParts]>([
    ["acme's key with the claim globex", { tid: 'globex', signedBy: 'acme' }],
    ["acme's key under the key id of globex", { tid: 'globex', signedBy: 'acme', kid: 'globex' }],
    ['an unknown key id', { tid: 'acme', kid: '../../etc/passwd' }],
    ['another issuer', { tid: 'acme', iss: 'https://evil.example' }],
    ['the issuer with a slash', { tid: 'acme', iss: `${issuer}/` }],
    ['another audience', { tid: 'acme', aud: 'billing' }],
    ['an expiry in the past', { tid: 'acme', exp: secondsFromNow(-60) }],
    ['a negative expiry', { tid: 'acme', exp: -1 }],
    ['an expiry that is a string', { tid: 'acme', exp: '9999999999' as never }],
    ['no claim', {}],
    ['a claim that is null', { tid: null }],
    ['a claim that is a list', { tid: ['acme'] }],
    ['a claim that is a number', { tid: 7 }],
    ['a claim that is an object', { tid: { id: 'acme' } }],
    ['a claim that is no id', { tid: 'ACME' }],
  ])('I9 %s is a 401, and nothing is asked or run', async (_, parts) => {
    const { refusal } = await withTokens()
    expect(await refusal(bearer(await tokenOf(parts)), 0)).toMatchObject({
      code: 'ERR_TENANCY_TOKEN_INVALID',
      status: 401,
    })
  })

  test('I9 alg none, an algorithm swap and a forged payload are a 401', async () => {
    const { refusal } = await withTokens()
    const claims = { tid: 'acme', iss: issuer, aud: audience, exp: secondsFromNow(60) }
    const publicKey = JSON.stringify(await exportJWK((keys['acme'] as KeyPair).publicKey))
    const hmac = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'HS256', kid: 'acme' })
      .sign(new TextEncoder().encode(publicKey))
    const [head, , signature] = (await tokenOf({ tid: 'acme' })).split('.')
    const forged = [
      hmac,
      `${encode({ alg: 'none' })}.${encode(claims)}.`,
      `${encode({ alg: 'none' })}.${encode(claims)}.c2ln`,
      `${encode({ alg: 'nOnE', kid: 'acme' })}.${encode(claims)}.${signature}`,
      `${head}.${encode({ ...claims, tid: 'globex' })}.${signature}`,
      `${head}.${encode(claims)}`,
      '',
      'null',
    ]
    for (const token of forged)
      expect(await refusal(bearer(token), 0), token).toMatchObject({
        code: 'ERR_TENANCY_TOKEN_INVALID',
        status: 401,
      })
  })

  test('I9 a claim that stands twice is a 401 before it is verified', async () => {
    const { refusal, verified } = await withTokens()
    // Signed as it stands: the signature is right, and only the readers differ on what it says.
    const signing = async (payload: string): Promise<string> => {
      const input = `${encode({ alg: 'ES256', kid: 'acme' })}.${encode(payload)}`
      const signature = await crypto.subtle.sign(
        { name: 'ECDSA', hash: 'SHA-256' },
        (keys['acme'] as KeyPair).privateKey,
        Buffer.from(input),
      )
      return `${input}.${Buffer.from(signature).toString('base64url')}`
    }
    const rest = `"iss":"${issuer}","aud":"${audience}","exp":${secondsFromNow(60)}`
    for (const payload of [
      `{"tid":"globex","tid":"acme",${rest}}`,
      `{"tid":"acme",${rest},"t\\u0069d":"globex"}`,
    ])
      expect(await refusal(bearer(await signing(payload)), 0)).toMatchObject({
        code: 'ERR_TENANCY_TOKEN_INVALID',
        status: 401,
      })
    expect(verified()).toBe(0)
    // The signing of this test is right: without the repetition it is let in.
    const { send } = await withTokens()
    expect(await send(bearer(await signing(`{"tid":"acme",${rest}}`)))).toBe('canary of acme')
  })

  test('I9 a token and a header that disagree are a 400; a bad token is not outvoted by a good header', async () => {
    const { refusal, send } = await withTokens()
    const authorization = `Bearer ${await tokenOf({ tid: 'acme' })}`
    expect(await refusal({ headers: { authorization, 'x-tenant-id': 'globex' } }, 0)).toMatchObject(
      {
        code: 'ERR_TENANCY_SOURCES_DISAGREE',
        status: 400,
      },
    )
    expect(
      await refusal({ headers: { authorization: 'Bearer x', 'x-tenant-id': 'acme' } }, 0),
    ).toMatchObject({ status: 401 })
    expect(await send({ headers: { authorization, 'x-tenant-id': 'acme' } })).toBe('canary of acme')
  })

  test('I9 a scheme that is written wrongly is a bad token, not an absent one', async () => {
    const { refusal } = await withTokens()
    const token = await tokenOf({ tid: 'acme' })
    for (const authorization of ['Bearer', 'bearer ', `Bearer\t${token}`, `Bearer,${token}`])
      expect(await refusal({ headers: { authorization } }, 0)).toMatchObject({ status: 401 })
  })
})

describe('I13', () => {
  test('I13 a thousand unknown names a second cost the store a bounded number of calls, and known tenants none', async () => {
    const { store, send, tenancy, counts } = await setUp({
      lookup: { maxUnknownPerSecond: 50, maxConcurrent: 16, maxUnknown: 200, maxTenants: 100 },
    })
    for (const id of ids) await send({ headers: { 'x-tenant-id': id } })
    const random = seededRandom()
    const warm = { calls: store.calls, handler: counts.handler }
    const started = performance.now()
    const statuses = new Map<number, number>()
    let knownAnswers = 0
    for (let index = 0; index < 3_000; index += 10) {
      const flood = Array.from({ length: 10 }, (_, offset) =>
        send({ headers: { 'x-tenant-id': `u${index + offset}-${random.integer(0, 1e9)}` } }).catch(
          ({ status }: TenancyError) => {
            statuses.set(status, (statuses.get(status) ?? 0) + 1)
          },
        ),
      )
      const before = store.calls
      const id = random.pick(ids)
      const scope = tenancy.resolve({
        raw: undefined,
        method: 'GET',
        target: '/',
        authority: undefined,
        header: (name) => (name === 'x-tenant-id' ? id : undefined),
      })
      // From the cache, at once: no promise, no call.
      expect(scope).toMatchObject({ tenant: { name: `canary of ${id}` } })
      expect(store.calls).toBe(before)
      knownAnswers += 1
      await Promise.all(flood)
    }
    const seconds = (performance.now() - started) / 1_000
    expect(knownAnswers).toBe(300)
    expect([...statuses.keys()].toSorted((a, b) => a - b)).toEqual([404, 503])
    expect((statuses.get(404) ?? 0) + (statuses.get(503) ?? 0)).toBe(3_000)
    // A bucket of one second, what flows in, and what was on its way when it ran dry.
    expect(store.calls - warm.calls).toBeLessThanOrEqual(50 + Math.ceil(seconds * 50) + 16)
    expect(tenancy.lookup.size).toBeLessThanOrEqual(300)
    expect(counts.handler).toBe(warm.handler)
  })

  test('I13 a thousand requests for one unknown name are one call', async () => {
    const { store, refusal, send } = await setUp()
    await Promise.all(
      Array.from({ length: 1_000 }, () =>
        expect(send({ headers: { 'x-tenant-id': 'hooli' } })).rejects.toMatchObject({
          status: 404,
        }),
      ),
    )
    expect(store.calls).toBe(1)
    await refusal({ headers: { 'x-tenant-id': 'hooli' } }, 0)
  })
})

describe('I14', () => {
  const names = ['__proto__', 'constructor', 'toString', 'valueOf', 'hasOwnProperty', 'prototype']

  test.each(names)('I14 %s is no tenant, by whatever source', async (name) => {
    const { send } = await setUp()
    for (const parts of [
      { headers: { 'x-tenant-id': name } },
      { target: `/t/${name}` },
      { host: `${name}.x.io` },
    ])
      await expect(send(parts), JSON.stringify(parts)).rejects.toMatchObject({
        // `constructor` is a well-formed id that nobody has; the others are none.
        status: /^[a-z]+$/.test(name) || 'host' in parts ? expect.toBeOneOf([400, 404]) : 400,
      })
  })

  test.each(names)('I14 %s is no custom domain', async (name) => {
    const { send } = await setUp({ resolve: [domain({ own: 'x.io' }), fallback('public')] })
    await expect(send({ host: name })).rejects.toMatchObject({
      status: expect.toBeOneOf([400, 404]),
    })
  })

  test.each(names)('I14 %s is no tenant of a store that is a plain object', async (name) => {
    const registry: Record<string, Tenant> = {
      acme: createTenant({ id: 'acme', name: 'canary of acme' }),
    }
    const tenancy = createTenancy({
      store: {
        findById: async (id) => registry[id],
        findByDomain: async (id) => registry[id],
      },
      resolve: [header('X-Tenant-ID'), domain({ own: 'x.io' }), fallback('acme')],
      authorize: () => true,
    })
    let ran = 0
    const send = async (parts: { id?: string; host?: string }) => {
      const scope = await tenancy.resolve({
        raw: undefined,
        method: 'GET',
        target: '/',
        authority: parts.host,
        header: (key) => (key === 'x-tenant-id' ? parts.id : undefined),
      })
      ran += 1
      return scope?.tenant.name
    }
    for (const parts of [{ id: name }, { host: name }])
      await expect(send(parts), JSON.stringify(parts)).rejects.toMatchObject({
        code: expect.stringMatching(/^ERR_TENANCY_/),
      })
    await expect(tenancy.run(name, () => (ran += 1))).rejects.toMatchObject({
      code: expect.stringMatching(/^ERR_TENANCY_/),
    })
    expect(ran).toBe(0)
    expect(await send({ id: 'acme' })).toBe('canary of acme')
  })

  test('I14 a hostile store gives nobody another tenant', async () => {
    const globex = createTenant({ id: 'globex', name: 'canary of globex' })
    let turnOf = 0
    const answers: unknown[] = [
      globex,
      { ...globex, id: 'acme', status: 'deleted' },
      Object,
      [],
      'acme',
      {
        id: 'acme',
        get status() {
          // Asked once and copied: it cannot say one thing to the check and another to the handler.
          return turnOf++ === 0 ? 'active' : 'ok'
        },
      },
    ]
    for (const answer of answers) {
      turnOf = 0
      const tenancy = createTenancy({ store: { findById: async () => answer as Tenant } })
      const entered = await tenancy.run('acme', ({ tenant }) => tenant).catch((error) => error)
      if (entered instanceof Error)
        expect((entered as TenancyError).code).toMatch(
          /^ERR_TENANCY_(STORE_UNAVAILABLE|TENANT_SUSPENDED)$/,
        )
      else expect(entered).toMatchObject({ id: 'acme', name: 'acme', status: 'active' })
    }
  })
})
