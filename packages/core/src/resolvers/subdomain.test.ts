import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isTenantId, subdomain, TenancyError, type TenancyRequest } from '../index.ts'

const seed = 20_260_731
const services = { tenantIdOfDomain: () => undefined }
const withHost = (authority: string | undefined | null): TenancyRequest => ({
  raw: undefined,
  method: 'GET',
  target: '/',
  authority,
  header: () => undefined,
})

/** What a request from this host leads to: a tenant id, no tenant, or the code of a refusal. */
function outcome(authority: string | undefined | null, of?: string | readonly string[]): unknown {
  try {
    const identifier = subdomain(of === undefined ? {} : { of }).identify(
      withHost(authority),
      services,
    )
    if (identifier === undefined) return undefined
    return isTenantId(identifier) ? identifier : 'malformed'
  } catch (error) {
    if (TenancyError.is(error) && error.status === 400) return error.code
    throw error
  }
}

const label63 = 'a'.repeat(63)
const HOST = 'ERR_TENANCY_HOST_INVALID'
const ID = 'ERR_TENANCY_IDENTIFIER_INVALID'

describe('subdomain', () => {
  it.each<[string, string | undefined | null, unknown]>([
    ['a label below the domain', 'acme.x.io', 'acme'],
    ['case', 'AcMe.X.iO', 'acme'],
    ['a trailing dot', 'acme.x.io.', 'acme'],
    ['a port', 'acme.x.io:8443', 'acme'],
    ['a trailing dot and a port', 'acme.x.io.:443', 'acme'],
    ['a label of 63 characters', `${label63}.x.io`, label63],
    ['punycode', 'xn--80ak6aa92e.x.io', 'xn--80ak6aa92e'],
    ['the development host', 'acme.localhost:3000', 'acme'],
    ['a numeric label', '123.x.io', '123'],
    ['the domain itself', 'x.io', undefined],
    ['the domain itself with a dot and a port', 'X.IO.:80', undefined],
    ['www', 'www.x.io', undefined],
    ['localhost', 'localhost:3000', undefined],
    ['another domain', 'acme.y.io', undefined],
    ['a domain that ends alike', 'acme.evil-x.io', undefined],
    ['a domain that ends alike without a dash', 'acmex.io', undefined],
    ['the domain as a label of another', 'x.io.evil.example', undefined],
    ['IPv4', '192.0.2.1:80', undefined],
    ['a number that is an address', '2130706433', undefined],
    ['an address in hexadecimal', '0x7f.0x1', undefined],
    ['an address behind a label', 'acme.127', undefined],
    ['IPv6', '[::1]', undefined],
    ['IPv6 with a port', '[2001:db8::1]:443', undefined],
    ['no host (HTTP/1.0)', undefined, undefined],
    ['two labels deep', 'a.b.x.io', ID],
    ['www and a tenant', 'www.acme.x.io', ID],
    ['an underscore', 'ac_me.x.io', 'malformed'],
    ['a reserved label', 'partywall.x.io', 'malformed'],
    ['two hosts', null, HOST],
    ['empty', '', HOST],
    ['a port alone', ':443', HOST],
    ['dots alone', '...', HOST],
    ['one dot', '.', HOST],
    ['two trailing dots', 'acme.x.io..', HOST],
    ['a leading dot', '.x.io', HOST],
    ['an empty label', 'acme..x.io', HOST],
    ['two ports', 'a.x.io:443:victim', HOST],
    ['a port that is none', 'a.x.io:victim', HOST],
    ['an empty port', 'a.x.io:', HOST],
    ['a port beyond 65535', 'a.x.io:65536', HOST],
    ['a user', 'victim.x.io@a.x.io', HOST],
    ['a wildcard', '*.x.io', HOST],
    ['a list', 'a.x.io, victim.x.io', HOST],
    ['a space', 'a.x.io victim.x.io', HOST],
    ['a tab behind', 'a.x.io\t', HOST],
    ['a line break', 'a.x.io\n', HOST],
    ['NUL', 'a\0.x.io', HOST],
    ['a path', 'a.x.io/victim', HOST],
    ['a backslash', 'a.x.io\\victim', HOST],
    ['percent-encoding', 'a%2ex.io', HOST],
    ['a label of 64 characters', `a${label63}.x.io`, HOST],
    ['254 characters', `${'ab.'.repeat(83)}ab.io`, HOST],
    ['a dash in front', '-a.x.io', HOST],
    ['a dash behind', 'a-.x.io', HOST],
    ['an IPv6 zone', '[fe80::1%25eth0]', HOST],
    ['an unclosed bracket', '[::1', HOST],
    ['a tenant behind IPv6', '[::1].x.io', HOST],
    ['a raw IDN', 'bücher.x.io', HOST],
    ['a full-width letter', '\uff41cme.x.io', HOST],
    ['an ideographic full stop', 'acme\u3002x.io', HOST],
    ['the Kelvin sign, whose lower case is k', '\u212Aiwi.x.io', HOST],
    ['a Latin-1 reading of UTF-8', 'acmÃ©.x.io', HOST],
  ])('I7 reads %s (%j) as %j', (_, authority, expected) => {
    expect(outcome(authority, 'x.io')).toBe(expected)
  })

  it('I7 takes a host of 253 characters for a host', () => {
    const host = `${'ab.'.repeat(82)}abcd.io`
    expect(host).toHaveLength(253)
    expect(outcome(host, 'x.io')).toBeUndefined()
  })

  it(`I7 gives one tenant for every spelling of its host (seed ${seed})`, () => {
    const id = fc.stringMatching(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/).filter(isTenantId)
    const spelling = fc.record({
      upper: fc.boolean(),
      dot: fc.boolean(),
      port: fc.option(fc.nat(65_535)),
    })
    fc.assert(
      fc.property(id, spelling, (tenantId, { upper, dot, port }) => {
        let host = `${tenantId}.x.io${dot ? '.' : ''}${port === null ? '' : `:${port}`}`
        if (upper) host = host.toUpperCase()
        expect(outcome(host, 'x.io')).toBe(tenantId)
      }),
      { seed, numRuns: 500 },
    )
  })

  it(`I7 finds in whatever string the label before the domain, or nothing (seed ${seed})`, () => {
    const near = fc
      .tuple(
        fc.string({ unit: fc.constantFrom(...'aAcme.-_:@*/%[] 09\u212Aé'), maxLength: 12 }),
        fc.constantFrom('.x.io', 'x.io', '.X.io.', '.x.io:1', '@x.io', '.evil-x.io', ''),
        fc.constantFrom('', ':443', '.', ':1:2', '@a.x.io'),
      )
      .map((parts) => parts.join(''))
    fc.assert(
      fc.property(fc.oneof(near, fc.string({ unit: 'binary' })), (authority) => {
        const found = outcome(authority, 'x.io')
        if (!isTenantId(found) || String(found).startsWith('ERR_')) return
        // An independent and simpler reading of the only form that may name a tenant.
        const match = /^([a-z0-9-]+)\.(?:x\.io|localhost)\.?(?::\d+)?$/.exec(
          authority.replace(/[A-Z]/g, (letter) => letter.toLowerCase()),
        )
        if (found !== 'malformed') expect(match?.[1]).toBe(found)
      }),
      { seed, numRuns: 2_000 },
    )
  })

  it('takes the longest of several domains, in whatever order they stand', () => {
    for (const of of [
      ['x.io', 'eu.x.io'],
      ['eu.x.io', 'x.io'],
    ]) {
      expect(outcome('acme.x.io', of)).toBe('acme')
      expect(outcome('acme.eu.x.io', of)).toBe('acme')
      expect(outcome('eu.x.io', of)).toBeUndefined()
      expect(outcome('acme.us.x.io', of)).toBe(ID)
    }
  })

  it('takes the first of three labels without a domain', () => {
    expect(outcome('acme.myapp.com')).toBe('acme')
    expect(outcome('acme.localhost')).toBe('acme')
    expect(outcome('myapp.com')).toBeUndefined()
    expect(outcome('www.myapp.com')).toBeUndefined()
    expect(outcome('10.0.0.1')).toBeUndefined()
  })

  it.each(['', 'x.io:80', '*.x.io', 'http://x.io', '10.0.0.1', ['x.io', ''], [undefined], 7])(
    'is not configured with the domain %j',
    (of) => {
      expect(() => subdomain({ of: of as string })).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
    },
  )

  it.each(['x.io', { domain: 'x.io' }])('is not configured with %j', (options) => {
    expect(() => subdomain(options as object)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  })
})
