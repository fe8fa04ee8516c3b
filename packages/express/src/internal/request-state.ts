import type { Tenancy, TenantScope } from '@partywall/core'
import type { Request } from 'express'

/** What the middleware decided about a request. Not kept in `req.tenant`, which any middleware can overwrite. */
export interface RequestState {
  readonly tenancy: Tenancy
  readonly scope: TenantScope | undefined
}

const state = Symbol('partywall.express')

export function requestState(req: Request): RequestState | undefined {
  return (req as { [state]?: RequestState })[state]
}

export function setRequestState(
  req: Request,
  tenancy: Tenancy,
  scope: TenantScope | undefined,
): void {
  ;(req as { [state]?: RequestState })[state] = { tenancy, scope }
  req.tenancy = scope
  req.tenant = scope?.tenant
}

/** The id that the application gave the request. A header is no such thing: any client can write it. */
export function requestId(req: Request): string | undefined {
  const { id } = req as { id?: unknown }
  return typeof id === 'string' ? id : undefined
}

/** What the audit log says of a central route. Cut, since the path comes from a client. */
export function centralReason(req: Request): string {
  return `route ${req.method} ${req.baseUrl}${req.path}`.slice(0, 200)
}
