import type pg from 'pg'
import type { TenantClient } from '../tenant-client.ts'
import { bindCallbacks } from './bind-callbacks.ts'
import { isSubmittable } from './pg-internals.ts'

type Callback = (error: Error | undefined | null, result?: unknown) => void

/** The `signal` of a query's config. Objects that are queries themselves (cursors, streams) have ways of their own to end. */
export function signalOf(config: unknown): AbortSignal | undefined {
  if (typeof config !== 'object' || config === null || isSubmittable(config)) return undefined
  const { signal } = config as { readonly signal?: unknown }
  return signal instanceof AbortSignal ? signal : undefined
}

/**
 * Sends a statement that its caller may abort. Waiting behind others it is not sent at all; under way it is cancelled at the server, and the connection sends nothing else before the server has taken the request. The callback gets
 * `signal.reason` for what was cancelled, and the result if the statement had come to its end all the same.
 */
export function submitAbortable(
  client: TenantClient,
  signal: AbortSignal,
  submit: (callback: Callback) => void,
  callback: Callback,
): void {
  if (signal.aborted) return process.nextTick(() => callback(signal.reason as Error))
  let query: object | undefined
  let answered = false
  let cut = false
  const answer: Callback = (error, result) => {
    // A time limit of pg's still runs for a statement that was taken out of the queue.
    if (answered) return
    answered = true
    signal.removeEventListener('abort', abort)
    callback(error, result)
  }
  const abort = (): void => {
    if (query === undefined) return
    if (client.withdraw(query)) return answer(signal.reason as Error)
    void client.cancelStatement(query).then((taken) => {
      if (taken) return
      // Nobody knows what the server does; this connection will not find out.
      cut = true
      client.connection.stream.destroy()
    })
  }
  submit((error, result) => {
    const cancelled = signal.aborted && error && (cut || isCancelled(error))
    answer(cancelled ? (signal.reason as Error) : error, result)
  })
  query = client.lastSubmitted
  signal.addEventListener('abort', abort, { once: true })
}

/** `query(config, values, callback)` of a client, for a config with a signal. */
export function queryAbortable(
  client: TenantClient,
  signal: AbortSignal,
  args: readonly unknown[],
  types?: pg.TypeOverrides,
): unknown {
  const [config, second, third] = bindCallbacks(args)
  const given = (typeof second === 'function' ? second : third) as Callback | undefined
  const values = typeof second === 'function' ? undefined : second
  const inside = (config as { readonly callback?: Callback | undefined }).callback
  const send = (callback: Callback): void =>
    submitAbortable(
      client,
      signal,
      (answer) => client.submit([config, values, answer], types),
      callback,
    )
  const callback = given ?? inside
  if (callback !== undefined) {
    send(callback)
    return undefined
  }
  return new Promise((resolve, reject) => {
    send((error, result) => (error ? reject(error) : resolve(result)))
  })
}

/** Whether the server has cancelled a statement, or the scope in front of it. */
function isCancelled(error: unknown): boolean {
  const { code, cause } = error as { readonly code?: unknown; readonly cause?: unknown }
  return code === '57014' || (cause as { readonly code?: unknown } | undefined)?.code === '57014'
}
