import { once } from 'node:events'
import { describe, expect, expectTypeOf, it, vi } from 'vitest'
import {
  createTenancy,
  createTenant,
  ForEachError,
  type ForEachResult,
  fallback,
  header,
  memoryTenantStore,
  subdomain,
  type TenancyOptions,
  type Tenant,
  type TenantScope,
  type TenantStore,
} from './index.ts'

const refusal = (code: string) => expect.objectContaining({ code })
const records = [
  { id: 'acme', name: 'Acme', tags: ['beta'] },
  { id: 'globex', name: 'Globex', tags: ['beta'] },
  { id: 'initech', name: 'Initech', status: 'suspended' as const },
]
const setUp = () => {
  const store = memoryTenantStore(records)
  return { store, tenancy: createTenancy({ store }) }
}

describe('createTenancy', () => {
  it.each<[string, unknown]>([
    ['no options', undefined],
    ['a store in place of options', null],
    ['no store', {}],
    ['a store without findById', { store: {} }],
    ['an unknown option', { store: memoryTenantStore(), authorise: () => false }],
    ['resolve that is no list', { store: memoryTenantStore(), resolve: header('X-Tenant-ID') }],
    ['a resolver that is none', { store: memoryTenantStore(), resolve: ['header'] }],
    ['a missing resolver', { store: memoryTenantStore(), resolve: [undefined] }],
    ['authorize that is no function', { store: memoryTenantStore(), authorize: true }],
    ['an unknown reveal', { store: memoryTenantStore(), reveal: 'all' }],
    [
      'a fallback that is not last',
      {
        store: memoryTenantStore(),
        resolve: [fallback('public'), header('X-Tenant-ID')],
      },
    ],
    ['two fallbacks', { store: memoryTenantStore(), resolve: [fallback('a'), fallback('b')] }],
    [
      'one source twice',
      {
        store: memoryTenantStore(),
        resolve: [header('X-Tenant-ID'), header('x-tenant-id')],
      },
    ],
    ['negative ages', { store: memoryTenantStore(), lookup: { maxAgeMs: -1 } }],
    ['an unknown lookup option', { store: memoryTenantStore(), lookup: { ttl: 5 } }],
  ])('refuses %s', (_, options) => {
    expect(() => createTenancy(options as TenancyOptions)).toThrow(
      refusal('ERR_TENANCY_OPTION_INVALID'),
    )
  })

  it('refuses a default tenant of its own making that is no id', () => {
    const resolver = { ...fallback('public'), fallbackTenantId: 'pg-catalog' }
    expect(() => createTenancy({ store: memoryTenantStore(), resolve: [resolver] })).toThrow(
      refusal('ERR_TENANCY_IDENTIFIER_INVALID'),
    )
  })

  it('names the option that was meant', () => {
    expect(() =>
      createTenancy({ store: memoryTenantStore(), authorise: 1 } as TenancyOptions),
    ).toThrow('"authorize"')
  })

  it('warns of sources that can be forged while nothing authorizes', async () => {
    const warned = once(process, 'warning')
    const unguarded = createTenancy({
      store: memoryTenantStore(),
      // A resolver of somebody who forgot to say whether it can be forged counts as one that can.
      resolve: [
        header('X-Tenant-ID'),
        { name: 'own', vary: [], identify: () => undefined } as never,
        fallback('public'),
      ],
    })
    expect(await warned).toMatchObject([{ code: 'PARTYWALL_UNVERIFIED_SOURCE' }])
    expect(unguarded.unverifiedSources).toEqual(['header', 'own'])
    const guarded = createTenancy({
      store: memoryTenantStore(),
      resolve: [header('X-Tenant-ID')],
      authorize: () => true,
    })
    expect(guarded.unverifiedSources).toEqual([])
  })

  it('collects Vary from its sources', () => {
    const tenancy = createTenancy({
      store: memoryTenantStore(),
      resolve: [header('X-Tenant-ID'), subdomain({ of: 'x.io' }), fallback('public')],
      authorize: () => true,
    })
    expect(tenancy.vary).toEqual(['X-Tenant-ID', 'Host'])
    expect(tenancy.fallbackTenantId).toBe('public')
  })
})

