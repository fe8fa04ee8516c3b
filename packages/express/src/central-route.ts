import { TenancyError } from '@partywall/core'
import type { RequestHandler } from 'express'
import { requestState } from './internal/request-state.ts'
import { tenancyMiddleware } from './tenancy-middleware.ts'

/**
 * Makes a middleware that leaves the tenant, if the request has one, for a route behind `tenancyMiddleware`: what follows is central work, where tenant
 * resources refuse. A route that should not ask for a tenant at all stands before `tenancyMiddleware`, or has `mode: 'central'`.
 *
 * Goes on with `ERR_TENANCY_CONTEXT_MISSING` if no `tenancyMiddleware` ran before.
 */
export function centralRoute(): RequestHandler {
  return function centralRoute(req, res, next) {
    const state = requestState(req)
    if (state === undefined)
      next(
        new TenancyError(
          'ERR_TENANCY_CONTEXT_MISSING',
          'centralRoute() stands before tenancyMiddleware().',
        ),
      )
    else void tenancyMiddleware(state.tenancy, { mode: 'central' })(req, res, next)
  }
}
