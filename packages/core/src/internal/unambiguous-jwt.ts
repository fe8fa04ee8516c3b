import { TenancyError } from '../errors.ts'

const LONGEST_TOKEN = 16_384

/**
 * Refuses a token that two JSON readers could understand differently, before any verifier sees it: not a compact JWS, `alg: none`, members that stand twice at the
 * top of header or payload (readers keep the first or the last).
 *
 * @throws {TenancyError} `ERR_TENANCY_TOKEN_INVALID`.
 */
export function assertUnambiguousJwt(token: string): void {
  const parts = token.length > LONGEST_TOKEN ? [] : token.split('.')
  if (parts.length !== 3 || !parts.every((part) => /^[A-Za-z0-9_-]+$/.test(part)))
    throw new TenancyError('ERR_TENANCY_TOKEN_INVALID', 'The bearer token is no signed JWT.')
  const [header, payload] = parts.slice(0, 2).map((part) => decode(part))
  if (
    header === undefined ||
    payload === undefined ||
    typeof header['alg'] !== 'string' ||
    /^none$/i.test(header['alg'])
  )
    throw new TenancyError('ERR_TENANCY_TOKEN_INVALID', 'The bearer token is not signed.')
}

function decode(part: string): Record<string, unknown> {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(part, 'base64url'))
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new TypeError('no object')
    if (countTopMembers(text) !== Object.keys(value).length)
      throw new TypeError('a member stands twice')
    return value as Record<string, unknown>
  } catch (cause) {
    throw new TenancyError('ERR_TENANCY_TOKEN_INVALID', 'The bearer token is not well-formed.', {
      cause,
    })
  }
}

/** Counts the members of the outermost object of a valid JSON text: the colons at depth 1 outside of strings. */
function countTopMembers(text: string): number {
  let depth = 0
  let members = 0
  for (let index = 0; index < text.length; index++) {
    const character = text[index]
    if (character === '"') {
      while (text[++index] !== '"') if (text[index] === '\\') index++
    } else if (character === '{' || character === '[') depth++
    else if (character === '}' || character === ']') depth--
    else if (character === ':' && depth === 1) members++
  }
  return members
}