describe('run', () => {
  it('enters by id, and by scope at once', async () => {
    const { tenancy } = setUp()
    const scope = await tenancy.run('acme', (given) => given)
    expect(scope).toMatchObject({ tenant: { id: 'acme', name: 'Acme' }, source: 'run' })
    expect(tenancy.run(scope, () => tenancy.require().tenant.name)).toBe('Acme')
    expect(await tenancy.run('globex', async () => tenancy.current()?.tenant.name)).toBe('Globex')
    expect(tenancy.current()).toBeUndefined()
    expectTypeOf(tenancy.run(scope, () => 1)).toEqualTypeOf<number>()
    expectTypeOf(tenancy.run('acme', async () => 1)).toEqualTypeOf<Promise<number>>()
  })

  it.each([
    ['Acme', 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['', 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['__proto__', 'ERR_TENANCY_IDENTIFIER_INVALID'],
    ['constructor', 'ERR_TENANCY_TENANT_UNKNOWN'],
    ['hooli', 'ERR_TENANCY_TENANT_UNKNOWN'],
    ['public', 'ERR_TENANCY_TENANT_UNKNOWN'],
    ['initech', 'ERR_TENANCY_TENANT_SUSPENDED'],
    [undefined as unknown as string, 'ERR_TENANCY_IDENTIFIER_INVALID'],
    [{ tenant: { id: 'acme' } } as unknown as string, 'ERR_TENANCY_IDENTIFIER_INVALID'],
  ])('does not enter %o: %s', async (id, code) => {
    const { tenancy } = setUp()
    const fn = vi.fn()
    await expect(tenancy.run(id, fn)).rejects.toEqual(refusal(code))
    expect(fn).not.toHaveBeenCalled()
  })

  it('enters other states where that is asked for', async () => {
    const { tenancy } = setUp()
    const status = await tenancy.run('initech', ({ tenant }) => tenant.status, {
      status: ['suspended'],
    })
    expect(status).toBe('suspended')
    await expect(tenancy.run('acme', () => 1, { status: ['suspended'] })).rejects.toEqual(
      refusal('ERR_TENANCY_TENANT_SUSPENDED'),
    )
    for (const options of [{ status: 'active, suspended' }, { state: ['suspended'] }])
      await expect(tenancy.run('initech', () => 1, options as never)).rejects.toEqual(
        refusal('ERR_TENANCY_OPTION_INVALID'),
      )
  })

  it('does not even look another tenant up inside one', async () => {
    const { store, tenancy } = setUp()
    await tenancy.run('acme', async () => {
      const findById = vi.spyOn(store, 'findById')
      const fn = vi.fn()
      await expect(tenancy.run('globex', fn)).rejects.toEqual(refusal('ERR_TENANCY_CONTEXT_LOCKED'))
      expect(findById).not.toHaveBeenCalled()
      expect(fn).not.toHaveBeenCalled()
    })
  })

  it('keeps who acts, and behind whom, when the same tenant is entered again', async () => {
    const { tenancy } = setUp()
    const details = { actor: { id: 'u1' }, impersonator: { id: 'op' }, requestId: 'r1' }
    await tenancy.run(
      'acme',
      async () => {
        expect(await tenancy.run('acme', (scope) => scope)).toMatchObject(details)
        const actor = { id: 'u2' }
        expect(await tenancy.run('acme', (scope) => scope, { actor })).toMatchObject({
          ...details,
          actor,
        })
      },
      details,
    )
  })

  it('looks tenants up outside of every tenant', async () => {
    const seen: unknown[] = []
    const tenancy = createTenancy({
      store: {
        async findById(id) {
          seen.push(tenancy.current()?.tenant.id)
          return createTenant({ id })
        },
      },
    })
    await tenancy.run('acme', () => tenancy.switch('globex', 'a test', () => undefined))
    expect(seen).toEqual([undefined, undefined])
  })

  it.each([
    ['is mutable', { id: 'acme', settings: { canary: 'acme' } }, 'acme'],
    ['is not of that id', createTenant({ id: 'globex' }), undefined],
    ['is incomplete', { name: 'Acme' }, undefined],
    ['is a function of Object.prototype', Object, undefined],
    ['has members that a tenant has not', { id: 'acme', schema: 'globex' }, undefined],
    ['has a status that there is not', { id: 'acme', status: 'ok' }, undefined],
  ])('takes from a store no record that %s', async (_, record, id) => {
    const tenancy = createTenancy({ store: { findById: async () => record as Tenant } })
    const scope = tenancy.run('acme', (given) => given)
    if (id === undefined)
      await expect(scope).rejects.toEqual(refusal('ERR_TENANCY_STORE_UNAVAILABLE'))
    else {
      // Copied and frozen: the context must not change because the store changes its object.
      const { tenant } = await scope
      expect(tenant).not.toBe(record)
      expect(Object.isFrozen(tenant) && Object.isFrozen(tenant.settings)).toBe(true)
    }
  })

  it('takes null from a store for unknown', async () => {
    const tenancy = createTenancy({ store: { findById: async () => null as never } })
    await expect(tenancy.run('acme', () => 1)).rejects.toEqual(
      refusal('ERR_TENANCY_TENANT_UNKNOWN'),
    )
  })
})

describe('switch and central', () => {
  it('enters another tenant inside one, tells why, and comes back', async () => {
    const { tenancy } = setUp()
    const heard: unknown[] = []
    tenancy.on('context:switched', ({ from, to, reason }) =>
      heard.push([from?.tenant.id, to.tenant.id, reason]),
    )
    await tenancy.run(
      'acme',
      async () => {
        const scope = await tenancy.switch('globex', 'merge of accounts', () => tenancy.require())
        expect(scope).toMatchObject({
          tenant: { id: 'globex' },
          source: 'switch',
          actor: { id: 'u1' },
        })
        expect(tenancy.require().tenant.id).toBe('acme')
      },
      { actor: { id: 'u1' } },
    )
    expect(heard).toEqual([['acme', 'globex', 'merge of accounts']])
  })

  it.each(['', '  ', undefined, 7])('wants a reason and takes no %j', async (reason) => {
    const { tenancy } = setUp()
    const fn = vi.fn()
    await expect(tenancy.switch('acme', reason as string, fn)).rejects.toEqual(
      refusal('ERR_TENANCY_OPTION_INVALID'),
    )
    expect(() => tenancy.central(reason as string, fn)).toThrow(
      refusal('ERR_TENANCY_OPTION_INVALID'),
    )
    expect(fn).not.toHaveBeenCalled()
  })

  it('does not switch to what cannot be entered', async () => {
    const { tenancy } = setUp()
    const heard = vi.fn()
    tenancy.on('context:switched', heard)
    await expect(tenancy.switch('hooli', 'a test', heard)).rejects.toEqual(
      refusal('ERR_TENANCY_TENANT_UNKNOWN'),
    )
    await expect(tenancy.switch('initech', 'a test', heard)).rejects.toEqual(
      refusal('ERR_TENANCY_TENANT_SUSPENDED'),
    )
    expect(heard).not.toHaveBeenCalled()
  })

  it('does central work outside of the tenant, and tells where it came from', async () => {
    const { tenancy } = setUp()
    const heard: unknown[] = []
    tenancy.on('context:centralized', ({ from, reason }) => heard.push([from?.tenant.id, reason]))
    await tenancy.run('acme', async () => {
      expect(tenancy.central('billing', () => tenancy.current())).toBeUndefined()
      // From central work any tenant may be entered.
      await tenancy.central('billing', () => tenancy.run('globex', () => tenancy.require()))
    })
    expect(heard).toEqual([
      ['acme', 'billing'],
      ['acme', 'billing'],
    ])
  })
})

describe('forEach', () => {
  const many = Array.from({ length: 20 }, (_, index) => ({
    id: `t${String(index).padStart(2, '0')}`,
    settings: { canary: index },
  }))

  it('runs in each selected tenant, in its own context, several at a time', async () => {
    const tenancy = createTenancy({ store: memoryTenantStore(many) })
    let active = 0
    let mostActive = 0
    const results = await tenancy.forEach(
      {},
      async (scope) => {
        active += 1
        mostActive = Math.max(mostActive, active)
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 3))
        expect(tenancy.require()).toBe(scope)
        active -= 1
        return scope.tenant.settings['canary']
      },
      { concurrency: 3 },
    )
    expectTypeOf(results).toEqualTypeOf<ForEachResult<unknown>[]>()
    expect(mostActive).toBe(3)
    expect(results).toEqual(
      many.map(({ id, settings }) => ({ tenantId: id, ok: true, value: settings.canary })),
    )
    expect(tenancy.current()).toBeUndefined()
  })

  it('stops after a failure, or goes on, and tells the outcome of every tenant', async () => {
    const tenancy = createTenancy({ store: memoryTenantStore(many) })
    const visit = (started: string[]) => (scope: TenantScope) => {
      started.push(scope.tenant.id)
      if (scope.tenant.id === 't03') throw new Error('of t03')
      return scope.tenant.id
    }
    const stopped: string[] = []
    const failure = await tenancy
      .forEach({}, visit(stopped), { concurrency: 1 })
      .catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(ForEachError)
    expect(failure).toMatchObject({
      code: 'ERR_TENANCY_FOREACH_FAILED',
      cause: expect.objectContaining({ message: 'of t03' }),
    })
    expect(stopped).toEqual(['t00', 't01', 't02', 't03'])
    expect((failure as ForEachError).results.map(({ ok }) => ok)).toEqual([true, true, true, false])
    const continued: string[] = []
    await expect(
      tenancy.forEach({}, visit(continued), { onError: 'continue' }),
    ).rejects.toMatchObject({ results: expect.objectContaining({ length: 20 }) })
    expect(continued).toHaveLength(20)
  })

  it('waits for what runs when the store fails in the middle, and keeps the outcomes', async () => {
    let ended = 0
    const tenancy = createTenancy({
      store: {
        findById: async () => undefined,
        async *list() {
          yield createTenant({ id: 'acme' })
          yield createTenant({ id: 'globex' })
          throw new Error('connection lost')
        },
      },
    })
    const failure = await tenancy
      .forEach({}, async () => {
        await new Promise((resolve) => setTimeout(resolve, 5))
        ended += 1
      })
      .catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(ForEachError)
    expect(ended).toBe(2)
    expect(failure).toMatchObject({
      cause: { code: 'ERR_TENANCY_STORE_UNAVAILABLE', cause: { message: 'connection lost' } },
      results: [
        { tenantId: 'acme', ok: true },
        { tenantId: 'globex', ok: true },
      ],
    })
  })

  it('visits nobody whom the selector does not pick, whatever the store lists', async () => {
    const careless: TenantStore = {
      findById: async () => undefined,
      async *list() {
        for (const record of [...records, { id: 'public' }]) yield createTenant(record)
      },
    }
    const tenancy = createTenancy({ store: careless })
    const visited = async (selector: object) =>
      (await tenancy.forEach(selector, ({ tenant }) => tenant.id)).map(({ tenantId }) => tenantId)
    expect(await visited({})).toEqual(['acme', 'globex'])
    expect(await visited({ ids: ['globex'] })).toEqual(['globex'])
    // `public` is a tenant where it is the declared default.
    const declared = createTenancy({ store: careless, resolve: [fallback('public')] })
    expect(await declared.forEach({ ids: ['public'] }, () => 1)).toHaveLength(1)
  })

  it.each<[object, object]>([
    [{ ids: 'acme-2' }, {}],
    [{ tags: 'beta' }, {}],
    [{ status: 'active' }, {}],
    [{ id: ['acme'] }, {}],
    [{}, { concurrency: 0 }],
    [{}, { onError: 'ignore' }],
    [{}, { parallel: 3 }],
    [undefined as never, {}],
  ])('refuses the selector %j with the options %j', async (selector, options) => {
    const { tenancy } = setUp()
    const fn = vi.fn()
    await expect(tenancy.forEach(selector, fn, options)).rejects.toEqual(
      refusal('ERR_TENANCY_OPTION_INVALID'),
    )
    expect(fn).not.toHaveBeenCalled()
  })

  it('finds tenants by their ids where the store cannot list', async () => {
    const { store } = setUp()
    const tenancy = createTenancy({ store: { findById: (id) => store.findById(id) } })
    const results = await tenancy.forEach(
      { ids: ['globex', 'acme', 'acme', 'hooli', 'initech'] },
      ({ tenant }) => tenant.name,
    )
    expect(results.map((result) => result.ok && result.value)).toEqual(['Acme', 'Globex'])
    await expect(tenancy.forEach({}, () => 1)).rejects.toEqual(
      refusal('ERR_TENANCY_OPTION_INVALID'),
    )
  })

  it('does not start inside a tenant', async () => {
    const { tenancy } = setUp()
    await tenancy.run('acme', () =>
      expect(tenancy.forEach({}, () => 1)).rejects.toEqual(refusal('ERR_TENANCY_CONTEXT_LOCKED')),
    )
  })
})

