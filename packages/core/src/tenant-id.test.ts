import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  assertTenantId,
  cookie,
  header,
  isTenantId,
  type PhysicalKind,
  path,
  physicalName,
  query,
  RESERVED_TENANT_IDS,
  subdomain,
  TenancyError,
  type TenancyRequest,
} from './index.ts'

const seed = 20_260_731
const numRuns = 500
const kinds: readonly PhysicalKind[] = ['schema', 'role', 'database', 'queue', 'file']
const services = { tenantIdOfDomain: () => undefined }

const id = fc.stringMatching(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/).filter(isTenantId)

function request(overrides: Partial<TenancyRequest> & { headers?: Record<string, string> }) {
  const { headers = {}, ...rest } = overrides
  return {
    raw: undefined,
    method: 'GET',
    target: '/',
    authority: undefined,
    header: (name: string) => headers[name],
    ...rest,
  }
}

const accepted = [
  ['one byte', 'a'],
  ['one digit', '0'],
  ['63 bytes', 'a'.repeat(63)],
  ['two dashes in the middle', 'a--b'],
  ['hexadecimal', '0x10'],
  ['exponential', '1e3'],
  ['null', 'null'],
  ['undefined', 'undefined'],
  ['true', 'true'],
  ['the default tenant, where declared', 'public'],
  ['default', 'default'],
  ['admin', 'admin'],
  ['api', 'api'],
  ['a member of every object', 'constructor'],
  ['punycode', 'xn--80ak6aa92e'],
] as const

const refused: readonly (readonly [string, unknown])[] = [
  ['empty', ''],
  ['a space', ' '],
  ['a space in front', ' acme'],
  ['a space behind', 'acme '],
  ['64 bytes', 'a'.repeat(64)],
  ['65 bytes', 'a'.repeat(65)],
  ['10 kB', 'a'.repeat(10_000)],
  ['a dot', '.'],
  ['two dots', '..'],
  ['a dash in front', '-a'],
  ['a dash behind', 'a-'],
  ['upper case', 'A'],
  ['upper case inside', 'Acme'],
  ['www', 'www'],
  ['localhost', 'localhost'],
  ['our own schema', 'partywall'],
  ['central', 'central'],
  ['a catalog of Postgres', 'pg_catalog'],
  ['a catalog of Postgres with a dash', 'pg-catalog'],
  ['information_schema', 'information_schema'],
  ['a single quote', "a'b"],
  ['a double quote', 'a"b'],
  ['a semicolon', 'a;b'],
  ['a comment', '--'],
  ['an encoded NUL', '%00'],
  ['NUL', 'a\0b'],
  ['CR LF', 'acme\r\n'],
  ['LF behind', 'acme\n'],
  ['a line separator', 'acme\u2028'],
  ['a path', '../acme'],
  ['braces', '{}'],
  ['a glob', '*'],
  ['a glob inside', 'ac?e'],
  ['a class', '[a-z]'],
  ['a regular expression', 'a.*'],
  ['a separator of keys', 'acme:orders'],
  ['a list', 'acme,victim'],
  ['__proto__', '__proto__'],
  ['toString', 'toString'],
  ['a Cyrillic look-alike', '\u0430cme'],
  ['a full-width look-alike', '\uff41cme'],
  ['the Kelvin sign', '\u212Aiwi'],
  ['a dotless i', 'f\u0131x'],
  ['a long s', '\u017fhop'],
  ['a zero-width joiner', 'ac\u200dme'],
  ['a soft hyphen', 'ac\u00adme'],
  ['a combining mark', 'acme\u0301'],
  ['an astral digit', '\u{1d7ce}'],
  ['undefined', undefined],
  ['null', null],
  ['a number', 7],
  ['a bigint', 7n],
  ['a boolean', true],
  ['a symbol', Symbol('acme')],
  ['an array', ['acme']],
  ['an object that says acme', { toString: () => 'acme' }],
  ['a String object', Object('acme')],
  ['a function', () => 'acme'],
]

