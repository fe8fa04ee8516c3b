import { TenancyError } from '../errors.ts'
import { assertName } from '../internal/assert-name.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

/**
 * The tenant by a cookie. Clients can forge it, so it needs `authorize`. A cookie that stands twice is ambiguous: a sibling subdomain
 * can set one of the same name for the parent domain.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function cookie(name: string): TenantResolver {
  assertName('cookie()', name)
  return {
    name: 'cookie',
    key: `cookie:${name}`,
    forgeable: true,
    vary: ['Cookie'],
    identify(request) {
      const cookies = request.header('cookie')
      if (cookies === undefined) return undefined
      let found: string | undefined
      for (const pair of cookies.split(';')) {
        const separator = pair.indexOf('=')
        if (separator === -1 || pair.slice(0, separator).trim() !== name) continue
        if (found !== undefined)
          throw new TenancyError(
            'ERR_TENANCY_IDENTIFIER_AMBIGUOUS',
            `The cookie ${name} stands more than once.`,
          )
        found = pair.slice(separator + 1).trim()
      }
      return found
    },
  }
}
