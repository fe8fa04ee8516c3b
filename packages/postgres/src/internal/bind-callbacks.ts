import { AsyncResource } from 'node:async_hooks'
import { isSubmittable } from './pg-internals.ts'

type AnyFunction = (this: unknown, ...args: unknown[]) => unknown

/**
 * Binds what the driver will call back to the context of this moment. It would otherwise run as whoever opened the connection: the wrong tenant, not none
 * (node-postgres#2533). Promises need nothing of the kind.
 *
 * Takes the arguments of `query`: a trailing callback, a `callback` inside the config, or a query object that handles the server's answers itself.
 */
export function bindCallbacks(args: readonly unknown[]): unknown[] {
  const bound = args.map((argument) =>
    typeof argument === 'function' ? AsyncResource.bind(argument as AnyFunction) : argument,
  )
  const [config] = bound
  if (isSubmittable(config)) bindHandlers(config)
  else if (hasCallback(config))
    bound[0] = { ...config, callback: AsyncResource.bind(config.callback) }
  return bound
}

function hasCallback(config: unknown): config is { callback: AnyFunction } {
  return (
    typeof config === 'object' &&
    config !== null &&
    typeof (config as { callback?: unknown }).callback === 'function'
  )
}

/** Query objects are told of the answers by `handleRowDescription`, `handleDataRow` and so on; their own events and callbacks come from there. */
function bindHandlers(query: object): void {
  const target = query as Record<string, unknown>
  const names = new Set<string>()
  for (
    let level: object | null = query;
    level !== null;
    level = Object.getPrototypeOf(level) as object | null
  )
    for (const name of Object.getOwnPropertyNames(level))
      if (name.startsWith('handle')) names.add(name)
  for (const name of names) {
    const handler = target[name]
    if (typeof handler === 'function')
      target[name] = AsyncResource.bind(handler as AnyFunction, 'PARTYWALL_QUERY', query)
  }
}
