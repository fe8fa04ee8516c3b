import { describe, expect, it } from 'vitest'
import { TenancyError, type TenancyErrorCode } from './errors.ts'
import { memoryTenantStore } from './memory-tenant-store.ts'
import { definePlugin, type PluginInput } from './plugin.ts'
import { createPluginHost, type PluginHost } from './plugin-host.ts'
import type { PluginLogRecord } from './plugin-log.ts'
import type { PluginServices } from './plugin-services.ts'
import { createTenancy } from './tenancy.ts'

const release = (plugins: Record<string, string>) => ({ name: 'r', plugins })

function setUp(plugins: readonly PluginInput[]) {
  const tenancy = createTenancy({
    store: memoryTenantStore([
      { id: 'acme', release: release({ orders: '1.0.0' }), settings: { flags: { beta: true } } },
      { id: 'globex', release: release({ orders: '2.0.0' }) },
      { id: 'initech' },
      { id: 'umbra', release: release({ orders: '9.9.9' }) },
    ]),
  })
  const logs: PluginLogRecord[] = []
  const host = createPluginHost(tenancy, {
    plugins: plugins.map((plugin) => definePlugin(plugin)),
    log: (record) => void logs.push(record),
  })
  return { tenancy, host, logs }
}

const versioned = (version: string): PluginInput => ({
  name: 'orders',
  version,
  actions: { create: (input, { tenant }) => `${version} ${tenant.id} ${input}` },
})

async function codeOf(promise: Promise<unknown>): Promise<TenancyErrorCode | undefined> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  return TenancyError.is(error) ? error.code : undefined
}

describe('versions', () => {
  it('calls the version that the release of the active tenant pins', async () => {
    const { tenancy, host } = setUp([versioned('1.0.0'), versioned('2.0.0')])
    const call = () => host.call('orders', 'create', 'x')
    expect(await tenancy.run('acme', call)).toBe('1.0.0 acme x')
    expect(await tenancy.run('globex', call)).toBe('2.0.0 globex x')
    expect(await codeOf(tenancy.run('initech', call))).toBe('ERR_TENANCY_PLUGIN_VERSION_UNPINNED')
    expect(await codeOf(tenancy.run('umbra', call))).toBe('ERR_TENANCY_PLUGIN_VERSION_MISSING')
  })

  it('takes the only version where nothing is pinned, but never instead of a pin', async () => {
    const { tenancy, host } = setUp([versioned('1.0.0')])
    const call = () => host.call('orders', 'create', 'x')
    expect(await tenancy.run('initech', call)).toBe('1.0.0 initech x')
    expect(await codeOf(tenancy.run('globex', call))).toBe('ERR_TENANCY_PLUGIN_VERSION_MISSING')
  })

  it('refuses one version twice', () => {
    expect(() => setUp([versioned('1.0.0'), versioned('1.0.0')])).toThrow(/registered twice/)
  })

  it('tells the plugins, jobs and schedules of a tenant in a fixed order', async () => {
    const jobs = { report: (_data: unknown, { tenant }: PluginServices) => tenant.id }
    const { tenancy, host } = setUp([
      { name: 'zeta', version: '1.0.0', jobs },
      { ...versioned('2.0.0'), jobs: { late: () => 'late' } },
      { ...versioned('1.0.0'), jobs, schedules: { nightly: { job: 'report', everyMs: 1000 } } },
    ])
    const acme = await tenancy.run('acme', ({ tenant }) => tenant)
    expect(host.pluginsFor(acme).map(({ name, version }) => `${name}@${version}`)).toEqual([
      'orders@1.0.0',
      'zeta@1.0.0',
    ])
    expect(host.schedulesFor(acme)).toMatchObject([
      { id: 'orders.nightly', name: 'orders.report', schedule: { everyMs: 1000 } },
    ])
    expect(host.jobs().map(({ name }) => name)).toEqual([
      'orders.late',
      'orders.report',
      'zeta.report',
    ])
    const report = host.jobs()[1]
    expect(await tenancy.run('acme', () => report?.run({}))).toBe('acme')
    expect(await codeOf(tenancy.run('globex', async () => report?.run({})))).toBe(
      'ERR_TENANCY_JOB_UNKNOWN',
    )
  })
})

