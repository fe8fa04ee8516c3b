import { requestAuthority, type TenancyRequest } from '@partywall/core'
import type { FastifyRequest } from 'fastify'

/** A Fastify request as resolvers see it. Everything is read when it is asked for. */
export class FastifyTenancyRequest implements TenancyRequest<FastifyRequest> {
  readonly raw: FastifyRequest

  constructor(raw: FastifyRequest) {
    this.raw = raw
  }

  get method(): string {
    return this.raw.method
  }

  /** What was received, also where `rewriteUrl` changed it. */
  get target(): string {
    return this.raw.originalUrl
  }

  get authority(): string | undefined | null {
    return requestAuthority(this.raw.raw, trustedForwardedHost(this.raw))
  }

  header(name: string): string | undefined {
    const value = this.raw.raw.headers[name]
    return Array.isArray(value) ? value.join(', ') : value
  }
}

/**
 * All of the forwarded host where Fastify trusts the peer. It shows its trust only by `request.host`, which is then the last entry of the header, and by `request.ips`,
 * which is there only with `trustProxy`.
 */
function trustedForwardedHost(request: FastifyRequest): string | undefined {
  const forwarded = request.raw.headers['x-forwarded-host']
  if (typeof forwarded !== 'string' || request.ips === undefined) return undefined
  const last = forwarded.slice(forwarded.lastIndexOf(',') + 1).trim()
  return request.host === last ? forwarded : undefined
}
