import { fileURLToPath } from 'node:url'
import { describe, expect, expectTypeOf, it } from 'vitest'
import { TenancyError } from './errors.ts'
import { definePlugin, type Plugin, type PluginInput } from './plugin.ts'
import { createPluginHost } from './plugin-host.ts'
import type { PluginServices } from './plugin-services.ts'
import type { Tenancy } from './tenancy.ts'

const minimal = { name: 'orders', version: '1.0.0' }

function refusal(input: unknown): string {
  try {
    definePlugin(input as PluginInput)
  } catch (error) {
    if (TenancyError.is(error, 'ERR_TENANCY_OPTION_INVALID')) return error.message
    throw error
  }
  throw new Error('definePlugin accepted it')
}

describe('definePlugin', () => {
  it('freezes a copy with every member filled in', () => {
    const migrations = new URL('./migrations/', import.meta.url)
    const actions = { create: () => 'v1' }
    const plugin = definePlugin({ ...minimal, migrations, actions, requires: ['orders', 'orders'] })
    ;(actions as Record<string, unknown>)['stolen'] = () => 'added later'
    migrations.pathname = '/elsewhere'
    expect(Object.keys(plugin.actions)).toEqual(['create'])
    expect(fileURLToPath(plugin.migrations as URL)).toContain('packages/core/src/migrations')
    expect(plugin.requires).toEqual(['orders'])
    for (const frozen of [plugin, plugin.actions, plugin.jobs, plugin.events, plugin.requires])
      expect(Object.isFrozen(frozen)).toBe(true)
    expect('constructor' in plugin.actions).toBe(false)
    expect(definePlugin(plugin)).toBe(plugin)
  })

  it.each([
    '',
    'Orders',
    '1orders',
    '-orders',
    'orders-',
    'or ders',
    '__proto__',
    'a'.repeat(64),
    7,
    null,
  ])('refuses the name %j', (name) => {
    expect(refusal({ ...minimal, name })).toContain('The name of a plugin')
  })

  it.each([
    '1',
    '1.0',
    'v1.0.0',
    '^1.0.0',
    '1.x.0',
    '01.0.0',
    '1.0.0-',
    '1.0.0-01',
    ' 1.0.0',
    '1.0.0\n',
    '*',
    1,
  ])('refuses the version %j', (version) => {
    expect(refusal({ ...minimal, version })).toContain('exact semantic version')
  })

  it.each(['0.0.0', '1.2.3', '1.0.0-beta.1', '1.0.0+build.7', '10.20.30-rc.1+exp.sha'])(
    'takes the version %s',
    (version) => {
      expect(definePlugin({ ...minimal, version }).version).toBe(version)
    },
  )

  it('names the member that was meant', () => {
    expect(refusal({ ...minimal, action: {} })).toContain('Did you mean "actions"?')
    expect(
      refusal({
        ...minimal,
        jobs: { report() {} },
        schedules: { s: { job: 'report', corn: '* * * * *' } },
      }),
    ).toContain('Did you mean "cron"?')
  })

  it.each([
    ['an action that is no function', { actions: { create: 'x' } }, 'must be a function'],
    [
      'an action with a line break in its name',
      { actions: { 'a\nb': () => 1 } },
      'actions["a\\nb"]',
    ],
    ['an own __proto__', { jobs: JSON.parse('{"__proto__": 1}') }, 'not allowed'],
    ['a list of actions', { actions: [] }, 'must be an object'],
    ['a folder name as migrations', { migrations: './migrations' }, 'file: URL'],
    ['migrations on the web', { migrations: new URL('https://evil.test/') }, 'file: URL'],
    ['SQL in requires', { requires: ['orders; drop table x'] }, 'tables and columns'],
    ['a schedule of no job', { schedules: { s: { job: 'constructor', everyMs: 1 } } }, 'no job'],
    ['a schedule without timing', { jobs: { j() {} }, schedules: { s: { job: 'j' } } }, 'either'],
    [
      'a schedule with two timings',
      { jobs: { j() {} }, schedules: { s: { job: 'j', cron: '* * * * *', everyMs: 5 } } },
      'either',
    ],
    ['a seed that is no function', { seed: 'insert' }, 'must be a function'],
  ])('refuses %s', (_what, members, message) => {
    expect(refusal({ ...minimal, ...members })).toContain(message)
  })

  it('types services of the host, with no tenant mentioned by the author', () => {
    interface Services extends PluginServices {
      readonly db: { query(sql: string): Promise<readonly string[]> }
    }
    // As an umbrella package re-exports it.
    const define = (input: PluginInput<Services>): Plugin<Services> => definePlugin(input)
    interface NewOrder {
      readonly item: string
    }
    const plugin = define({
      ...minimal,
      actions: {
        async create(input: NewOrder, { db, flags, log }) {
          expectTypeOf(db).toEqualTypeOf<Services['db']>()
          expectTypeOf(flags.get('beta', false)).toEqualTypeOf<boolean>()
          log.info(input.item)
          return await db.query('select')
        },
      },
      events: { 'orders:created': (_payload: NewOrder, { db }) => void db },
    })
    // A plugin that asks for less runs on a host that offers more, and not the other way round.
    const compile = (tenancy: Tenancy): void => {
      const services = () => ({ db: { query: async () => [] } })
      createPluginHost<Services>(tenancy, { plugins: [plugin, definePlugin(minimal)], services })
      // @ts-expect-error nobody brings db
      createPluginHost<Services>(tenancy, { plugins: [plugin] })
      // @ts-expect-error the plugin needs db
      createPluginHost(tenancy, { plugins: [plugin] })
    }
    expect(compile).toBeTypeOf('function')
  })
})
