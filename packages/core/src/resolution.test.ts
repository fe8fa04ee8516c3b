import { describe, expect, expectTypeOf, it, vi } from 'vitest'
import {
  type Authorize,
  createTenancy,
  fallback,
  header,
  memoryTenantStore,
  type RefusalReason,
  subdomain,
  type TenancyError,
  type TenancyOptions,
  type TenancyRequest,
  type TenantResolver,
} from './index.ts'

const refusal = (code: string) => expect.objectContaining({ code })

function request({
  id,
  host,
  ...rest
}: { id?: string; host?: string } & Partial<TenancyRequest> = {}): TenancyRequest {
  return {
    raw: { user: 'u1' },
    method: 'GET',
    target: '/',
    authority: host,
    header: (name) => (name === 'x-tenant-id' ? id : undefined),
    ...rest,
  }
}

function setUp(options: Partial<TenancyOptions> = {}) {
  const store = memoryTenantStore([
    { id: 'acme', name: 'Acme' },
    { id: 'globex', name: 'Globex' },
    { id: 'suspended', status: 'suspended' },
    { id: 'archived', status: 'archived' },
    { id: 'deleted', status: 'deleted' },
    { id: 'starting', status: 'provisioning' },
    { id: 'closed', ingress: false },
  ])
  const findById = vi.spyOn(store, 'findById')
  const tenancy = createTenancy({
    store,
    resolve: [header('X-Tenant-ID'), subdomain({ of: 'x.io' }), fallback('public')],
    authorize: () => true,
    ...options,
  })
  return { tenancy, findById }
}

/** What it came to, of a throw and of a rejection alike. */
async function refused(of: () => unknown): Promise<TenancyError> {
  try {
    await of()
  } catch (error) {
    return error as TenancyError
  }
  throw new Error('The request was let in.')
}

describe('resolving', () => {
  it('takes the sources that agree, and says which came first', async () => {
    const { tenancy } = setUp()
    const scope = await tenancy.resolve(request({ id: 'acme', host: 'acme.x.io' }))
    expect(scope).toMatchObject({ tenant: { name: 'Acme' }, source: 'header' })
    expect(await tenancy.resolve(request({ host: 'globex.x.io' }))).toMatchObject({
      tenant: { name: 'Globex' },
      source: 'subdomain',
    })
    expect(tenancy.current()).toBeUndefined()
  })

  it('answers a second time without a promise', async () => {
    const { tenancy, findById } = setUp()
    await tenancy.ready()
    await tenancy.resolve(request({ id: 'acme' }))
    expect(tenancy.resolve(request({ id: 'acme' }))).toMatchObject({ tenant: { name: 'Acme' } })
    expect(findById).toHaveBeenCalledOnce()
  })

  it('lets no order decide between sources that disagree', async () => {
    for (const disagreeing of [
      request({ id: 'acme', host: 'globex.x.io' }),
      request({ id: 'globex', host: 'acme.x.io' }),
      request({ id: 'acme', host: 'hooli.x.io' }),
    ]) {
      const { tenancy, findById } = setUp()
      expect(() => tenancy.resolve(disagreeing)).toThrow(refusal('ERR_TENANCY_SOURCES_DISAGREE'))
      expect(findById).not.toHaveBeenCalled()
    }
  })

  it('lets nothing malformed fall through to the default tenant', async () => {
    const { tenancy, findById } = setUp()
    for (const malformed of [
      request({ id: '' }),
      request({ id: 'Acme' }),
      request({ id: 'acme', host: 'ac_me.x.io' }),
      request({ host: 'a.b.x.io' }),
      request({ host: 'x.io:80:81' }),
      request({ id: 'acme, globex' }),
    ])
      expect((await refused(() => tenancy.resolve(malformed))).status).toBe(400)
    expect(findById).not.toHaveBeenCalled()
  })

  it('is undefined without a source and without a default tenant', () => {
    const { tenancy } = setUp({ resolve: [header('X-Tenant-ID')] })
    expect(tenancy.resolve(request())).toBeUndefined()
    expect(setUp({ resolve: [] }).tenancy.resolve(request({ id: 'acme' }))).toBeUndefined()
  })

  it.each(['http://acme.x.io/', 'acme.x.io:443', '', '*', undefined as unknown as string])(
    'refuses the request target %j',
    (target) => {
      const { tenancy } = setUp()
      expect(() => tenancy.resolve(request({ id: 'acme', target }))).toThrow(
        refusal('ERR_TENANCY_REQUEST_TARGET_INVALID'),
      )
    },
  )

  it('reads OPTIONS *', async () => {
    const { tenancy } = setUp()
    expect(
      await tenancy.resolve(request({ id: 'acme', target: '*', method: 'OPTIONS' })),
    ).toMatchObject({ tenant: { id: 'acme' } })
  })
})

