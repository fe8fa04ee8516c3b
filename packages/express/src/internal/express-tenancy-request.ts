import { requestAuthority, type TenancyRequest } from '@partywall/core'
import type { Request } from 'express'

/** An Express request as resolvers see it. Everything is read when it is asked for. */
export class ExpressTenancyRequest implements TenancyRequest<Request> {
  readonly raw: Request

  constructor(raw: Request) {
    this.raw = raw
  }

  get method(): string {
    return this.raw.method
  }

  /** `url` is cut where a router is mounted; `originalUrl` is what was received. */
  get target(): string {
    return this.raw.originalUrl
  }

  get authority(): string | undefined | null {
    return requestAuthority(this.raw, trustedForwardedHost(this.raw))
  }

  header(name: string): string | undefined {
    const value = this.raw.headers[name]
    return Array.isArray(value) ? value.join(', ') : value
  }
}

/** Not `req.host`: it has no port in Express 4, and drops all but the first of several forwarded hosts. The decision whom to trust stays the framework's. */
function trustedForwardedHost(req: Request): string | undefined {
  const forwarded = req.headers['x-forwarded-host']
  if (typeof forwarded !== 'string') return undefined
  const trust: unknown = req.app.get('trust proxy fn')
  return typeof trust === 'function' && trust(req.socket.remoteAddress, 0) === true
    ? forwarded
    : undefined
}