describe('watching the store', () => {
  it('forgets a tenant as soon as its record changes', async () => {
    const { store, tenancy } = setUp()
    await tenancy.ready()
    expect(await tenancy.run('acme', ({ tenant }) => tenant.name)).toBe('Acme')
    store.update('acme', { status: 'suspended' })
    await expect(tenancy.run('acme', () => 1)).rejects.toEqual(
      refusal('ERR_TENANCY_TENANT_SUSPENDED'),
    )
    store.delete('globex')
    await expect(tenancy.run('globex', () => 1)).rejects.toEqual(
      refusal('ERR_TENANCY_TENANT_UNKNOWN'),
    )
  })

  it('does not trust what was fetched while nobody watched yet', async () => {
    const { store } = setUp()
    let watching: (() => void) | undefined
    const tenancy = createTenancy({
      store: {
        findById: (id) => store.findById(id),
        watch: (onChange) =>
          new Promise((resolve) => {
            watching = () => resolve(store.watch(onChange))
          }),
      },
    })
    expect(await tenancy.run('acme', ({ tenant }) => tenant.name)).toBe('Acme')
    store.update('acme', { name: 'Acme, changed unseen' })
    watching?.()
    await tenancy.ready()
    expect(await tenancy.run('acme', ({ tenant }) => tenant.name)).toBe('Acme, changed unseen')
  })

  it('says that a store cannot be watched, and works without', async () => {
    const { store } = setUp()
    const failed = vi.fn()
    const tenancy = createTenancy({
      store: {
        findById: (id) => store.findById(id),
        watch: async () => Promise.reject(new Error('no LISTEN behind a pooler')),
      },
    })
    tenancy.on('store:failed', failed)
    await expect(tenancy.ready()).rejects.toMatchObject({
      code: 'ERR_TENANCY_STORE_UNAVAILABLE',
      cause: { message: 'no LISTEN behind a pooler' },
    })
    expect(failed).toHaveBeenCalledOnce()
    expect(await tenancy.run('acme', ({ tenant }) => tenant.name)).toBe('Acme')
  })
})

