import { AsyncResource } from 'node:async_hooks'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { TenancyError } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'
import { isPromise } from './internal/maybe-promise.ts'
import { nearestName } from './known-keys.ts'
import type { Tenancy } from './tenancy.ts'
import type { TenancyRequest } from './tenancy-request.ts'
import type { TenantScope } from './tenant-scope.ts'

/**
 * What a route is to tenants. `required`: it runs in one, or not at all. `optional`: in the one that the request names, if any. `central`: outside of every
 * tenant, by declaration, where tenant resources refuse; the request is not asked for one.
 */
export type TenancyMode = 'required' | 'optional' | 'central'

const MODES: readonly TenancyMode[] = ['required', 'optional', 'central']

/** @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function assertTenancyMode(option: string, value: unknown): TenancyMode {
  if (MODES.includes(value as TenancyMode)) return value as TenancyMode
  const nearest = typeof value === 'string' ? nearestName(value, MODES) : undefined
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} must be one of ${MODES.join(', ')}, got ${describeValue(value)}.${nearest === undefined ? '' : ` Did you mean "${nearest}"?`}`,
  )
}

/** A request of Node and its response. */
export interface HttpExchange {
  readonly message: IncomingMessage
  readonly response: ServerResponse
}

/** One request on its way through a host adapter. */
export interface HttpEntry extends HttpExchange {
  readonly mode: TenancyMode
  readonly request: TenancyRequest
  readonly requestId: string | undefined
  /** What the audit log says of a central route. */
  readonly reason: () => string
  /** Told the scope, or that there is none, before the context is entered. */
  readonly accept: (scope: TenantScope | undefined) => void
  /** Goes on to the handler, in the context, or to the error handler, outside of it. */
  readonly next: (error?: unknown) => void
}

/**
 * Brings a request into its context: resolves first, then runs the rest of the framework inside. The only way in, for every HTTP host.
 *
 * A request never inherits a context. Node may start it in that of the one before, on the same socket, so whatever is active is left first.
 */
export function enterRequest(tenancy: Tenancy, entry: HttpEntry): void {
  // Now, with no tenant: the answer to a refused request has listeners too.
  setListenerScope(tenancy, entry, undefined)
  if (tenancy.context.empty) enter(tenancy, entry)
  else tenancy.context.outside(() => enter(tenancy, entry))
}

/** Runs a request that has no route outside of every tenant. */
export function leaveRequest(tenancy: Tenancy, exchange: HttpExchange, next: () => void): void {
  setListenerScope(tenancy, exchange, undefined)
  tenancy.context.outside(next)
}

function enter(tenancy: Tenancy, entry: HttpEntry): void {
  if (entry.mode === 'central') {
    proceed(tenancy, entry, undefined)
    return
  }
  let scope: ReturnType<Tenancy['resolve']>
  try {
    scope = tenancy.resolve(entry.request, { requestId: entry.requestId })
  } catch (error) {
    entry.next(error)
    return
  }
  if (isPromise(scope))
    scope.then(
      (found) => proceed(tenancy, entry, found),
      (error: unknown) => entry.next(error),
    )
  else proceed(tenancy, entry, scope)
}

function proceed(tenancy: Tenancy, entry: HttpEntry, scope: TenantScope | undefined): void {
  if (scope === undefined && entry.mode === 'required') {
    entry.next(new TenancyError('ERR_TENANCY_IDENTIFIER_MISSING', 'The request names no tenant.'))
    return
  }
  entry.accept(scope)
  if (scope !== undefined) setListenerScope(tenancy, entry, scope)
  let entered = false
  // Without arguments: frameworks take the first one for an error.
  const go = (): void => {
    entered = true
    entry.next()
  }
  try {
    if (scope !== undefined) tenancy.run(scope, go)
    else if (entry.mode === 'central') tenancy.central(entry.reason(), go)
    else tenancy.context.outside(go)
  } catch (error) {
    // What the application threw is not ours to answer a second time.
    if (entered) throw error
    entry.next(error)
  }
}

const binding = Symbol('partywall.binding')

interface Binding {
  tenancy: Tenancy
  scope: TenantScope | undefined
  readonly emit: EventEmitter['emit']
}

type Bound = EventEmitter & { [binding]?: Binding }

/**
 * Makes the listeners of a request and its response run in its own context. Otherwise they run in that of whoever emits: for pipelined requests this is the response
 * before it on the socket, with another tenant, and for the body of a request nobody.
 *
 * @see test/isolation/hosts.test.ts, C3
 */
function setListenerScope(
  tenancy: Tenancy,
  { message, response }: HttpExchange,
  scope: TenantScope | undefined,
): void {
  bind(message, tenancy, scope)
  bind(response, tenancy, scope)
  bindWriteCallbacks(response)
}

const WRITERS = ['write', 'end', 'writeContinue', 'writeProcessing', 'writeEarlyHints'] as const

type AnyFunction = (this: unknown, ...args: unknown[]) => unknown
type Writers = { [K in (typeof WRITERS)[number]]?: AnyFunction } & { [writersBound]?: true }

const writersBound = Symbol('partywall.writers')

/** Callbacks of writes run as whoever wrote. Like listeners, they would otherwise run as the response before it on the socket. */
function bindWriteCallbacks(response: ServerResponse): void {
  const writers = response as unknown as Writers
  if (writers[writersBound] === true) return
  writers[writersBound] = true
  for (const name of WRITERS) {
    const write = writers[name]
    if (write === undefined) continue
    writers[name] = function (...args) {
      const last = args.findLastIndex((argument) => typeof argument === 'function')
      if (last !== -1) args[last] = AsyncResource.bind(args[last] as AnyFunction)
      return write.apply(this, args)
    }
  }
}

function bind(emitter: Bound, tenancy: Tenancy, scope: TenantScope | undefined): void {
  const bound = emitter[binding]
  if (bound === undefined) {
    emitter[binding] = { tenancy, scope, emit: emitter.emit }
    emitter.emit = emitBound
  } else {
    // Whoever has wrapped emit since then keeps its wrapper.
    bound.tenancy = tenancy
    bound.scope = scope
  }
}

function emitBound(this: EventEmitter, ...args: Parameters<EventEmitter['emit']>): boolean {
  const { tenancy, scope, emit } = (this as Bound)[binding] as Binding
  const { context } = tenancy
  // Without a scope, nothing at all may be active: `current()` is undefined also in central work and in a tenant of another tenancy.
  const there = scope === undefined ? context.empty : context.current() === scope
  // Most events of a request have no listener, and entering a context is what costs.
  if (there || this.listenerCount(args[0]) === 0) return emit.apply(this, args)
  return scope === undefined
    ? context.outside(() => emit.apply(this, args))
    : context.replace(scope, () => emit.apply(this, args))
}
