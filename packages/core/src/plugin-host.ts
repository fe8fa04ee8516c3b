import { TenancyError } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'
import { functionOption } from './internal/options.ts'
import { assertKnownKeys, nearestName } from './known-keys.ts'
import { definePlugin, type Plugin, type PluginFunction, type PluginSchedule } from './plugin.ts'
import { createPluginLogger, type PluginLogSink, stderrLogSink } from './plugin-log.ts'
import {
  flagsOf,
  type PluginEventFailure,
  type PluginEventResult,
  type PluginServices,
} from './plugin-services.ts'
import type { Tenancy } from './tenancy.ts'
import type { Tenant } from './tenant.ts'
import type { TenantScope } from './tenant-scope.ts'

/** What a host brings for one call: everything that `S` adds to {@link PluginServices}, and its own `log`, `env` or `flags` in place of ours. */
export type PluginServiceExtras<S extends PluginServices> = Omit<S, keyof PluginServices> &
  Partial<Pick<PluginServices, 'log' | 'env' | 'flags'>>

type ServicesOption<S extends PluginServices> = (
  scope: TenantScope,
  plugin: Plugin<S>,
) => PluginServiceExtras<S>

/** Options of {@link createPluginHost}. `services` is required where `S` adds members. */
export type PluginHostOptions<S extends PluginServices = PluginServices> = {
  /** Plugins, in any order; several versions of one are allowed. */
  readonly plugins: readonly Plugin<S>[]
  /** Where the lines of `services.log` go. @defaultValue one line of JSON to standard error, from `info` on */
  readonly log?: PluginLogSink | undefined
} & ([Exclude<keyof S, keyof PluginServices>] extends [never]
  ? { readonly services?: ServicesOption<S> | undefined }
  : {
      /** Makes the services of one call, for the scope and the plugin that it is for. Runs at each call, so it should only put together what exists. */
      readonly services: ServicesOption<S>
    })

/** A job of a plugin, whatever its version. */
export interface PluginJob {
  /** `orders.dailyReport`: unlike for any two jobs of a host. */
  readonly name: string
  readonly plugin: string
  readonly job: string
  /** Runs it in the active tenant, by the version that the tenant runs. Rejects as `host.call` does; `ERR_TENANCY_JOB_UNKNOWN` if that version has no such job. */
  run(data: unknown): Promise<unknown>
}

/** A schedule of a plugin of one tenant. */
export interface PluginScheduleEntry {
  /** `orders.nightly`: unlike for any two schedules of a host. */
  readonly id: string
  /** The name of the job as {@link PluginJob} has it. */
  readonly name: string
  readonly plugin: string
  readonly schedule: PluginSchedule
}

/**
 * Calls between plugins may nest this deep. Two plugins that answer each other's events would otherwise go on
 * until the memory is used up, and each such call is a promise that nobody sees.
 */
const DEEPEST = 32

/**
 * One call or event of a plugin may cause this many further ones. The depth alone is no bound: two plugins that both repeat an event would
 * double it at each level, and 2 to the power of 32 calls, all in microtasks, stop every tenant.
 */
const MOST_CAUSED = 10_000

/** The calls that one call of a plugin caused. */
class CallTree {
  #calls = 0
  #running = 0

  /** Counts a call, and tells whether it may be made. */
  begin(): boolean {
    this.#running++
    return this.#calls++ < MOST_CAUSED
  }

  end(): void {
    // What is called with kept services, when all this is over, begins anew.
    if (--this.#running === 0) this.#calls = 0
  }
}

/** Where a function stands among the calls between plugins. The host's own calls are the root, without a tree: each call that they make grows its own. */
interface Nesting {
  readonly depth: number
  readonly tree: CallTree | undefined
}

const ROOT: Nesting = Object.freeze({ depth: 0, tree: undefined })

/**
 * Runs plugins for tenants. Each call acts in the active tenant and goes to the version that the tenant's release
 * pins. Made by {@link createPluginHost}.
 */
export class PluginHost<S extends PluginServices = PluginServices> {
  readonly #tenancy: Tenancy
  // Maps, not objects: `__proto__` and `constructor` must be unknown plugins and versions.
  readonly #versions: ReadonlyMap<string, ReadonlyMap<string, Plugin<S>>>
  readonly #services: ServicesOption<S> | undefined
  readonly #log: PluginLogSink

