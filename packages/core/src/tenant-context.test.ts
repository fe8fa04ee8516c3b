import { EventEmitter } from 'node:events'
import { setTimeout as wait } from 'node:timers/promises'
import { beforeEach, describe, expect, expectTypeOf, it } from 'vitest'
import {
  createTenancy,
  isTenantScope,
  memoryTenantStore,
  type Tenancy,
  type TenantContext,
  type TenantScope,
} from './index.ts'

const tenants = [
  { id: 'acme', name: 'Acme' },
  { id: 'globex', name: 'Globex' },
]
const refusal = (code: string) => expect.objectContaining({ code })

let tenancy: Tenancy
let context: TenantContext
let acme: TenantScope
let globex: TenantScope

async function scopeOf(of: Tenancy, id: string): Promise<TenantScope> {
  return await of.run(id, (scope) => scope, { actor: { id: 'u1', name: `of ${id}` } })
}

beforeEach(async () => {
  tenancy = createTenancy({ store: memoryTenantStore(tenants) })
  context = tenancy.context
  acme = await scopeOf(tenancy, 'acme')
  globex = await scopeOf(tenancy, 'globex')
})

describe('TenantContext', () => {
  it('knows the three modes', () => {
    expect([context.mode(), context.current()]).toEqual(['none', undefined])
    context.run(acme, (given) => {
      expect(given).toBe(acme)
      expect([context.mode(), context.current(), context.require()]).toEqual(['tenant', acme, acme])
    })
    tenancy.central('a test', () => {
      expect([context.mode(), context.current()]).toEqual(['central', undefined])
      expect(() => context.require()).toThrow('Central work acts for no tenant')
    })
    expect(() => context.require()).toThrow(refusal('ERR_TENANCY_CONTEXT_MISSING'))
    expect(context.mode()).toBe('none')
  })

  it('returns what the function returns, and what it throws', () => {
    expect(context.run(acme, () => 7)).toBe(7)
    expectTypeOf(context.run(acme, () => 7)).toEqualTypeOf<number>()
    expectTypeOf(context.run(acme, async () => 7)).toEqualTypeOf<Promise<number>>()
    const error = new Error('of the function')
    expect(() =>
      context.run(acme, () => {
        throw error
      }),
    ).toThrow(error)
    expect(context.current()).toBeUndefined()
  })

  it('lets the same tenant in again and no other', () => {
    context.run(acme, () => {
      expect(context.run(acme, () => context.current())).toBe(acme)
      let ran = false
      expect(() => context.run(globex, () => (ran = true))).toThrow(
        refusal('ERR_TENANCY_CONTEXT_LOCKED'),
      )
      expect(ran).toBe(false)
      expect(context.current()).toBe(acme)
    })
  })

  it('takes no scope that the tenancy did not make', () => {
    const other = createTenancy({ store: memoryTenantStore(tenants) })
    const forgeries: unknown[] = [
      undefined,
      null,
      'acme',
      {},
      { ...acme },
      Object.create(acme),
      structuredClone({ ...acme }),
      new Proxy(acme, {}),
    ]
    let ran = false
    for (const forgery of forgeries) {
      expect(isTenantScope(forgery)).toBe(false)
      expect(() => context.run(forgery as TenantScope, () => (ran = true))).toThrow(
        refusal('ERR_TENANCY_CONTEXT_MISSING'),
      )
    }
    expect(() => other.context.run(acme, () => (ran = true))).toThrow(
      refusal('ERR_TENANCY_CONTEXT_MISSING'),
    )
    expect(() => other.run(acme, () => (ran = true))).toThrow(
      refusal('ERR_TENANCY_CONTEXT_MISSING'),
    )
    expect(ran).toBe(false)
  })

  it('makes no scope for those who hold one', () => {
    type Maker = new (...args: unknown[]) => object
    const made = new (acme.constructor as Maker)(context, globex.tenant, 'forged', {})
    expect(isTenantScope(made)).toBe(false)
    expect(() => Object.assign(Object.getPrototypeOf(acme), { actor: { id: 'root' } })).toThrow(
      TypeError,
    )
  })

  it('gives scopes that nobody can change', () => {
    for (const part of [acme, acme.tenant, acme.tenant.tags, acme.tenant.settings, acme.actor])
      expect(Object.isFrozen(part)).toBe(true)
    expect(() => Object.assign(acme, { tenant: globex.tenant })).toThrow(TypeError)
    // @ts-expect-error a scope is read-only
    expect(() => (acme.source = 'x')).toThrow(TypeError)
  })

  it('does not see the scope of another tenancy, and does not enter inside one', async () => {
    const other = createTenancy({ store: memoryTenantStore(tenants) })
    const foreign = await scopeOf(other, 'acme')
    other.run(foreign, () => {
      expect([context.mode(), context.current()]).toEqual(['none', undefined])
      expect(() => context.require()).toThrow(refusal('ERR_TENANCY_CONTEXT_MISSING'))
      expect(() => context.run(acme, () => 0)).toThrow(refusal('ERR_TENANCY_CONTEXT_LOCKED'))
    })
  })

  it('runs nothing in a tenant by outside()', async () => {
    await context.run(acme, async () => {
      expect(context.outside(() => context.mode())).toBe('none')
      await context.outside(() => wait(1).then(() => expect(context.mode()).toBe('none')))
      expect(context.current()).toBe(acme)
    })
  })

  it('binds to the context of the moment: a tenant, central work, or none', () => {
    const read = (): [string, string | undefined] => [
      context.mode(),
      context.current()?.tenant.name,
    ]
    const inAcme = context.run(acme, () => context.bind(read))
    const inCentral = tenancy.central('a test', () => context.bind(read))
    const inNone = context.bind(read)
    context.run(globex, () => {
      expect(inAcme()).toEqual(['tenant', 'Acme'])
      expect(inCentral()).toEqual(['central', undefined])
      expect(inNone()).toEqual(['none', undefined])
      expect(read()).toEqual(['tenant', 'Globex'])
    })
  })

  it('binds with this, arguments and types kept', () => {
    const emitter = new EventEmitter()
    const seen: unknown[] = []
    context.run(acme, () =>
      emitter.on(
        'order',
        context.bind(function listener(this: unknown, id: number) {
          seen.push(this, id, context.current()?.tenant.name)
        }),
      ),
    )
    context.run(globex, () => emitter.emit('order', 7))
    expect(seen).toEqual([emitter, 7, 'Acme'])
    expectTypeOf(context.bind((a: number, b: string) => `${a}${b}`)).toEqualTypeOf<
      (a: number, b: string) => string
    >()
  })
})
