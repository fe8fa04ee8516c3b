import type { FastifyInstance } from 'fastify'

/**
 * The `trustProxy` that the server was created with. Fastify leaves it out of `initialConfig`, so it is read where Fastify keeps its options.
 *
 * @see `trust-proxy-option.test.ts`, which fails with a version of Fastify that keeps them elsewhere
 */
export function trustProxyOption(fastify: FastifyInstance): unknown {
  // Inside an encapsulated plugin the instance inherits from the one that holds them.
  for (let at: object | null = fastify; at !== null; at = Object.getPrototypeOf(at)) {
    const key = Object.getOwnPropertySymbols(at).find(
      ({ description }) => description === 'fastify.options',
    )
    if (key === undefined) continue
    const options = (at as Record<symbol, unknown>)[key]
    if (typeof options === 'object' && options !== null && 'trustProxy' in options)
      return options.trustProxy
    return undefined
  }
  return undefined
}