  constructor(tenancy: Tenancy, options: PluginHostOptions<S>) {
    assertKnownKeys('createPluginHost', options, ['plugins', 'services', 'log'])
    if (!Array.isArray(options.plugins))
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `plugins must be a list, got ${describeValue(options.plugins)}.`,
      )
    if (options.services !== undefined) functionOption('services', options.services)
    this.#tenancy = tenancy
    this.#services = options.services
    this.#log = functionOption('log', options.log ?? stderrLogSink)
    this.#versions = byNameAndVersion(options.plugins.map((plugin) => definePlugin<S>(plugin)))
  }

  /** Every registered plugin: by name, then in the order of registration. */
  get plugins(): readonly Plugin<S>[] {
    return [...this.#versions.values()].flatMap((versions) => [...versions.values()])
  }

  /**
   * Calls an action in the active tenant and resolves to what it returns; what it throws comes through unchanged.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_CONTEXT_MISSING` outside of a tenant, `ERR_TENANCY_PLUGIN_UNKNOWN`, `_ACTION_UNKNOWN`,
   * `_VERSION_UNPINNED`, `_VERSION_MISSING`, `_CALL_LOOP`.
   */
  async call<R = unknown>(plugin: string, action: string, input?: unknown): Promise<R> {
    return (await this.#call(this.#tenancy.require(), plugin, action, input, ROOT)) as R
  }

  /**
   * Delivers an event to every plugin of the active tenant that subscribes to it, one after the other in the order of their names, and
   * resolves when all are done. A subscriber that fails neither stops the others nor fails the emitter: the failure stands in the
   * result, is logged as the subscriber's error, and is told as `plugin:subscriber-failed`. Only a loop is no subscriber's own failure, and rejects.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_CONTEXT_MISSING` outside of a tenant, `ERR_TENANCY_PLUGIN_CALL_LOOP`.
   */
  async emit(event: string, payload?: unknown): Promise<PluginEventResult> {
    return this.#emit(this.#tenancy.require(), event, payload, ROOT)
  }

  /**
   * Runs the seeds of the active tenant's plugins, in the order of their names. The first that fails rejects and stops the rest.
   *
   * @throws {TenancyError} by rejection, as `call` does.
   */
  async seed(): Promise<void> {
    const scope = this.#tenancy.require()
    for (const plugin of this.pluginsFor(scope.tenant))
      await plugin.seed?.(this.#servicesFor(scope, plugin, ROOT))
  }

  /**
   * The plugins of a tenant, each in the version that the tenant runs, in the order of their names.
   *
   * @throws {TenancyError} `ERR_TENANCY_PLUGIN_VERSION_UNPINNED`, `ERR_TENANCY_PLUGIN_VERSION_MISSING`.
   */
  pluginsFor(tenant: Tenant): readonly Plugin<S>[] {
    return [...this.#versions.keys()].map((name) => this.pluginFor(tenant, name))
  }

  /**
   * One plugin in the version that a tenant runs: the one that its release pins; without a pin, the only one there is.
   *
   * @throws {TenancyError} `ERR_TENANCY_PLUGIN_UNKNOWN`, `ERR_TENANCY_PLUGIN_VERSION_UNPINNED`, `ERR_TENANCY_PLUGIN_VERSION_MISSING`.
   */
  pluginFor(tenant: Tenant, name: string): Plugin<S> {
    const versions = this.#versions.get(name)
    if (versions === undefined)
      throw new TenancyError(
        'ERR_TENANCY_PLUGIN_UNKNOWN',
        `There is no plugin ${describeValue(name)}.${didYouMean(name, [...this.#versions.keys()])}`,
        { tenantId: tenant.id },
      )
    const pins = tenant.release?.plugins
    const pin = pins !== undefined && Object.hasOwn(pins, name) ? pins[name] : undefined
    if (pin !== undefined) {
      const pinned = versions.get(pin)
      if (pinned !== undefined) return pinned
      throw new TenancyError(
        'ERR_TENANCY_PLUGIN_VERSION_MISSING',
        `Release ${describeValue(tenant.release?.name)} of tenant ${tenant.id} pins plugin ${name} to ${describeValue(pin)}; registered: ${[...versions.keys()].join(', ')}.`,
        { tenantId: tenant.id },
      )
    }
    const [only, another] = versions.values()
    if (only !== undefined && another === undefined) return only
    throw new TenancyError(
      'ERR_TENANCY_PLUGIN_VERSION_UNPINNED',
      `Tenant ${tenant.id} pins no version of plugin ${name}, and several are registered: ${[...versions.keys()].join(', ')}.`,
      { tenantId: tenant.id },
    )
  }

  /** Every job of every plugin, once for all its versions. For a scheduler: `for (const { name, run } of host.jobs()) scheduler.define(name, run)`. */
  jobs(): readonly PluginJob[] {
    const jobs: PluginJob[] = []
    for (const [plugin, versions] of this.#versions) {
      const names = new Set([...versions.values()].flatMap(({ jobs: own }) => Object.keys(own)))
      for (const job of [...names].sort())
        jobs.push(
          Object.freeze({
            name: `${plugin}.${job}`,
            plugin,
            job,
            run: (data: unknown) => this.#runJob(plugin, job, data),
          }),
        )
    }
    return jobs
  }

  /** The schedules of a tenant's plugins. @throws {TenancyError} as `pluginsFor` does. */
  schedulesFor(tenant: Tenant): readonly PluginScheduleEntry[] {
    return this.pluginsFor(tenant).flatMap(({ name: plugin, schedules }) =>
      Object.entries(schedules).map(([id, schedule]) =>
        Object.freeze({
          id: `${plugin}.${id}`,
          name: `${plugin}.${schedule.job}`,
          plugin,
          schedule,
        }),
      ),
    )
  }

  async #call(
    scope: TenantScope,
    name: string,
    action: string,
    input: unknown,
    nesting: Nesting,
  ): Promise<unknown> {
    const plugin = this.pluginFor(scope.tenant, name)
    const run = own(plugin.actions, action)
    if (run === undefined)
      throw new TenancyError(
        'ERR_TENANCY_PLUGIN_ACTION_UNKNOWN',
        `Plugin ${plugin.name} ${plugin.version} has no action ${describeValue(action)}.${didYouMean(action, Object.keys(plugin.actions))}`,
        { tenantId: scope.tenant.id },
      )
    return run(input, this.#servicesFor(scope, plugin, nesting))
  }

  async #runJob(name: string, job: string, data: unknown): Promise<unknown> {
    const scope = this.#tenancy.require()
    const plugin = this.pluginFor(scope.tenant, name)
    const run = own(plugin.jobs, job)
    if (run === undefined)
      throw new TenancyError(
        'ERR_TENANCY_JOB_UNKNOWN',
        `Plugin ${plugin.name} ${plugin.version} has no job ${describeValue(job)}.`,
        {
          tenantId: scope.tenant.id,
          hint: "The version of the plugin that the tenant's release pins does not define this job.",
        },
      )
    return run(data, this.#servicesFor(scope, plugin, ROOT))
  }

  async #emit(
    scope: TenantScope,
    event: string,
    payload: unknown,
    nesting: Nesting,
  ): Promise<PluginEventResult> {
    const failures: PluginEventFailure[] = []
    let delivered = 0
    for (const [name, versions] of this.#versions) {
      // A plugin that no version subscribes is not asked which version it runs.
      if (![...versions.values()].some(({ events }) => own(events, event) !== undefined)) continue
      let version: string | undefined
      try {
        const plugin = this.pluginFor(scope.tenant, name)
        version = plugin.version
        const handle = own(plugin.events, event)
        if (handle === undefined) continue
        delivered++
        await handle(payload, this.#servicesFor(scope, plugin, nesting))
      } catch (error) {
        // Not one subscriber's failure: collected, the others would walk the rest of the tree.
        if (TenancyError.is(error) && error.code === 'ERR_TENANCY_PLUGIN_CALL_LOOP') throw error
        failures.push(Object.freeze({ plugin: name, error }))
        this.#reportFailure(scope, name, version, event, error)
      }
    }
    return Object.freeze({ delivered, failures: Object.freeze(failures) })
  }

  #reportFailure(
    scope: TenantScope,
    plugin: string,
    version: string | undefined,
    event: string,
    error: unknown,
  ): void {
    this.#logger(scope, plugin, version ?? 'none').error('An event subscriber failed.', {
      event,
      error,
    })
    this.#tenancy.events.emit('plugin:subscriber-failed', { scope, plugin, version, event, error })
  }

  /** Services of one call. What they start later acts for this scope or for nobody, whoever keeps them. */
  #servicesFor(scope: TenantScope, plugin: Plugin<S>, nesting: Nesting): S {
    const { tenant } = scope
    const extras = this.#services?.(scope, plugin)
    if (extras !== undefined)
      for (const taken of ['tenant', 'plugins', 'events'])
        if (Object.hasOwn(extras, taken))
          throw new TenancyError(
            'ERR_TENANCY_OPTION_INVALID',
            `services must not return ${taken}: the plugin host makes it.`,
          )
    const inScope = async <T>(fn: (inner: Nesting) => Promise<T>): Promise<T> => {
      const { depth, tree = new CallTree() } = nesting
      if (depth >= DEEPEST)
        throw callLoop(scope, `Calls between plugins are nested more than ${DEEPEST} deep`, plugin)
      try {
        if (!tree.begin())
          throw callLoop(scope, `One call caused more than ${MOST_CAUSED} others`, plugin)
        // Refuses if another tenant is active: services that were kept do not carry its caller over.
        return await this.#tenancy.context.run(scope, () => fn({ depth: depth + 1, tree }))
      } finally {
        tree.end()
      }
    }
    return Object.freeze({
      log: this.#logger(scope, plugin.name, plugin.version),
      env: NO_VARIABLES,
      flags: flagsOf(tenant),
      ...extras,
      tenant,
      plugins: Object.freeze({
        call: <R>(name: string, action: string, input?: unknown) =>
          inScope((inner) => this.#call(scope, name, action, input, inner) as Promise<R>),
      }),
      events: Object.freeze({
        emit: (event: string, payload?: unknown) =>
          inScope((inner) => this.#emit(scope, event, payload, inner)),
      }),
    }) as unknown as S
  }

  #logger(scope: TenantScope, plugin: string, version: string): PluginServices['log'] {
    const { tenant, requestId } = scope
    return createPluginLogger(this.#log, {
      tenantId: tenant.id,
      plugin,
      version,
      ...(requestId === undefined ? {} : { requestId }),
    })
  }
}

