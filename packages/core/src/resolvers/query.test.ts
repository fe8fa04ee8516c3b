import { describe, expect, it } from 'vitest'
import { query, type TenancyRequest } from '../index.ts'

const services = { tenantIdOfDomain: () => undefined }
const identify = (target: string) => {
  const request: TenancyRequest = {
    raw: undefined,
    method: 'GET',
    target,
    authority: 'x.io',
    header: () => undefined,
  }
  return query('tenant').identify(request, services)
}

describe('query', () => {
  it.each<[string, string | undefined]>([
    ['/?tenant=acme', 'acme'],
    ['/?a=1&tenant=acme&b=2', 'acme'],
    ['/?tenant=ac%6de', 'acme'],
    ['/?tenant=acme#tenant=victim', 'acme#tenant=victim'],
    ['/?tenant=acme?tenant=victim', 'acme?tenant=victim'],
    ['/?tenant=', ''],
    ['/?tenant', ''],
    ['/?Tenant=victim', undefined],
    ['/x??tenant=victim', undefined],
    ['/?xtenant=victim', undefined],
    ['/tenant=victim', undefined],
    ['/?', undefined],
    ['/', undefined],
  ])('reads %s as %j', (target, expected) => {
    expect(identify(target)).toBe(expected)
  })

  it.each([
    '/?tenant[]=acme',
    '/?tenant=acme&tenant[x]=b',
    '/?tenant=acme&tenant=victim',
    '/?tenant=acme&%74enant=acme',
    '/?tenant&tenant=acme',
  ])('refuses %s', (target) => {
    expect(() => identify(target)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_IDENTIFIER_AMBIGUOUS', status: 400 }),
    )
  })

  it.each(['', 'a b', 'a&b', 'tenant=', undefined, 'x'.repeat(101)])(
    'is not configured with %j',
    (name) => {
      expect(() => query(name as string)).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
    },
  )
})