describe('tenants that are not served', () => {
  const reasons: [string, RefusalReason][] = [
    ['hooli', 'unknown'],
    ['constructor', 'unknown'],
    ['suspended', 'suspended'],
    ['archived', 'archived'],
    ['deleted', 'deleted'],
    ['starting', 'provisioning'],
    ['closed', 'ingress-disabled'],
    ['globex', 'forbidden'],
  ]

  it('are one identical 404 to the client, and told apart to operators', async () => {
    const { tenancy } = setUp({ authorize: ({ tenant }) => tenant.id !== 'globex' })
    const heard: unknown[] = []
    tenancy.on('tenant:refused', (event) => heard.push(event))
    const answers = new Set<string>()
    for (const [id] of reasons) {
      const { code, status, message, hint } = await refused(() => tenancy.resolve(request({ id })))
      answers.add(JSON.stringify({ code, status, message, hint }))
    }
    expect([...answers]).toHaveLength(1)
    expect([...answers][0]).toContain('"ERR_TENANCY_TENANT_UNKNOWN","status":404')
    expect(heard).toEqual(
      reasons.map(([identifier, reason]) => ({ identifier, source: 'header', reason })),
    )
  })

  it("are told apart with reveal: 'status'", async () => {
    const { tenancy } = setUp({
      reveal: 'status',
      authorize: ({ tenant }) => tenant.id !== 'globex',
    })
    const statuses: Record<string, number> = {}
    for (const [id] of reasons) {
      const error = await refused(() => tenancy.resolve(request({ id })))
      statuses[id] = error.status
    }
    expect(statuses).toEqual({
      hooli: 404,
      constructor: 404,
      suspended: 503,
      archived: 404,
      deleted: 404,
      starting: 503,
      closed: 503,
      globex: 403,
    })
  })
})

describe('authorize', () => {
  it('gets the tenant, the request and the source', async () => {
    const authorize = vi.fn<Authorize>(() => true)
    const { tenancy } = setUp({ authorize })
    const given = request({ id: 'acme' })
    const scope = await tenancy.resolve(given, { requestId: 'r1' })
    expect(authorize).toHaveBeenCalledExactlyOnceWith({
      tenant: scope?.tenant,
      request: given,
      source: 'header',
    })
    expect(scope?.requestId).toBe('r1')
  })

  it('is not asked for tenants that do not exist or are not served', async () => {
    const authorize = vi.fn<Authorize>(() => true)
    const { tenancy } = setUp({ authorize })
    for (const id of ['hooli', 'suspended', 'closed'])
      await refused(() => tenancy.resolve(request({ id })))
    expect(authorize).not.toHaveBeenCalled()
  })

  it.each<[string, unknown]>([
    ['false', false],
    ['undefined', undefined],
    ['null', null],
    ['1', 1],
    ["'yes'", 'yes'],
    ['a function', () => true],
    ['an object without an actor', { requestId: 'r1' }],
    ['an actor that was not found', { actor: undefined }],
    ['an actor that is null', { actor: null }],
    ['nothing but an object', {}],
  ])('does not let in by %s, now or later', async (_, verdict) => {
    for (const authorize of [() => verdict, async () => verdict]) {
      const { tenancy } = setUp({ authorize: authorize as Authorize })
      expect(await refused(() => tenancy.resolve(request({ id: 'acme' })))).toEqual(
        refusal('ERR_TENANCY_TENANT_UNKNOWN'),
      )
    }
  })

  it.each<[string, unknown]>([
    ['an empty list of memberships', []],
    ['a list of memberships', [{ tenant: 'globex' }]],
    ['a row', { user_id: 7, tenant_id: 'globex' }],
    ['the result of a query', { rows: [], rowCount: 0 }],
    ['an error', new Error('not a member')],
    ['a Map', new Map()],
    ['an actor without an id', { actor: {} }],
    ['an actor that is its id', { actor: 'u1' }],
    ['an impersonator without an id', { actor: { id: 'u1' }, impersonator: {} }],
  ])('is an error when it answers %s', async (_, verdict) => {
    for (const authorize of [() => verdict, async () => verdict]) {
      const { tenancy } = setUp({ authorize: authorize as Authorize })
      expect(await refused(() => tenancy.resolve(request({ id: 'acme' })))).toEqual(
        refusal('ERR_TENANCY_RESOLVER_FAILED'),
      )
    }
  })

  it('says who acts', async () => {
    const actor = { id: 'u1', name: 'Ada', roles: ['owner'] }
    const { tenancy } = setUp({ authorize: () => ({ actor, impersonator: { id: 'op' } }) })
    const scope = await tenancy.resolve(request({ id: 'acme' }), { requestId: 'r1' })
    expect(scope).toMatchObject({
      actor: { id: 'u1', name: 'Ada' },
      impersonator: { id: 'op' },
      requestId: 'r1',
    })
    expect(Object.isFrozen(scope?.actor)).toBe(true)
    expect(Object.isFrozen(actor)).toBe(false)
  })

  it('ends the request by a throw, a rejection, and a thenable that fails', async () => {
    const cause = new Error('database down')
    const failures: Authorize[] = [
      () => {
        throw cause
      },
      () => Promise.reject(cause),
      () => ({ then: (_: unknown, reject: (error: Error) => void) => reject(cause) }) as never,
    ]
    for (const authorize of failures) {
      const { tenancy } = setUp({ authorize })
      expect(await refused(() => tenancy.resolve(request({ id: 'acme' })))).toMatchObject({
        code: 'ERR_TENANCY_RESOLVER_FAILED',
        cause,
      })
    }
  })

  it('is typed', () => {
    expectTypeOf<Authorize>().returns.not.toBeAny()
    // @ts-expect-error a string lets nobody in
    const wrong: Authorize = () => 'yes'
    expect(wrong).toBeTypeOf('function')
  })
})

