import type { IncomingMessage } from 'node:http'
import { BlockList, isIP } from 'node:net'
import { TenancyError } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'
import type { Tenancy } from './tenancy.ts'

/**
 * Host and port of a request, for `TenancyRequest.authority`: the forwarded host if the framework trusts the peer that sent it, and the `Host` header (in HTTP/2
 * `:authority`) otherwise. `null` when there is more than one, however they came: repeated lines, of which Node keeps the first and a proxy perhaps the
 * last, a list, or two pseudo-headers that differ.
 *
 * @param forwardedHost `X-Forwarded-Host`, all of it, where the peer is trusted; `undefined` where it is not.
 */
export function requestAuthority(
  message: Pick<IncomingMessage, 'headers' | 'rawHeaders'>,
  forwardedHost: string | undefined,
): string | undefined | null {
  const { headers, rawHeaders } = message
  const pseudo = headers[':authority'] as string | undefined
  const host = headers.host ?? pseudo
  if (pseudo !== undefined && pseudo !== host) return null
  let lines = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]
    if (name?.length === 4 && name.toLowerCase() === 'host') lines++
  }
  if (lines > 1) return null
  if (forwardedHost === undefined || forwardedHost === '') return host
  return forwardedHost.includes(',') ? null : forwardedHost.trim()
}

const warned = new WeakSet<Tenancy>()

/**
 * Checks a framework's trust in proxies, before it decides about a host.
 *
 * Refuses subnets that reach into the IPv4-mapped part of IPv6 (`::ffff:10.0.0.0/8`, `::/0`): the prefix counts 128 bits, so that the first of them
 * is every IPv4 address there is (CVE-2026-92395 of proxy-addr). Trust in every peer lets any client choose the host, which is warned of once for each tenancy that
 * reads hosts: `PARTYWALL_PERMISSIVE_TRUST_PROXY`.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function assertTrustProxy(tenancy: Tenancy, option: string, trust: unknown): void {
  if (trust === true && readsHosts(tenancy) && !warned.has(tenancy)) {
    warned.add(tenancy)
    process.emitWarning(
      `Any client can choose the host that names the tenant: ${option} is true. List the addresses of your proxies instead.`,
      { code: 'PARTYWALL_PERMISSIVE_TRUST_PROXY' },
    )
  }
  const entries = typeof trust === 'string' ? trust.split(',') : Array.isArray(trust) ? trust : []
  for (const entry of entries)
    if (typeof entry === 'string' && reachesMappedAddresses(entry.trim()))
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `${option} holds ${describeValue(entry)}, a subnet of IPv4-mapped addresses.`,
        { hint: 'Write it as an IPv4 subnet, 10.0.0.0/8 for example.' },
      )
}

function readsHosts(tenancy: Tenancy): boolean {
  return tenancy.vary.some((name) => name.toLowerCase() === 'host')
}

/** Single mapped addresses are harmless: frameworks read them as the IPv4 address. */
function reachesMappedAddresses(entry: string): boolean {
  const [address = '', prefix] = entry.split('/', 2)
  if (prefix === undefined || isIP(address) !== 6) return false
  const [plain = ''] = address.split('%', 1)
  // The URL parser writes every spelling of an IPv6 address in one.
  if (/^\[::ffff:[0-9a-f]+:[0-9a-f]+\]$/.test(new URL(`http://[${plain}]`).hostname)) return true
  const bits = Number(prefix)
  if (!Number.isInteger(bits) || bits < 0 || bits > 128) return false
  const subnet = new BlockList()
  subnet.addSubnet(plain, bits, 'ipv6')
  return subnet.check('::ffff:192.0.2.1', 'ipv6')
}
