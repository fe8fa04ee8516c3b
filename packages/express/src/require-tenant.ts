import { TenancyError } from '@partywall/core'
import type { RequestHandler } from 'express'
import { requestState } from './internal/request-state.ts'
import { runAgain } from './tenancy-middleware.ts'

/**
 * Makes a middleware that lets only requests with a tenant through: for routes behind `tenancyMiddleware(tenancy, { mode: 'optional' })`. Placed behind a middleware that loses
 * the context, it also restores that of this request.
 *
 * Goes on with `ERR_TENANCY_IDENTIFIER_MISSING` without a tenant, `ERR_TENANCY_CONTEXT_MISSING` if no `tenancyMiddleware` ran before, and
 * `ERR_TENANCY_CONTEXT_LOCKED` if another tenant is active.
 */
export function requireTenant(): RequestHandler {
  return function requireTenant(req, _res, next) {
    const state = requestState(req)
    if (state === undefined)
      next(
        new TenancyError(
          'ERR_TENANCY_CONTEXT_MISSING',
          'requireTenant() stands before tenancyMiddleware().',
        ),
      )
    else if (state.scope === undefined)
      next(new TenancyError('ERR_TENANCY_IDENTIFIER_MISSING', 'The request names no tenant.'))
    else runAgain(state.tenancy, state.scope, next)
  }
}