describe('resolvers of your own', () => {
  it('may be functions, and may take their time', async () => {
    const { tenancy } = setUp({
      resolve: [async ({ raw }) => (raw as { tenant?: string }).tenant, fallback('public')],
    })
    const resolve = (raw: object) => tenancy.resolve(request({ raw }))
    expect(await resolve({ tenant: 'acme' })).toMatchObject({ tenant: { id: 'acme' } })
    expect(await resolve({ tenant: 'globex' })).toMatchObject({ tenant: { id: 'globex' } })
    expect(await resolve({})).toMatchObject({ source: 'fallback' })
  })

  it.each([null, '', 0, false, ['acme'], { id: 'acme' }])(
    'are malformed, not absent, when they give %j',
    async (value) => {
      const { tenancy } = setUp({ resolve: [() => value as never, fallback('public')] })
      expect(await refused(() => tenancy.resolve(request()))).toEqual(
        refusal('ERR_TENANCY_IDENTIFIER_INVALID'),
      )
    },
  )

  it('end the request when they fail, whatever the others say', async () => {
    const cause = new Error('of the resolver')
    const failing: (() => never | Promise<never>)[] = [
      () => {
        throw cause
      },
      () => Promise.reject(cause),
    ]
    for (const fails of failing) {
      const { tenancy, findById } = setUp({
        resolve: [header('X-Tenant-ID'), fails, async () => 'acme', fallback('public')],
      })
      expect(await refused(() => tenancy.resolve(request({ id: 'acme' })))).toMatchObject({
        code: 'ERR_TENANCY_RESOLVER_FAILED',
        cause,
      })
      expect(findById).not.toHaveBeenCalled()
    }
  })

  it('leave no rejection unheard when several fail', async () => {
    const unheard = vi.fn()
    process.on('unhandledRejection', unheard)
    const late: TenantResolver = {
      name: 'late',
      forgeable: true,
      vary: [],
      identify: async () => {
        await new Promise((resolve) => setTimeout(resolve, 5))
        throw new Error('late')
      },
    }
    const { tenancy } = setUp({
      resolve: [
        late,
        () => {
          throw new Error('at once')
        },
        fallback('public'),
      ],
    })
    expect(await refused(() => tenancy.resolve(request()))).toMatchObject({
      cause: { message: 'at once' },
    })
    await new Promise((resolve) => setTimeout(resolve, 20))
    process.off('unhandledRejection', unheard)
    expect(unheard).not.toHaveBeenCalled()
  })
})
