import { describe, expect, it } from 'vitest'
import { cookie, type TenancyRequest } from '../index.ts'

const services = { tenantIdOfDomain: () => undefined }
const identify = (value: string | undefined) => {
  const request: TenancyRequest = {
    raw: undefined,
    method: 'GET',
    target: '/',
    authority: 'x.io',
    header: (name) => (name === 'cookie' ? value : undefined),
  }
  return cookie('tenant').identify(request, services)
}

describe('cookie', () => {
  it.each<[string | undefined, string | undefined]>([
    ['tenant=acme', 'acme'],
    ['a=1; tenant=acme; b=2', 'acme'],
    ['a=1;tenant = acme ', 'acme'],
    ['tenant=a=b', 'a=b'],
    ['tenant="acme"', '"acme"'],
    ['tenant=%61cme', '%61cme'],
    ['tenant=', ''],
    ['Tenant=victim', undefined],
    ['xtenant=victim; tenant2=victim', undefined],
    ['tenant', undefined],
    ['a=tenant=victim', undefined],
    ['', undefined],
    [undefined, undefined],
  ])('reads %j as %j', (value, expected) => {
    expect(identify(value)).toBe(expected)
  })

  it.each(['tenant=acme; tenant=victim', 'tenant=acme; tenant=acme', 'tenant=;tenant=acme'])(
    'refuses %j',
    (value) => {
      expect(() => identify(value)).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_IDENTIFIER_AMBIGUOUS', status: 400 }),
      )
    },
  )

  it.each(['', 'a;b', 'a=b', undefined])('is not configured with %j', (name) => {
    expect(() => cookie(name as string)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  })
})