describe('unknown and hostile names', () => {
  const { tenancy, host } = setUp([{ ...versioned('1.0.0'), name: 'sales' }])
  const hostile = [
    '__proto__',
    'constructor',
    'toString',
    'hasOwnProperty',
    '',
    'sales\n',
    ['sales'],
    null,
    {},
  ]

  it.each(hostile)('has no plugin %j', async (name) => {
    const call = tenancy.run('acme', () => host.call(name as string, 'create'))
    expect(await codeOf(call)).toBe('ERR_TENANCY_PLUGIN_UNKNOWN')
  })

  it.each([...hostile, 'create\n', ['create']])('has no action %j', async (action) => {
    const call = tenancy.run('acme', () => host.call('sales', action as string))
    expect(await codeOf(call)).toBe('ERR_TENANCY_PLUGIN_ACTION_UNKNOWN')
  })

  it('suggests the name that was meant', async () => {
    await expect(tenancy.run('acme', () => host.call('sale', 'create'))).rejects.toThrow(
      'Did you mean sales?',
    )
    await expect(tenancy.run('acme', () => host.call('sales', 'creat'))).rejects.toThrow(
      'Did you mean create?',
    )
  })

  it('refuses outside of every tenant and in central work', async () => {
    expect(await codeOf(host.call('sales', 'create'))).toBe('ERR_TENANCY_CONTEXT_MISSING')
    expect(await codeOf(host.emit('sales:made'))).toBe('ERR_TENANCY_CONTEXT_MISSING')
    expect(await codeOf(host.seed())).toBe('ERR_TENANCY_CONTEXT_MISSING')
    const central = tenancy.central('test', () => host.call('sales', 'create'))
    expect(await codeOf(central)).toBe('ERR_TENANCY_CONTEXT_MISSING')
  })
})

describe('services', () => {
  it('are frozen and belong to the tenant', async () => {
    const seen: PluginServices[] = []
    const { tenancy, host, logs } = setUp([
      {
        name: 'sales',
        version: '1.0.0',
        actions: {
          look: (_input, services) => {
            seen.push(services)
            services.log.warn('looked', { tenantId: 'forged' })
            return services.flags.get('beta', false)
          },
        },
      },
    ])
    expect(await tenancy.run('acme', () => host.call('sales', 'look'))).toBe(true)
    expect(await tenancy.run('globex', () => host.call('sales', 'look'))).toBe(false)
    expect(seen.map(({ tenant }) => tenant.id)).toEqual(['acme', 'globex'])
    for (const value of [seen[0], seen[0]?.plugins, seen[0]?.events, seen[0]?.env, seen[0]?.log])
      expect(Object.isFrozen(value)).toBe(true)
    expect(logs.map(({ tenantId }) => tenantId)).toEqual(['acme', 'globex'])
  })

  it('read flags as own members of the right type', async () => {
    const { tenancy, host } = setUp([
      {
        name: 'sales',
        version: '1.0.0',
        actions: {
          flags: (_input, { flags }) => [
            flags.get('beta', 'off'),
            flags.get('constructor'),
            flags.get('__proto__', 1),
            flags.get('beta'),
          ],
        },
      },
    ])
    expect(await tenancy.run('acme', () => host.call('sales', 'flags'))).toEqual([
      'off',
      undefined,
      1,
      true,
    ])
  })

  it('take what the host adds, for the scope and plugin of the call, but no tenant in our place', async () => {
    interface Services extends PluginServices {
      readonly where: string
    }
    const { tenancy } = setUp([])
    const plugin = definePlugin<Services>({
      name: 'sales',
      version: '1.0.0',
      actions: { where: (_input, { where, env }) => `${where} ${env['REGION']}` },
    })
    const host = createPluginHost<Services>(tenancy, {
      plugins: [plugin],
      services: ({ tenant }, { name }) => ({
        where: `${tenant.id}/${name}`,
        env: { REGION: `eu-${tenant.id}` },
      }),
    })
    expect(await tenancy.run('acme', () => host.call('sales', 'where'))).toBe('acme/sales eu-acme')
    const forging = createPluginHost<Services>(tenancy, {
      plugins: [plugin],
      services: (scope) => ({ where: '', tenant: { ...scope.tenant, id: 'globex' } }),
    })
    const call = tenancy.run('acme', () => forging.call('sales', 'where'))
    expect(await codeOf(call)).toBe('ERR_TENANCY_OPTION_INVALID')
  })

  it('that were kept refuse another tenant and stay with their own outside of any', async () => {
    let kept: PluginServices | undefined
    const { tenancy, host } = setUp([
      {
        name: 'sales',
        version: '1.0.0',
        actions: {
          keep: (_input, services) => void (kept ??= services),
          who: (_input, { tenant }) => `${tenant.id}/${tenancy.current()?.tenant.id}`,
        },
      },
    ])
    await tenancy.run('acme', () => host.call('sales', 'keep'))
    const call = () => kept?.plugins.call('sales', 'who') ?? Promise.reject(new Error('not kept'))
    expect(await tenancy.run('acme', call)).toBe('acme/acme')
    expect(await tenancy.context.outside(call)).toBe('acme/acme')
    expect(await codeOf(tenancy.run('globex', call))).toBe('ERR_TENANCY_CONTEXT_LOCKED')
    const emit = () => kept?.events.emit('sales:made') ?? Promise.reject(new Error('not kept'))
    expect(await codeOf(tenancy.run('globex', emit))).toBe('ERR_TENANCY_CONTEXT_LOCKED')
  })
})

