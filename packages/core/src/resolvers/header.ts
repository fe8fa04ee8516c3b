import { TenancyError } from '../errors.ts'
import { describeValue } from '../internal/describe-value.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

// Node keeps the first of these when they are repeated (http: message.headers), so a repetition could not be seen.
const UNFIT = new Set(
  (
    'age authorization connection content-length content-type cookie etag expires from host if-modified-since if-unmodified-since ' +
    'last-modified location max-forwards proxy-authorization referer retry-after server set-cookie transfer-encoding user-agent'
  ).split(' '),
)

/**
 * The tenant by a request header. Clients can forge it, so it needs `authorize`.
 *
 * A repeated or comma-joined header is ambiguous (RFC 9110, 5.3 lets proxies join them), and so is one that `Connection` declares hop-by-hop: a
 * proxy on the way drops it, and the request would arrive as one without a tenant.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` if `name` is no header name or one that Node does not repeat faithfully.
 */
export function header(name: string): TenantResolver {
  const lower = typeof name === 'string' ? name.toLowerCase() : ''
  if (!/^[a-z0-9!#$%&'*+.^`|~-]+$/.test(lower) || UNFIT.has(lower))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `header() needs the name of a header of its own, got ${describeValue(name)}.`,
      {
        hint: 'Use a name such as X-Tenant-ID; underscores are dropped or rewritten by many proxies.',
      },
    )
  return {
    name: 'header',
    key: `header:${lower}`,
    forgeable: true,
    vary: [name],
    identify(request) {
      const connection = request.header('connection')
      if (connection !== undefined && connection.length >= lower.length) {
        const hops = connection.toLowerCase().split(',')
        if (hops.some((hop) => hop.trim() === lower))
          throw new TenancyError(
            'ERR_TENANCY_IDENTIFIER_AMBIGUOUS',
            `The Connection header declares ${name} hop-by-hop.`,
          )
      }
      const value = request.header(lower)
      if (value?.includes(','))
        throw new TenancyError(
          'ERR_TENANCY_IDENTIFIER_AMBIGUOUS',
          `The header ${name} names more than one tenant.`,
        )
      return value
    },
  }
}
