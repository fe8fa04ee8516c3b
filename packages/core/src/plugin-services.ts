import type { PluginLogger } from './plugin-log.ts'
import type { Tenant } from './tenant.ts'

/** Switches of a tenant, from `settings.flags` of its record. */
export interface PluginFlags {
  /**
   * The value of a flag for the tenant, or `fallback` where the tenant has none of that name, or one of another type: code that asks for
   * a boolean gets a boolean. Names are looked up as own members, so that `constructor` is no flag.
   */
  get(name: string, fallback: boolean): boolean
  get(name: string, fallback: string): string
  get(name: string, fallback: number): number
  /** The value of a flag as the record holds it, or `undefined`. Frozen, as the record is. */
  get(name: string): unknown
}

/** Calls from one plugin to another, in the tenant that the caller acts for. */
export interface PluginCaller {
  /**
   * Calls an action of a plugin, of the version that the tenant runs, and resolves to what it returns.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_PLUGIN_*`; `ERR_TENANCY_CONTEXT_LOCKED` if these services were kept and another
   * tenant is active now.
   */
  call<R = unknown>(plugin: string, action: string, input?: unknown): Promise<R>
}

/** Events between plugins, within the tenant that the emitter acts for. */
export interface PluginEmitter {
  /** Delivers an event to every plugin of the tenant that subscribes to it, and resolves when all are done. See {@link PluginEventResult}. */
  emit(event: string, payload?: unknown): Promise<PluginEventResult>
}

/** What became of an event. A subscriber that fails does not fail the emitter, which knows nothing about it. */
export interface PluginEventResult {
  /** Subscribers that were called, those that failed included. */
  readonly delivered: number
  readonly failures: readonly PluginEventFailure[]
}

export interface PluginEventFailure {
  readonly plugin: string
  readonly error: unknown
}

/**
 * What an action, job, event handler or seed of a plugin is handed. All of it belongs to one tenant, so that a plugin needs no tenant id anywhere.
 * Frozen, and made for one call: kept services stay with the tenant they were made for. The package `partywall` adds
 * `db`, `pool`, `cache` and `scheduler`.
 */
export interface PluginServices {
  readonly tenant: Tenant
  readonly log: PluginLogger
  /** Variables of the tenant's environment. Empty, unless the host brings them. */
  readonly env: Readonly<Record<string, string>>
  readonly flags: PluginFlags
  readonly plugins: PluginCaller
  readonly events: PluginEmitter
}

/** @internal The flags of a tenant's record. */
export function flagsOf(tenant: Tenant): PluginFlags {
  const { flags } = tenant.settings
  const values = typeof flags === 'object' && flags !== null ? flags : {}
  const get = (name: string, fallback?: unknown): unknown => {
    const value: unknown = Object.hasOwn(values, name)
      ? (values as Record<string, unknown>)[name]
      : undefined
    if (fallback === undefined) return value
    return typeof value === typeof fallback ? value : fallback
  }
  return Object.freeze({ get: get as PluginFlags['get'] })
}
