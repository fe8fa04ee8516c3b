import { describeValue } from './internal/describe-value.ts'
import { errorText } from './internal/error-text.ts'
import { isPromise } from './internal/maybe-promise.ts'
import type { Tenant } from './tenant.ts'
import type { TenantScope } from './tenant-scope.ts'

/** Why a request was not let into a tenant. Clients see one identical answer for all of them. */
export type RefusalReason =
  | 'unknown'
  | 'provisioning'
  | 'suspended'
  | 'archived'
  | 'deleted'
  | 'ingress-disabled'
  | 'forbidden'

/** Which job an event is about. `attempt` begins at 1. */
export interface JobEvent {
  readonly tenantId: string
  readonly jobId: string
  readonly name: string
  readonly scheduleId: string | undefined
  readonly attempt: number
}

/** Every event of a tenancy and what it carries. */
export interface TenancyEvents {
  /** A request was let into a tenant. */
  'tenant:resolved': { readonly scope: TenantScope }
  /** A request named a tenant that it may not enter. `identifier` is well-formed, but came from a client. */
  'tenant:refused': {
    readonly identifier: string
    readonly source: string
    readonly reason: RefusalReason
  }
  /** The record of a tenant changed or may have changed; caches of it were dropped. */
  'tenant:invalidated': { readonly tenantId: string }
  /** Audit: code in one tenant entered another. */
  'context:switched': {
    readonly from: TenantScope | undefined
    readonly to: TenantScope
    readonly reason: string
  }
  /** Audit: work outside every tenant began. */
  'context:centralized': { readonly from: TenantScope | undefined; readonly reason: string }
  /** Audit: a door past the isolation was used, `pool.central` or `redis.central` for example. */
  'isolation:bypassed': {
    readonly door: string
    readonly from: TenantScope | undefined
    readonly reason: string
  }
  /** The store failed, and a cached record was used or the caller was refused. */
  'store:failed': { readonly error: unknown; readonly servedStale: boolean }
  /** A pooled connection was thrown away because it may have carried a tenant's state. */
  'connection:destroyed': { readonly tenant: Tenant | undefined; readonly reason: string }
  /** A job ran to its end. */
  'job:completed': JobEvent & { readonly durationMs: number }
  /** An attempt of a job failed. `final`: there will be no other. Without a listener, final failures become process warnings (`PARTYWALL_JOB_FAILED`). */
  'job:failed': JobEvent & {
    readonly attempts: number
    readonly final: boolean
    readonly error: unknown
  }
  /** A job was thrown away before it ran, and its schedule with it, because its tenant is gone. */
  'job:dropped': JobEvent & { readonly reason: 'unknown' | 'deleted' }
  /** A plugin failed to handle an event of a plugin. `version` is absent where the version that the tenant runs could not be told. */
  'plugin:subscriber-failed': {
    readonly scope: TenantScope
    readonly plugin: string
    readonly version: string | undefined
    readonly event: string
    readonly error: unknown
  }
  /** The tenancy was closed; whoever serves it should stop. */
  'tenancy:closed': Record<string, never>
}

export type TenancyEventName = keyof TenancyEvents
export type TenancyEventListener<E extends TenancyEventName> = (event: TenancyEvents[E]) => void

/**
 * Typed events. Listeners run at once, in the order of their registration, in the context of the code that emits; what one throws or
 * rejects with is reported by `process.emitWarning` (`PARTYWALL_LISTENER_FAILED`) and stops neither the others nor the emitter.
 */
export class TenancyEventHub {
  readonly #listeners = new Map<TenancyEventName, Set<(event: never) => void>>()

  /** Adds a listener. Returns the function that removes it; removing twice is harmless. */
  on<E extends TenancyEventName>(name: E, listener: TenancyEventListener<E>): () => void {
    let listeners = this.#listeners.get(name)
    if (listeners === undefined) this.#listeners.set(name, (listeners = new Set()))
    // A wrapper, so that one function registered twice is two registrations.
    const entry = (event: never): void => listener(event)
    listeners.add(entry)
    return () => void listeners.delete(entry)
  }

  /** Tells whether anybody listens, for emitters to whom building the event costs something. */
  has(name: TenancyEventName): boolean {
    return (this.#listeners.get(name)?.size ?? 0) > 0
  }

  emit<E extends TenancyEventName>(name: E, event: TenancyEvents[E]): void {
    const listeners = this.#listeners.get(name)
    if (listeners === undefined) return
    // A copy: who joins while an event is told hears of the next one.
    for (const listener of Array.from(listeners)) {
      try {
        const outcome: unknown = listener(event as never)
        // An async function fits the type; unheard, its rejection would end the process.
        if (isPromise(outcome))
          Promise.resolve(outcome).catch((error: unknown) => warnOfListener(name, error))
      } catch (error) {
        warnOfListener(name, error)
      }
    }
  }
}

function warnOfListener(name: TenancyEventName, error: unknown): void {
  process.emitWarning(`A listener of ${name} failed: ${describeValue(errorText(error))}`, {
    code: 'PARTYWALL_LISTENER_FAILED',
  })
}