function callLoop(
  { tenant }: TenantScope,
  what: string,
  plugin: { readonly name: string },
): TenancyError {
  return new TenancyError('ERR_TENANCY_PLUGIN_CALL_LOOP', `${what}, in plugin ${plugin.name}.`, {
    tenantId: tenant.id,
  })
}

const NO_VARIABLES: Readonly<Record<string, string>> = Object.freeze({})

/**
 * Creates the plugin host of a tenancy.
 *
 * @throws {TenancyError} `ERR_TENANCY_PLUGIN_CONFLICT` if a version of a plugin is registered twice, `ERR_TENANCY_OPTION_INVALID`.
 */
export function createPluginHost<S extends PluginServices = PluginServices>(
  tenancy: Tenancy,
  options: PluginHostOptions<S>,
): PluginHost<S> {
  return new PluginHost<S>(tenancy, options)
}

function byNameAndVersion<S extends PluginServices>(
  plugins: readonly Plugin<S>[],
): ReadonlyMap<string, ReadonlyMap<string, Plugin<S>>> {
  const names = [...new Set(plugins.map(({ name }) => name))].sort()
  const all = new Map(names.map((name) => [name, new Map<string, Plugin<S>>()]))
  for (const plugin of plugins) {
    const versions = all.get(plugin.name)
    if (versions?.has(plugin.version))
      throw new TenancyError(
        'ERR_TENANCY_PLUGIN_CONFLICT',
        `Version ${plugin.version} of plugin ${plugin.name} is registered twice.`,
      )
    versions?.set(plugin.version, plugin)
  }
  return all
}

function own<S>(
  functions: Readonly<Record<string, PluginFunction<S>>>,
  name: unknown,
): PluginFunction<S> | undefined {
  // Not `name in functions`, and no objects that turn into a string when they are looked up.
  return typeof name === 'string' && Object.hasOwn(functions, name) ? functions[name] : undefined
}

function didYouMean(name: unknown, candidates: readonly string[]): string {
  const nearest = typeof name === 'string' ? nearestName(name.slice(0, 100), candidates) : undefined
  return nearest === undefined ? '' : ` Did you mean ${nearest}?`
}
