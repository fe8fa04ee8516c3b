import type { Tenancy } from '@partywall/core'
import { type TenancyPluginOptions, tenancyPlugin } from '@partywall/fastify'
import type { FastifyPluginCallback } from 'fastify'

/** `tenancyPlugin` with its options given. It carries the marks of the original, so that its hooks reach the routes beside it and not only those inside it. */
export function boundTenancyPlugin(
  tenancy: Tenancy,
  options: Omit<TenancyPluginOptions, 'tenancy'>,
): FastifyPluginCallback {
  const bound: FastifyPluginCallback = (fastify, _, done) =>
    tenancyPlugin(fastify, { ...options, tenancy }, done)
  for (const mark of Object.getOwnPropertySymbols(tenancyPlugin))
    Object.defineProperty(bound, mark, {
      value: (tenancyPlugin as unknown as Record<symbol, unknown>)[mark],
    })
  return bound
}
