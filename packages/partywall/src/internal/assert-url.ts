import { TenancyError } from '@partywall/core'

/**
 * Returns the URL of a server, or `undefined` where there is none. Messages and causes never hold the URL, because a password may stand in it.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function assertUrl(
  option: string,
  value: unknown,
  protocols: readonly string[],
): string | undefined {
  if (value === undefined) return undefined
  const parsed = typeof value === 'string' ? URL.parse(value) : null
  if (parsed !== null && protocols.includes(parsed.protocol)) return value as string
  // An empty variable of the environment is more often a mistake than the wish for an embedded server.
  const what =
    value === '' ? 'is empty' : `is no URL that begins with ${protocols.join('// or ')}//`
  throw new TenancyError('ERR_TENANCY_OPTION_INVALID', `${option} ${what}.`, {
    hint: `Give a URL such as ${protocols[0]}//user:password@127.0.0.1/name, or leave ${option} out.`,
  })
}