describe('close', () => {
  it('closes the last registered first, once, and refuses from then on', async () => {
    const { tenancy } = setUp()
    const scope = await tenancy.run('acme', (given) => given)
    const closed: string[] = []
    tenancy.onClose(() => void closed.push('first'))
    tenancy.onClose(async () => void closed.push('second'))
    tenancy.onClose(() => void closed.push('taken back'))()
    await Promise.all([tenancy.close(), tenancy.close()])
    await tenancy[Symbol.asyncDispose]()
    expect(closed).toEqual(['second', 'first'])
    const fn = vi.fn()
    expect(() => tenancy.run(scope, fn)).toThrow(refusal('ERR_TENANCY_CLOSED'))
    expect(() => tenancy.central('a test', fn)).toThrow(refusal('ERR_TENANCY_CLOSED'))
    for (const refused of [
      tenancy.run('acme', fn),
      tenancy.switch('acme', 'a test', fn),
      tenancy.forEach({}, fn),
    ])
      await expect(refused).rejects.toEqual(refusal('ERR_TENANCY_CLOSED'))
    expect(fn).not.toHaveBeenCalled()
  })

  it('closes the rest when a part fails, the watch of the store included', async () => {
    const closed: string[] = []
    const tenancy = createTenancy({
      store: {
        findById: async () => undefined,
        watch: async () => ({
          [Symbol.asyncDispose]: async () => Promise.reject(new Error('of the watch')),
        }),
      },
    })
    tenancy.onClose(() => void closed.push('pool'))
    tenancy.onClose(() => Promise.reject(new Error('of the cache')))
    await expect(tenancy.close()).rejects.toMatchObject({
      errors: [
        expect.objectContaining({ message: 'of the watch' }),
        expect.objectContaining({ message: 'of the cache' }),
      ],
    })
    expect(closed).toEqual(['pool'])
  })

  it('may be called by a listener of tenancy:closed', async () => {
    const { tenancy } = setUp()
    const heard = vi.fn(() => void tenancy.close())
    tenancy.on('tenancy:closed', heard)
    await tenancy.close()
    expect(heard).toHaveBeenCalledOnce()
  })
})
