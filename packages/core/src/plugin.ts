import { TenancyError } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'
import { assertKnownKeys } from './known-keys.ts'
import type { PluginServices } from './plugin-services.ts'

/**
 * One function of a plugin. The first parameter is whatever the caller passes; declare its type where the function is written
 * (`create(input: NewOrder, { db }) {}`). It is not checked at run time.
 */
// `any`, because every declared input type must fit, and under `unknown` none would.
export type PluginFunction<S> = (input: any, services: S) => unknown

/** When a job of a plugin runs in every tenant of the plugin: either by cron pattern, or at a fixed distance. */
export type PluginSchedule = {
  /** The name of a job of the same plugin. */
  readonly job: string
  /** Handed to the job; JSON. */
  readonly data?: unknown
} & (
  | { readonly cron: string; readonly timezone?: string | undefined; readonly everyMs?: undefined }
  | { readonly everyMs: number; readonly cron?: undefined; readonly timezone?: undefined }
)

/** What {@link definePlugin} takes. `S` are the services that its functions are handed. */
export interface PluginInput<S extends PluginServices = PluginServices> {
  /** 1 to 63 characters of `a-z`, `0-9` and `-`, beginning with a letter. */
  readonly name: string
  /** One exact semantic version, `1.2.0`. Several versions of a plugin may be registered side by side. */
  readonly version: string
  /** The folder with the plugin's SQL migrations: `new URL('./migrations/', import.meta.url)`. */
  readonly migrations?: URL | undefined
  /** Fills a new tenant. Must be safe to repeat. */
  readonly seed?: ((services: S) => unknown) | undefined
  /** What others may call. */
  readonly actions?: Readonly<Record<string, PluginFunction<S>>> | undefined
  /** Handlers of background jobs. */
  readonly jobs?: Readonly<Record<string, PluginFunction<S>>> | undefined
  /** When jobs run by themselves, by schedule id. */
  readonly schedules?: Readonly<Record<string, PluginSchedule>> | undefined
  /** Subscriptions to events of plugins, by event name: `'orders:created'`. */
  readonly events?: Readonly<Record<string, PluginFunction<S>>> | undefined
  /** Database objects that must exist before the plugin is deployed: `'orders'`, `'orders.customer_id'`. */
  readonly requires?: readonly string[] | undefined
}

/** A plugin, checked and frozen. Made by {@link definePlugin}. Records have no prototype, so that `constructor` is in none of them. */
export interface Plugin<S extends PluginServices = PluginServices> {
  readonly name: string
  readonly version: string
  readonly migrations?: URL
  readonly seed?: (services: S) => unknown
  readonly actions: Readonly<Record<string, PluginFunction<S>>>
  readonly jobs: Readonly<Record<string, PluginFunction<S>>>
  readonly schedules: Readonly<Record<string, PluginSchedule>>
  readonly events: Readonly<Record<string, PluginFunction<S>>>
  readonly requires: readonly string[]
}

const KEYS = [
  'name',
  'version',
  'migrations',
  'seed',
  'actions',
  'jobs',
  'schedules',
  'events',
  'requires',
] as const

