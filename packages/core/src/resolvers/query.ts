import { TenancyError } from '../errors.ts'
import { assertName } from '../internal/assert-name.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

/**
 * The tenant by a parameter of the query string. Clients can forge it, so it needs `authorize`. A repeated parameter is ambiguous: frameworks
 * take the first, the last or a list.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function query(name: string): TenantResolver {
  assertName('query()', name)
  return {
    name: 'query',
    key: `query:${name}`,
    forgeable: true,
    vary: [],
    identify(request) {
      const start = request.target.indexOf('?')
      if (start === -1) return undefined
      const values = new URLSearchParams(request.target.slice(start + 1)).getAll(name)
      if (values.length > 1)
        throw new TenancyError(
          'ERR_TENANCY_IDENTIFIER_AMBIGUOUS',
          `The query parameter ${name} stands ${values.length} times.`,
        )
      return values[0]
    },
  }
}
