import {
  assertKnownKeys,
  assertTenancyMode,
  assertTrustProxy,
  enterRequest,
  mergeVary,
  type Tenancy,
  type TenancyMode,
  type Tenant,
  type TenantScope,
} from '@partywall/core'
import type { Request, RequestHandler, Response } from 'express'
import { ExpressTenancyRequest } from './internal/express-tenancy-request.ts'
import {
  centralReason,
  requestId,
  requestState,
  setRequestState,
} from './internal/request-state.ts'

declare global {
  namespace Express {
    interface Request {
      /** The tenant that the request acts for; `undefined` where there is none. */
      tenant?: Tenant | undefined
      /** The tenant, and how it came to be. */
      tenancy?: TenantScope | undefined
    }
  }
}

export interface TenancyMiddlewareOptions {
  /**
   * What the routes behind this middleware are to tenants, or a function that tells it for a request. A function that is wrong about a path fails closed: without a
   * tenant, tenant resources refuse. @defaultValue `'required'`
   */
  readonly mode?: TenancyMode | ((req: Request) => TenancyMode) | undefined
}

/**
 * Makes the middleware that finds the tenant of a request and runs everything behind it in that tenant's context. Sets `req.tenant`, `req.tenancy` and `Vary`; what is
 * wrong with a request goes to the error handler, and no handler runs.
 *
 * It may stand more than once on the way to a route: the last one decides about the mode, and a tenant that was found is not looked for again.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`; for the application's `trust proxy` with the first request.
 */
export function tenancyMiddleware(
  tenancy: Tenancy,
  options: TenancyMiddlewareOptions = {},
): RequestHandler {
  assertKnownKeys('tenancyMiddleware()', options, ['mode'])
  const { mode = 'required' } = options
  const modeOf = typeof mode === 'function' ? mode : undefined
  const fixedMode = modeOf === undefined ? assertTenancyMode('mode', mode) : undefined
  const vary = mergeVary(undefined, tenancy.vary)
  // There is no application to look at before the first request. `set` makes a new function each time, so that a later change is seen.
  let checkedTrust: unknown
  return function tenancyMiddleware(req, res, next) {
    let routeMode: TenancyMode
    try {
      const trust: unknown = req.app.get('trust proxy fn')
      if (trust !== checkedTrust) {
        assertTrustProxy(tenancy, "'trust proxy'", req.app.get('trust proxy'))
        checkedTrust = trust
      }
      routeMode = fixedMode ?? assertTenancyMode('mode', modeOf?.(req))
    } catch (error) {
      next(error)
      return
    }
    if (routeMode !== 'central') {
      if (vary !== '') setVary(res, vary, tenancy.vary)
      const found = requestState(req)
      if (found?.scope !== undefined && found.tenancy === tenancy) {
        runAgain(tenancy, found.scope, next)
        return
      }
    }
    enterRequest(tenancy, {
      mode: routeMode,
      request: new ExpressTenancyRequest(req),
      message: req,
      response: res,
      requestId: requestId(req),
      reason: () => centralReason(req),
      accept: (scope) => setRequestState(req, tenancy, scope),
      next,
    })
  }
}

/** Enters the tenant of this request once more, in case that what ran since then has lost the context. */
export function runAgain(
  tenancy: Tenancy,
  scope: TenantScope,
  next: (error?: unknown) => void,
): void {
  if (tenancy.current() === scope) {
    next()
    return
  }
  let entered = false
  try {
    tenancy.run(scope, () => {
      entered = true
      next()
    })
  } catch (error) {
    if (entered) throw error
    next(error)
  }
}

function setVary(res: Response, vary: string, names: readonly string[]): void {
  const existing = res.getHeader('Vary')
  res.setHeader('Vary', existing === undefined ? vary : mergeVary(existing, names))
}
