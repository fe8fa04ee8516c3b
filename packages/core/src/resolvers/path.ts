import { TenancyError } from '../errors.ts'
import { describeValue } from '../internal/describe-value.ts'
import { assertKnownKeys } from '../known-keys.ts'
import type { TenantResolver } from '../tenant-resolver.ts'

export interface PathOptions {
  /** What stands before the tenant: `'/t'` for `/t/acme/orders`. @defaultValue `'/'`, the tenant is the first segment */
  readonly prefix?: string | undefined
}

/**
 * The tenant by a segment of the path. Clients can forge it, so it needs `authorize`.
 *
 * Only paths that every router reads alike are taken: dot segments and backslashes anywhere, and empty or encoded segments up to and including the tenant, are refused,
 * because routers differ on whether to decode and to collapse them. The prefix is compared without case, as routers do by default.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function path(options: PathOptions = {}): TenantResolver {
  assertKnownKeys('path()', options, ['prefix'])
  const { prefix = '/' } = options
  if (typeof prefix !== 'string' || !/^\/(?:[A-Za-z0-9._~-]+\/?)*$/.test(prefix))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `path({ prefix }) must be a path of plain segments, got ${describeValue(prefix)}.`,
    )
  const before = prefix.toLowerCase().split('/').filter(Boolean)
  return {
    name: 'path',
    key: 'path',
    forgeable: true,
    vary: [],
    identify(request) {
      const [pathname = ''] = request.target.split(/[?#]/, 1)
      const segments = pathname.split('/').slice(1)
      // A backslash is a separator to readers that follow the WHATWG URL standard.
      if (pathname.includes('\\') || segments.some(isDotSegment)) throw unreadable(pathname)
      if (segments.length === 1 && segments[0] === '') return undefined
      for (const [index, expected] of before.entries()) {
        const segment = segments[index]
        if (segment === undefined) return undefined
        if (segment === '' || segment.includes('%')) throw unreadable(pathname)
        if (segment.toLowerCase() !== expected) return undefined
      }
      const tenant = segments[before.length]
      if (tenant === undefined || (tenant === '' && segments.length === before.length + 1))
        return undefined
      if (tenant === '' || tenant.includes('%')) throw unreadable(pathname)
      return tenant
    },
  }
}

function isDotSegment(segment: string): boolean {
  const plain = segment.replace(/%2e/gi, '.')
  return plain === '.' || plain === '..'
}

function unreadable(pathname: string): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_REQUEST_TARGET_INVALID',
    `The path ${describeValue(pathname)} can be read in more than one way.`,
  )
}