describe('events', () => {
  it('reach the pinned version of each subscriber of the same tenant, and are awaited', async () => {
    const got: string[] = []
    const listener = (name: string, version: string): PluginInput => ({
      name,
      version,
      events: {
        'sales:made': async (payload, { tenant }) => {
          await new Promise((resolve) => setTimeout(resolve, 5))
          got.push(`${name}@${version} ${tenant.id} ${payload}`)
        },
      },
    })
    const { tenancy, host } = setUp([
      listener('orders', '1.0.0'),
      listener('orders', '2.0.0'),
      listener('mail', '1.0.0'),
      { name: 'quiet', version: '1.0.0' },
    ])
    const result = await tenancy.run('acme', () => host.emit('sales:made', 'p'))
    expect(result).toEqual({ delivered: 2, failures: [] })
    expect(got).toEqual(['mail@1.0.0 acme p', 'orders@1.0.0 acme p'])
    await tenancy.run('globex', () => host.emit('sales:made', 'p'))
    expect(got.slice(2)).toEqual(['mail@1.0.0 globex p', 'orders@2.0.0 globex p'])
    expect(await tenancy.run('acme', () => host.emit('__proto__'))).toMatchObject({ delivered: 0 })
  })

  it('report a failing subscriber and spare the emitter and the others', async () => {
    const { tenancy, host, logs } = setUp([
      {
        name: 'bad',
        version: '1.0.0',
        events: {
          'sales:made': () => {
            throw new Error('boom')
          },
        },
      },
      { name: 'good', version: '1.0.0', events: { 'sales:made': () => 'fine' } },
      { ...versioned('1.0.0'), events: { 'sales:made': () => 'fine' } },
    ])
    const told: unknown[] = []
    tenancy.on('plugin:subscriber-failed', (event) => void told.push(event))
    // umbra pins a version of orders that is not there: told as a failure of that subscriber.
    const result = await tenancy.run('umbra', () => host.emit('sales:made'))
    expect(result.delivered).toBe(2)
    expect(result.failures.map(({ plugin }) => plugin)).toEqual(['bad', 'orders'])
    expect(told).toMatchObject([
      { plugin: 'bad', version: '1.0.0', event: 'sales:made', scope: { tenant: { id: 'umbra' } } },
      { plugin: 'orders', version: undefined },
    ])
    expect(logs.map(({ level, tenantId, plugin }) => `${level} ${tenantId} ${plugin}`)).toEqual([
      'error umbra bad',
      'error umbra orders',
    ])
  })

  it('end where two plugins answer each other for ever', async () => {
    let calls = 0
    const { tenancy, host } = setUp([
      {
        name: 'ping',
        version: '1.0.0',
        events: { 'pong:sent': (_payload, { events }) => (calls++, events.emit('ping:sent')) },
        actions: { loop: (_input, { plugins }) => plugins.call('ping', 'loop') },
      },
      {
        name: 'pong',
        version: '1.0.0',
        events: { 'ping:sent': (_payload, { events }) => (calls++, events.emit('pong:sent')) },
      },
    ])
    expect(await codeOf(tenancy.run('acme', () => host.emit('ping:sent')))).toBe(
      'ERR_TENANCY_PLUGIN_CALL_LOOP',
    )
    expect(calls).toBeGreaterThan(10)
    expect(calls).toBeLessThan(100)
    expect(await codeOf(tenancy.run('acme', () => host.call('ping', 'loop')))).toBe(
      'ERR_TENANCY_PLUGIN_CALL_LOOP',
    )
  })
})

