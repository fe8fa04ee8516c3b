import { AsyncResource } from 'node:async_hooks'
import { TenancyError, type TenantContext, type TenantScope } from '@partywall/core'
import pg from 'pg'
import type { AbortableQuery } from '../abortable-query.ts'
import type { SchemaNames } from '../search-path.ts'
import { refuseQuery, type TenantClient } from '../tenant-client.ts'
import { queryAbortable, signalOf } from './abortable.ts'
import { bindCallbacks } from './bind-callbacks.ts'
import { relayCopyOut } from './copy-out.ts'
import { foreignSchemaError } from './foreign-schema.ts'

type Listener = (...args: unknown[]) => void
const EMITTER_METHODS = [
  'on',
  'once',
  'addListener',
  'prependListener',
  'prependOnceListener',
] as const
const REMOVERS = ['off', 'removeListener'] as const

/** Methods that write to the client itself, not to the handle. */
const DELEGATED = [
  'end',
  'ref',
  'unref',
  'emit',
  'listeners',
  'rawListeners',
  'listenerCount',
  'eventNames',
] as const
type AnyMethod = (...args: unknown[]) => unknown

/** One checkout of a client. */
export interface Checkout {
  readonly client: TenantClient
  readonly scope: TenantScope
  readonly context: TenantContext
  readonly names: SchemaNames
  /** Gives the client back. `true` or an error: do not use the connection again. */
  readonly giveBack: (error?: Error | boolean) => void
}

/** A client of `TenantPool.connect`. `using` releases it, and destroys the connection where a transaction is left open. */
export type TenantPoolClient = pg.PoolClient & {
  query: AbortableQuery
} & Disposable &
  AsyncDisposable

/**
 * What `connect()` lends: the client, for one checkout and one tenant. It is a `pg.Client` by `instanceof`. After `release`, and from the context of another tenant, it throws, while the
 * client behind it may already serve somebody else.
 */
export function createClientHandle({
  client,
  scope,
  context,
  names,
  giveBack,
}: Checkout): TenantPoolClient {
  let released = false
  const emitter = client as unknown as Record<
    (typeof EMITTER_METHODS)[number],
    (event: string, listener: Listener) => unknown
  >
  const handle = Object.create(client) as TenantPoolClient & Record<string, unknown>
  const refusal = (): TenancyError | undefined => {
    if (released)
      return new TenancyError('ERR_TENANCY_USE_AFTER_RELEASE', 'The client was released.', {
        tenantId: scope.tenant.id,
      })
    const mode = context.mode()
    // Without any context the handle itself is the proof of the tenant: events of emitters arrive that way.
    if (mode === 'none' || (mode === 'tenant' && context.require().tenant.id === scope.tenant.id))
      return undefined
    return new TenancyError(
      'ERR_TENANCY_CONTEXT_LOCKED',
      `The client was checked out by tenant ${scope.tenant.id} and is used from another context.`,
      { tenantId: scope.tenant.id },
    )
  }
  const wrappers = new Map<Listener, Listener[]>()
  const define = (name: string, value: unknown): void => {
    Object.defineProperty(handle, name, { value, configurable: true, writable: true })
  }
  define('query', (...args: unknown[]) => {
    const error = refusal() ?? foreignSchemaError(args[0], scope.tenant, names)
    if (error !== undefined) return refuseQuery(args, error)
    const signal = signalOf(args[0])
    if (signal !== undefined) return queryAbortable(client, signal, args, types)
    relayCopyOut(args[0])
    return client.submit(bindCallbacks(args), types)
  })
  define('release', (error?: Error | boolean) => {
    if (released)
      throw new TenancyError(
        'ERR_TENANCY_USE_AFTER_RELEASE',
        'The client has already been released.',
        {
          tenantId: scope.tenant.id,
        },
      )
    released = true
    // Listeners of one checkout must not hear of the next.
    for (const remove of cleanups) remove()
    giveBack(error)
  })
  // What is left open is destroyed by release; a second end of the block is none.
  const dispose = (): void => {
    if (!released) handle.release()
  }
  Object.defineProperty(handle, Symbol.dispose, { value: dispose })
  Object.defineProperty(handle, Symbol.asyncDispose, {
    value: () => Promise.resolve(dispose()),
  })
  const cleanups = new Set<() => void>()
  for (const method of EMITTER_METHODS)
    define(method, (event: string, listener: Listener) => {
      if (!released) {
        const bound = AsyncResource.bind(listener)
        wrappers.set(listener, [...(wrappers.get(listener) ?? []), bound])
        emitter[method](event, bound)
        cleanups.add(() => client.removeListener(event, bound))
      }
      return handle
    })
  for (const method of REMOVERS)
    define(method, (event: string, listener: Listener) => {
      const bound = wrappers.get(listener)?.pop()
      client.removeListener(event, bound ?? listener)
      return handle
    })
  define('removeAllListeners', () => {
    for (const remove of cleanups) remove()
    return handle
  })
  let types: pg.TypeOverrides | undefined
  define('setTypeParser', (...args: Parameters<pg.TypeOverrides['setTypeParser']>) => {
    // Of this checkout alone: on the client itself, the parser of one tenant would read the rows of the next.
    types ??= new pg.TypeOverrides(client)
    return types.setTypeParser(...args)
  })
  define('getTypeParser', (...args: Parameters<pg.ClientBase['getTypeParser']>): unknown =>
    ((types ?? client) as pg.ClientBase).getTypeParser(...args),
  )
  const methods = client as unknown as Record<string, AnyMethod | undefined>
  for (const method of DELEGATED)
    define(method, (...args: unknown[]) => {
      const error = refusal()
      if (error !== undefined) throw error
      return methods[method]?.call(client, ...args)
    })
  return handle
}
