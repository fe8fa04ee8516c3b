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
      // With its question mark: of a second one, frameworks make part of the name.
      const parameters = new URLSearchParams(request.target.slice(start))
      const values = parameters.getAll(name)
      // `tenant[]=acme` is a list of that name to some query parsers.
      const list = [...parameters.keys()].some((key) => key.startsWith(`${name}[`))
      if (values.length > 1 || list)
        throw new TenancyError(
          'ERR_TENANCY_IDENTIFIER_AMBIGUOUS',
          `The query parameter ${name} does not stand once, with one value.`,
        )
      return values[0]
    },
  }
}
