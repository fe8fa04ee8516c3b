import { TenancyError } from '../errors.ts'
import { assertName } from '../internal/assert-name.ts'
import { describeValue } from '../internal/describe-value.ts'
import { chain, isPromise, type MaybePromise } from '../internal/maybe-promise.ts'
import { functionOption } from '../internal/options.ts'
import { assertUnambiguousJwt } from '../internal/unambiguous-jwt.ts'
import { assertKnownKeys } from '../known-keys.ts'
import type { TenancyRequest } from '../tenancy-request.ts'
import { isTenantId } from '../tenant-id.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

/** What a token says, after its signature, issuer, audience and expiry were checked. */
export interface VerifiedToken {
  readonly claims: Readonly<Record<string, unknown>>
  /**
   * The tenant whose key signed the token, where keys belong to tenants. A token that is signed by one tenant's key and claims another is refused;
   * without this, any tenant that owns a key could claim them all.
   */
  readonly tenantId?: string | undefined
}

export type ClaimOptions =
  | {
      /**
       * Verifies a bearer token: signature, issuer, audience, expiry. Throws when anything is wrong. Use a JWT library (`jose`, say) with a fixed
       * list of algorithms, and look keys up by issuer *and* key id.
       */
      readonly verify: (token: string, request: TenancyRequest) => MaybePromise<VerifiedToken>
    }
  | {
      /** The claims that an authentication middleware in front has already verified; `undefined` for an anonymous request. */
      readonly claims: (request: TenancyRequest) => Readonly<Record<string, unknown>> | undefined
    }

/**
 * The tenant by a claim of a verified token: the one source that a client cannot forge. A request without a bearer token does not carry it; a token
 * that fails, or whose claim is missing or anything but one tenant id, ends the request.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function claim(name: string, options: ClaimOptions): TenantResolver {
  assertName('claim()', name)
  assertKnownKeys('claim()', options, ['verify', 'claims'])
  if ('verify' in options === 'claims' in options)
    throw new TenancyError('ERR_TENANCY_OPTION_INVALID', 'claim() needs either verify or claims.')
  if ('verify' in options) functionOption('claim({ verify })', options.verify)
  else functionOption('claim({ claims })', options.claims)
  const tenantOf = ({ claims, tenantId }: VerifiedToken): string => {
    const value = Object.hasOwn(claims, name) ? claims[name] : undefined
    if (!isTenantId(value))
      throw new TenancyError(
        'ERR_TENANCY_TOKEN_INVALID',
        `The claim ${name} must be one tenant id, got ${describeValue(value)}.`,
      )
    if (tenantId !== undefined && tenantId !== value)
      throw new TenancyError(
        'ERR_TENANCY_TOKEN_INVALID',
        `The token claims ${value} but was signed by another tenant's key.`,
      )
    return value
  }
  return {
    name: 'claim',
    key: `claim:${name}`,
    forgeable: false,
    vary: ['Authorization'],
    identify(request) {
      if ('claims' in options) {
        const claims = options.claims(request)
        return claims === undefined ? undefined : tenantOf({ claims })
      }
      const token = bearerToken(request)
      if (token === undefined) return undefined
      assertUnambiguousJwt(token)
      return chain(verified(options.verify, token, request), tenantOf)
    },
  }
}

function bearerToken(request: TenancyRequest): string | undefined {
  const authorization = request.header('authorization')
  // Whatever names the scheme is a bearer token, also one that is written wrongly: it must fail, and not count as absent.
  const match = /^\s*bearer(?![!#$%&'*+.^_`|~0-9a-z-]) *(.*)$/is.exec(authorization ?? '')
  return match?.[1]
}

function verified(
  verify: (token: string, request: TenancyRequest) => MaybePromise<VerifiedToken>,
  token: string,
  request: TenancyRequest,
): MaybePromise<VerifiedToken> {
  const refuse = (cause: unknown): never => {
    if (TenancyError.is(cause)) throw cause
    throw new TenancyError('ERR_TENANCY_TOKEN_INVALID', 'The token was not accepted.', { cause })
  }
  try {
    const result = verify(token, request)
    return isPromise(result) ? Promise.resolve(result).catch(refuse) : result
  } catch (cause) {
    return refuse(cause)
  }
}
