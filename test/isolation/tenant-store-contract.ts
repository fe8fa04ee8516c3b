import type { Tenant, TenantInput, TenantStore } from '@partywall/core'
import { eventually } from '@partywall/test-support'
import { expect, it } from 'vitest'

type Maybe<T> = T | Promise<T>

/** A store that tenants can be written to, as the stores of this repository are. */
export interface WritableTenantStore extends TenantStore {
  create(input: TenantInput): Maybe<Tenant>
  update(id: string, changes: Partial<Omit<TenantInput, 'id'>>): Maybe<Tenant>
  delete(id: string): Maybe<boolean>
}

/** Runs a function so that what it throws at once and what it rejects with are the same. */
const call = async <T>(fn: () => Maybe<T>): Promise<T> => fn()
const codeOf = (fn: () => Maybe<unknown>): Promise<unknown> =>
  call(fn).then(
    () => 'fulfilled',
    (error: unknown) => (error as { code?: string }).code,
  )

/** What every writable store promises. `open` gives an empty one; two calls in one test are two views of the same data if `shared`. */
export function itIsATenantStore(open: () => Promise<WritableTenantStore>): void {
  const all = async (
    store: TenantStore,
    selector?: Parameters<NonNullable<TenantStore['list']>>[0],
  ): Promise<string[]> => {
    const ids: string[] = []
    for await (const { id } of store.list?.(selector) ?? []) ids.push(id)
    return ids
  }

  it('keeps every member of a record, and gives back frozen copies', async () => {
    const store = await open()
    const input: TenantInput = {
      id: 'acme',
      name: 'Acme "Ünïcode" \' Inc.',
      status: 'suspended',
      isolation: 'schema',
      placement: { schema: 'acme_data' },
      tags: ['beta', "it's"],
      domains: ['shop.acme.example'],
      ingress: false,
      release: { name: '2026.11', plugins: { orders: '1.2.0' } },
      settings: { theme: { dark: true }, list: [1, null, 'x'] },
    }
    const created = await call(() => store.create(input))
    expect(created).toMatchObject(input)
    expect(await store.findById('acme')).toEqual(created)
    expect(Object.isFrozen(await store.findById('acme'))).toBe(true)
    expect(await store.findByDomain?.('shop.acme.example')).toEqual(created)
    const { id, ...rest } = await call(() => store.create({ id: 'globex' }))
    expect(id).toBe('globex')
    expect(rest).toMatchObject({
      name: 'globex',
      status: 'active',
      tags: [],
      domains: [],
      settings: {},
    })
    expect(await store.findById('globex')).toEqual({ id, ...rest })
  })

  it('knows nobody whom it was not told of, whatever the id', async () => {
    const store = await open()
    await call(() => store.create({ id: 'acme' }))
    for (const id of [
      'globex',
      'acm',
      'acme2',
      '__proto__',
      'constructor',
      '',
      "' or true --",
      '%',
      'ACME',
    ])
      expect(await store.findById(id)).toBeUndefined()
    expect(await store.findByDomain?.('acme.example')).toBeUndefined()
  })

  it('refuses what is no tenant and leaves no trace of it', async () => {
    const store = await open()
    expect(await codeOf(() => store.create({ id: 'Acme' }))).toBe('ERR_TENANCY_IDENTIFIER_INVALID')
    expect(await codeOf(() => store.create({ id: 'acme', tags: [''] }))).toBe(
      'ERR_TENANCY_TENANT_INVALID',
    )
    expect(await all(store)).toEqual([])
    await call(() => store.create({ id: 'acme' }))
    expect(await codeOf(() => store.update('acme', { name: '' }))).toBe(
      'ERR_TENANCY_TENANT_INVALID',
    )
    expect(await codeOf(() => store.update('globex', { name: 'x' }))).toBe(
      'ERR_TENANCY_TENANT_UNKNOWN',
    )
    expect((await store.findById('acme'))?.name).toBe('acme')
  })

  it('P2 gives an id to one owner, and never again', async () => {
    const store = await open()
    const racers = await Promise.all(
      Array.from({ length: 12 }, (_, n) =>
        codeOf(() => store.create({ id: 'acme', name: `racer ${n}` })),
      ),
    )
    expect(racers.filter((outcome) => outcome === 'fulfilled')).toHaveLength(1)
    expect(new Set(racers)).toEqual(new Set(['fulfilled', 'ERR_TENANCY_TENANT_EXISTS']))
    expect(await call(() => store.delete('acme'))).toBe(true)
    expect(await call(() => store.delete('acme'))).toBe(false)
    expect(await call(() => store.delete('globex'))).toBe(false)
    expect(await codeOf(() => store.create({ id: 'acme' }))).toBe('ERR_TENANCY_TENANT_EXISTS')
    expect(await codeOf(() => store.update('acme', { status: 'active' }))).toBe(
      'ERR_TENANCY_TENANT_UNKNOWN',
    )
    expect((await store.findById('acme'))?.status ?? 'deleted').toBe('deleted')
    expect(await all(store)).toEqual([])
  })

  it('gives a domain to one tenant at a time', async () => {
    const store = await open()
    await call(() => store.create({ id: 'acme', domains: ['one.example', 'two.example'] }))
    expect(
      await codeOf(() => store.create({ id: 'globex', domains: ['three.example', 'two.example'] })),
    ).toBe('ERR_TENANCY_TENANT_EXISTS')
    expect(await store.findById('globex')).toBeUndefined()
    expect(await store.findByDomain?.('three.example')).toBeUndefined()
    await call(() => store.create({ id: 'globex' }))
    expect(await codeOf(() => store.update('globex', { domains: ['one.example'] }))).toBe(
      'ERR_TENANCY_TENANT_EXISTS',
    )
    await call(() => store.update('acme', { domains: ['one.example'] }))
    await call(() => store.update('globex', { domains: ['two.example'] }))
    expect((await store.findByDomain?.('one.example'))?.id).toBe('acme')
    expect((await store.findByDomain?.('two.example'))?.id).toBe('globex')
    await call(() => store.delete('acme'))
    expect((await store.findByDomain?.('one.example'))?.status ?? 'deleted').toBe('deleted')
    await call(() => store.update('globex', { domains: ['one.example'] }))
    expect((await store.findByDomain?.('one.example'))?.id).toBe('globex')
  })

  it('T1 never puts two tenants in one place', async () => {
    const store = await open()
    await call(() => store.create({ id: 'acme' }))
    const refused = 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT'
    expect(await codeOf(() => store.create({ id: 'globex', placement: { schema: 'acme' } }))).toBe(
      refused,
    )
    await call(() => store.create({ id: 'globex' }))
    expect(await codeOf(() => store.update('globex', { placement: { schema: 'acme' } }))).toBe(
      refused,
    )
    expect((await store.findById('globex'))?.placement).toEqual({})
    const racers = await Promise.all(
      ['one', 'two', 'three', 'four'].map((id) =>
        codeOf(() => store.create({ id, placement: { schema: 'wanted' } })),
      ),
    )
    expect(racers.filter((outcome) => outcome === 'fulfilled')).toHaveLength(1)
    // What a deleted tenant left may still be there.
    await call(() => store.delete('acme'))
    expect(await codeOf(() => store.create({ id: 'heir', placement: { schema: 'acme' } }))).toBe(
      refused,
    )
  })

  it('lists by selector, in the order of the ids', async () => {
    const store = await open()
    for (const input of [
      { id: 'zeta', tags: ['beta'] },
      { id: 'a-b' },
      { id: 'acme', tags: ['beta', 'eu'] },
      { id: 'a1', status: 'suspended' },
      { id: 'ab', tags: ['eu'] },
    ] as const)
      await call(() => store.create(input))
    expect(await all(store)).toEqual(['a-b', 'ab', 'acme', 'zeta'])
    expect(await all(store, { tags: ['beta'] })).toEqual(['acme', 'zeta'])
    expect(await all(store, { tags: ['beta', 'eu'] })).toEqual(['ab', 'acme', 'zeta'])
    expect(await all(store, { ids: ['zeta', 'acme', 'nobody'], tags: ['eu'] })).toEqual(['acme'])
    expect(await all(store, { status: ['suspended'] })).toEqual(['a1'])
    expect(await all(store, { isolation: ['database'] })).toEqual([])
    expect(await all(store, { ids: [] })).toEqual([])
  })

  it('tells watchers of every change until they leave', async () => {
    const store = await open()
    const heard: string[] = []
    const watch = await store.watch?.((id) => heard.push(id))
    await call(() => store.create({ id: 'acme' }))
    await call(() => store.update('acme', { name: 'Acme' }))
    await call(() => store.create({ id: 'globex' }))
    await call(() => store.delete('acme'))
    await eventually(() => heard.length >= 4)
    expect(heard.filter((id) => id === 'acme').length).toBeGreaterThanOrEqual(3)
    expect(new Set(heard)).toEqual(new Set(['acme', 'globex']))
    await watch?.[Symbol.asyncDispose]()
    heard.length = 0
    await call(() => store.update('globex', { name: 'Globex' }))
    expect(await store.findById('globex')).toMatchObject({ name: 'Globex' })
    expect(heard).toEqual([])
  })
}