describe('loops', () => {
  it('of two plugins that repeat one event end at once, tell the caller, and are no failure of a subscriber', async () => {
    let calls = 0
    const repeating = (name: string): PluginInput => ({
      name,
      version: '1.0.0',
      events: {
        'order:updated': async (_payload, { events }) => {
          if (calls++ < 100_000) await events.emit('order:updated')
        },
      },
    })
    const { tenancy, host, logs } = setUp([repeating('a'), repeating('b')])
    for (const id of ['acme', 'globex']) {
      calls = 0
      expect(await codeOf(tenancy.run(id, () => host.emit('order:updated')))).toBe(
        'ERR_TENANCY_PLUGIN_CALL_LOOP',
      )
      expect(calls).toBeLessThan(100)
    }
    expect(logs).toEqual([])
  })

  it('of plugins that swallow every error end too', async () => {
    let calls = 0
    const repeating = (name: string): PluginInput => ({
      name,
      version: '1.0.0',
      events: {
        'order:updated': async (_payload, { events }) => {
          if (calls++ < 100_000) await events.emit('order:updated').catch(() => {})
        },
      },
    })
    const { tenancy, host } = setUp([repeating('a'), repeating('b')])
    for (const id of ['acme', 'globex']) {
      calls = 0
      await tenancy.run(id, () => host.emit('order:updated'))
      // Each of the two deliveries of the first event may cause 10,000 events, each delivered twice.
      expect(calls).toBeLessThan(41_000)
    }
  })

  it('of calls that go on widely but not deep end too', async () => {
    let calls = 0
    const { tenancy, host } = setUp([
      {
        name: 'wide',
        version: '1.0.0',
        actions: {
          fan: async (level, { plugins }) => {
            if (calls++ > 100_000 || level === 0) return
            for (let n = 0; n < 10; n++) await plugins.call('wide', 'fan', (level as number) - 1)
          },
        },
      },
    ])
    for (const id of ['acme', 'globex']) {
      calls = 0
      const fan = (level: number) => tenancy.run(id, () => host.call('wide', 'fan', level))
      expect(await codeOf(fan(12))).toBe('ERR_TENANCY_PLUGIN_CALL_LOOP')
      expect(calls).toBeLessThan(10_100)
      await fan(3)
    }
  })

  it('are not seen where a job makes many calls, or kept services make many over time', async () => {
    let kept: PluginServices | undefined
    let done = 0
    const { tenancy, host } = setUp([
      {
        name: 'bulk',
        version: '1.0.0',
        actions: {
          one: () => ++done,
          keep: (_input, services) => void (kept = services),
          nested: (_input, { plugins }) => plugins.call('bulk', 'keep'),
          all: async (_input, { plugins }) => {
            await Promise.all(Array.from({ length: 11_000 }, () => plugins.call('bulk', 'one')))
          },
        },
      },
    ])
    for (const id of ['acme', 'globex']) {
      done = 0
      await tenancy.run(id, () => host.call('bulk', 'all'))
      await tenancy.run(id, () => host.call('bulk', 'nested'))
      for (let n = 0; n < 11_000; n++) await kept?.plugins.call('bulk', 'one')
      expect([done, kept?.tenant.id]).toEqual([22_000, id])
    }
  })
})

it('seeds the pinned versions in the order of their names, and stops at a failure', async () => {
  const ran: string[] = []
  const seeding = (name: string, version: string): PluginInput => ({
    name,
    version,
    seed: async ({ tenant }) => {
      ran.push(`${name}@${version} ${tenant.id}`)
      if (name === 'orders' && version === '2.0.0') throw new Error('no table')
    },
  })
  const { tenancy, host }: { tenancy: ReturnType<typeof setUp>['tenancy']; host: PluginHost } =
    setUp([seeding('zeta', '1.0.0'), seeding('orders', '1.0.0'), seeding('orders', '2.0.0')])
  await tenancy.run('acme', () => host.seed())
  expect(ran.splice(0)).toEqual(['orders@1.0.0 acme', 'zeta@1.0.0 acme'])
  await expect(tenancy.run('globex', () => host.seed())).rejects.toThrow('no table')
  expect(ran).toEqual(['orders@2.0.0 globex'])
})
