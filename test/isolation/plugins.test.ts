import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises'
import {
  createPluginHost,
  createTenancy,
  definePlugin,
  memoryTenantStore,
  type Plugin,
  type PluginServices,
  TenancyError,
} from '@partywall/core'
import { describe, expect, it } from 'vitest'

const TENANTS = ['acme', 'globex', 'initech', 'umbra'] as const
const VERSIONS = ['1.0.0', '2.0.0'] as const
const pinOf = (index: number): string => VERSIONS[index % 2] as string

/** A plugin that stores what it is given under the same ids in every tenant; the canary is the tenant's name. */
function shop(
  version: string,
  tables: Map<string, Map<string, string>>,
  kept: PluginServices[],
): Plugin {
  return definePlugin({
    name: 'shop',
    version,
    actions: {
      async put(input: { id: string }, services) {
        const { tenant, plugins, events } = services
        await tick()
        const table = tables.get(tenant.id) ?? new Map<string, string>()
        tables.set(tenant.id, table)
        table.set(input.id, `${tenant.id}@${version}`)
        const stamp = await plugins.call<string>('ledger', 'stamp', input.id)
        const { failures } = await events.emit('shop:put', { id: input.id, stamp })
        if (kept.length < 8) kept.push(services)
        await sleep(Math.random() * 2)
        return { canary: table.get(input.id), stamp, failures: failures.length, tenant: tenant.id }
      },
    },
  })
}

function setUp() {
  const tables = new Map<string, Map<string, string>>()
  const kept: PluginServices[] = []
  const heard: string[] = []
  const store = memoryTenantStore(
    TENANTS.map((id, index) => ({
      id,
      release: { name: 'r', plugins: { shop: pinOf(index), ledger: pinOf(index + 1) } },
    })),
  )
  const tenancy = createTenancy({ store })
  const ledger = (version: string): Plugin =>
    definePlugin({
      name: 'ledger',
      version,
      actions: {
        async stamp(id: string, { tenant }) {
          await tick()
          const active = tenancy.require().tenant.id
          return `${active}/${tenant.id}/${id}@${version}`
        },
      },
      events: {
        async 'shop:put'(payload: { stamp: string }, { tenant }) {
          await tick()
          heard.push(`${tenancy.require().tenant.id} ${tenant.id} ${version} ${payload.stamp}`)
        },
      },
    })
  const host = createPluginHost(tenancy, {
    plugins: VERSIONS.flatMap((version) => [shop(version, tables, kept), ledger(version)]),
  })
  return { tenancy, host, tables, kept, heard }
}

describe('plugins of several tenants on different pins', () => {
  it('PH1 interleaved calls reach the pinned version and nobody else’s data', async () => {
    const { tenancy, host, tables, heard } = setUp()
    const units = 1_600
    const outcomes = await Promise.all(
      Array.from({ length: units }, async (_, unit) => {
        const index = unit % TENANTS.length
        const tenant = TENANTS[index] as string
        // The same ids in every tenant.
        const id = `row-${Math.floor(unit / TENANTS.length) % 25}`
        const result = await tenancy.run(tenant, () => host.call('shop', 'put', { id }))
        return { index, tenant, id, result }
      }),
    )
    for (const { index, tenant, id, result } of outcomes)
      expect(result).toEqual({
        canary: `${tenant}@${pinOf(index)}`,
        stamp: `${tenant}/${tenant}/${id}@${pinOf(index + 1)}`,
        failures: 0,
        tenant,
      })
    expect(heard).toHaveLength(units)
    for (const line of heard) {
      const [active, tenant, version, stamp] = line.split(' ')
      const index = TENANTS.indexOf(tenant as (typeof TENANTS)[number])
      expect(active).toBe(tenant)
      expect(version).toBe(pinOf(index + 1))
      expect(stamp?.startsWith(`${tenant}/${tenant}/`)).toBe(true)
    }
    for (const [tenant, table] of tables)
      for (const canary of table.values()) expect(canary.split('@')[0]).toBe(tenant)
    expect(tenancy.current()).toBeUndefined()
  })

  it('PH2 services that one tenant kept do not act for another', async () => {
    const { tenancy, host, kept, heard } = setUp()
    await tenancy.run('acme', () => host.call('shop', 'put', { id: 'row-1' }))
    const services = kept[0] as PluginServices
    heard.length = 0
    const attempts = [
      () => services.plugins.call('ledger', 'stamp', 'row-1'),
      () => services.events.emit('shop:put', { id: 'row-1', stamp: 'stolen' }),
    ]
    for (const attempt of attempts) {
      const error = await tenancy.run('globex', attempt).catch((reason: unknown) => reason)
      expect(TenancyError.is(error, 'ERR_TENANCY_CONTEXT_LOCKED')).toBe(true)
    }
    expect(heard).toEqual([])
    expect(() => Object.assign(services, { tenant: { id: 'globex' } })).toThrow(TypeError)
    expect(services.tenant.id).toBe('acme')
  })

  it('PH3 hostile names reach nothing, in every tenant', async () => {
    const { tenancy, host, tables } = setUp()
    const hostile = [
      '__proto__',
      'constructor',
      'prototype',
      'shop\u0000',
      'shop@2.0.0',
      '../shop',
      'SHOP',
      '',
    ]
    for (const tenant of TENANTS)
      for (const name of hostile) {
        const plugin = await tenancy
          .run(tenant, () => host.call(name, 'put', { id: 'x' }))
          .catch((reason: unknown) => reason)
        expect(TenancyError.is(plugin, 'ERR_TENANCY_PLUGIN_UNKNOWN')).toBe(true)
        const action = await tenancy
          .run(tenant, () => host.call('shop', name, { id: 'x' }))
          .catch((reason: unknown) => reason)
        expect(TenancyError.is(action, 'ERR_TENANCY_PLUGIN_ACTION_UNKNOWN')).toBe(true)
      }
    expect(tables.size).toBe(0)
  })
})