const NAME = /^[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?$/
const MEMBER = /^[A-Za-z][A-Za-z0-9_-]{0,99}$/
const EVENT = /^[A-Za-z][A-Za-z0-9_-]*(?:[:.][A-Za-z0-9_-]+)*$/
const OBJECT = /^[A-Za-z_][A-Za-z0-9_$]{0,62}(?:\.[A-Za-z_][A-Za-z0-9_$]{0,62})?$/
// semver.org, 2.0.0: no ranges, no leading v, no leading zeros.
const VERSION =
  /^(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?$/
const LONGEST = 100

const defined = new WeakSet<object>()

/**
 * Defines a plugin: checks every member, copies and freezes it. The plugin is written as if there were one tenant; each of its functions is
 * handed {@link PluginServices} that belong to the tenant it runs for.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`, naming the member at fault.
 */
export function definePlugin<S extends PluginServices = PluginServices>(
  input: PluginInput<S>,
): Plugin<S> {
  if (typeof input !== 'object' || input === null)
    throw invalid(`A plugin must be an object, got ${describeValue(input)}.`)
  if (defined.has(input)) return input as Plugin<S>
  const { name, version, migrations, seed } = input
  if (typeof name !== 'string' || !NAME.test(name))
    throw invalid(
      `The name of a plugin is 1 to 63 characters of a-z, 0-9 and -, beginning with a letter; got ${describeValue(name)}.`,
    )
  assertKnownKeys(`plugin ${name}`, input, KEYS)
  if (typeof version !== 'string' || version.length > LONGEST || !VERSION.test(version))
    throw invalid(
      `The version of plugin ${name} must be one exact semantic version such as 1.2.0, got ${describeValue(version)}.`,
    )
  if (migrations !== undefined && !(migrations instanceof URL && migrations.protocol === 'file:'))
    throw invalid(
      `migrations of plugin ${name} must be a file: URL such as new URL('./migrations/', import.meta.url), got ${describeValue(migrations)}.`,
    )
  if (seed !== undefined && typeof seed !== 'function')
    throw invalid(`seed of plugin ${name} must be a function, got ${describeValue(seed)}.`)
  const jobs = functions<S>(name, 'jobs', input.jobs, MEMBER)
  const plugin: Plugin<S> = Object.freeze({
    name,
    version,
    // A copy: a URL cannot be frozen, and the caller's may change later.
    ...(migrations === undefined ? {} : { migrations: new URL(migrations) }),
    ...(seed === undefined ? {} : { seed }),
    actions: functions<S>(name, 'actions', input.actions, MEMBER),
    jobs,
    schedules: schedules(name, input.schedules, jobs),
    events: functions<S>(name, 'events', input.events, EVENT),
    requires: requires(name, input.requires),
  })
  defined.add(plugin)
  return plugin
}

function functions<S>(
  plugin: string,
  member: string,
  value: unknown,
  grammar: RegExp,
): Readonly<Record<string, PluginFunction<S>>> {
  return record(plugin, member, value, grammar, (what, entry) => {
    if (typeof entry === 'function') return entry as PluginFunction<S>
    throw invalid(`${what} must be a function, got ${describeValue(entry)}.`)
  })
}

function schedules(
  plugin: string,
  value: unknown,
  jobs: Readonly<Record<string, unknown>>,
): Readonly<Record<string, PluginSchedule>> {
  return record(plugin, 'schedules', value, MEMBER, (what, entry) => {
    if (typeof entry !== 'object' || entry === null)
      throw invalid(
        `${what} must be an object { job, cron | everyMs }, got ${describeValue(entry)}.`,
      )
    assertKnownKeys(what, entry, ['job', 'data', 'cron', 'everyMs', 'timezone'])
    const { job, cron, everyMs, timezone } = entry as Partial<Record<string, unknown>>
    if (typeof job !== 'string' || !Object.hasOwn(jobs, job))
      throw invalid(`${what} names ${describeValue(job)}, which is no job of the plugin.`)
    if ((cron === undefined) === (everyMs === undefined))
      throw invalid(`${what} needs either cron or everyMs.`)
    if (cron !== undefined && (typeof cron !== 'string' || cron.trim() === ''))
      throw invalid(`cron of ${what} must be a pattern, got ${describeValue(cron)}.`)
    if (everyMs !== undefined && !(Number.isSafeInteger(everyMs) && (everyMs as number) > 0))
      throw invalid(
        `everyMs of ${what} must be a whole number of milliseconds above 0, got ${describeValue(everyMs)}.`,
      )
    if (timezone !== undefined && (cron === undefined || typeof timezone !== 'string'))
      throw invalid(`timezone of ${what} must be a name such as Europe/Berlin, beside cron.`)
    return Object.freeze({ ...entry }) as PluginSchedule
  })
}

function requires(plugin: string, value: unknown): readonly string[] {
  if (value === undefined) return Object.freeze([])
  if (!Array.isArray(value))
    throw invalid(`requires of plugin ${plugin} must be a list, got ${describeValue(value)}.`)
  for (const entry of value)
    if (typeof entry !== 'string' || !OBJECT.test(entry))
      throw invalid(
        `requires of plugin ${plugin} takes tables and columns such as 'orders' and 'orders.customer_id', got ${describeValue(entry)}.`,
      )
  return Object.freeze([...new Set<string>(value)])
}

function record<T>(
  plugin: string,
  member: string,
  value: unknown,
  grammar: RegExp,
  check: (what: string, entry: unknown) => T,
): Readonly<Record<string, T>> {
  const checked = Object.create(null) as Record<string, T>
  if (value !== undefined) {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw invalid(`${member} of plugin ${plugin} must be an object, got ${describeValue(value)}.`)
    for (const [key, entry] of Object.entries(value)) {
      const what = `${member}[${describeValue(key)}] of plugin ${plugin}`
      if (key.length > LONGEST || !grammar.test(key))
        throw invalid(`${what} has a name that is not allowed: it must match ${grammar.source}.`)
      checked[key] = check(what, entry)
    }
  }
  return Object.freeze(checked)
}

function invalid(message: string): TenancyError {
  return new TenancyError('ERR_TENANCY_OPTION_INVALID', message)
}