describe('tenant ids', () => {
  it.each(accepted)('accepts %s: %j', (_, value) => {
    expect(isTenantId(value)).toBe(true)
    expect(assertTenantId(value)).toBe(value)
  })

  it.each(refused)('refuses %s', (_, value) => {
    expect(isTenantId(value)).toBe(false)
    const error = thrownBy(() => assertTenantId(value))
    expect(TenancyError.is(error, 'ERR_TENANCY_IDENTIFIER_INVALID')).toBe(true)
    expect(error.status).toBe(400)
    // One printable line, whatever the value was: it goes to a log.
    expect(error.message).toMatch(/^[\u0020-\u007e…]{1,700}$/)
  })

  it('refuses every reserved name', () => {
    for (const name of RESERVED_TENANT_IDS) {
      expect(isTenantId(name)).toBe(false)
      expect(() => assertTenantId(name)).toThrow('reserved')
    }
  })

  it(`accepts exactly the DNS labels that are not reserved (seed ${seed})`, () => {
    const nearly = fc.string({ unit: fc.constantFrom(...'aZz09-_. :\n*é'), maxLength: 66 })
    fc.assert(
      fc.property(fc.oneof(nearly, id, fc.string({ unit: 'binary' })), (value) => {
        const label =
          value.length >= 1 &&
          value.length <= 63 &&
          [...value].every((character) =>
            'abcdefghijklmnopqrstuvwxyz0123456789-'.includes(character),
          ) &&
          !value.startsWith('-') &&
          !value.endsWith('-')
        expect(isTenantId(value)).toBe(label && !RESERVED_TENANT_IDS.has(value))
      }),
      { seed, numRuns: 1_000 },
    )
  })

  it(`refuses whatever is no string (seed ${seed})`, () => {
    fc.assert(
      fc.property(
        fc.anything().filter((value) => typeof value !== 'string'),
        (value) => {
          expect(isTenantId(value)).toBe(false)
        },
      ),
      { seed, numRuns },
    )
  })

  it(`keeps an id as it is through every source (seed ${seed})`, () => {
    const sources = [
      (tenantId: string) =>
        header('X-Tenant-ID').identify(request({ headers: { 'x-tenant-id': tenantId } }), services),
      (tenantId: string) =>
        subdomain({ of: 'x.io' }).identify(
          request({ authority: `${tenantId}.x.io:8443` }),
          services,
        ),
      (tenantId: string) =>
        subdomain({ of: 'x.io' }).identify(
          request({ authority: `${tenantId.toUpperCase()}.X.IO.` }),
          services,
        ),
      (tenantId: string) =>
        path().identify(request({ target: `/${tenantId}/orders?x=1` }), services),
      (tenantId: string) =>
        path({ prefix: '/t' }).identify(request({ target: `/t/${tenantId}` }), services),
      (tenantId: string) =>
        query('tenant').identify(request({ target: `/?a=b&tenant=${tenantId}` }), services),
      (tenantId: string) =>
        cookie('tenant').identify(
          request({ headers: { cookie: `a=b; tenant=${tenantId}` } }),
          services,
        ),
    ]
    fc.assert(
      fc.property(id, (tenantId) => {
        for (const source of sources) expect(source(tenantId)).toBe(tenantId)
      }),
      { seed, numRuns },
    )
  })

  it(`keeps prefix pairs apart in every physical name (seed ${seed})`, () => {
    fc.assert(
      fc.property(id, fc.stringMatching(/^[a-z0-9-]{0,8}[a-z0-9]$/), (tenantId, suffix) => {
        const longer = tenantId + suffix
        if (!isTenantId(longer)) return
        for (const kind of kinds)
          expect(physicalName(kind, longer)).not.toBe(physicalName(kind, tenantId))
      }),
      { seed, numRuns },
    )
  })
})

function thrownBy(fn: () => unknown): TenancyError {
  try {
    fn()
  } catch (error) {
    if (TenancyError.is(error)) return error
    throw error
  }
  throw new Error('Nothing was thrown.')
}
