import { describe, expect, it } from 'vitest'
import { type PathOptions, path, TenancyError, type TenancyRequest } from '../index.ts'

const services = { tenantIdOfDomain: () => undefined }

function outcome(target: string, options?: PathOptions): unknown {
  const request: TenancyRequest = {
    raw: undefined,
    method: 'GET',
    target,
    authority: 'x.io',
    header: () => undefined,
  }
  try {
    return path(options).identify(request, services)
  } catch (error) {
    if (TenancyError.is(error) && error.status === 400) return error.code
    throw error
  }
}

const REFUSED = 'ERR_TENANCY_REQUEST_TARGET_INVALID'

describe('path', () => {
  it.each<[string, unknown]>([
    ['/acme', 'acme'],
    ['/acme/', 'acme'],
    ['/acme/orders/7', 'acme'],
    ['/acme?tenant=victim', 'acme'],
    ['/acme#/victim', 'acme'],
    ['/acme/a%2fb', 'acme'],
    ['/acme//orders', 'acme'],
    ['/acme;v=1/orders', 'acme;v=1'],
    ['/Acme', 'Acme'],
    ['/', undefined],
    ['/?a=/victim', undefined],
    ['*', undefined],
    ['//victim.x.io/acme', REFUSED],
    ['//acme', REFUSED],
    ['/./acme', REFUSED],
    ['/../acme', REFUSED],
    ['/acme/../victim', REFUSED],
    ['/acme/%2e%2E/victim', REFUSED],
    ['/acme/.%2e/victim', REFUSED],
    ['/acme/x/..', REFUSED],
    ['/%61cme', REFUSED],
    ['/acme%2fvictim', REFUSED],
    ['/acme%00', REFUSED],
    ['/acme\\..\\victim', REFUSED],
    ['/acme/x\\..\\..\\victim', REFUSED],
    ['/\\victim.x.io/acme', REFUSED],
  ])('I8 reads %s as %j', (target, expected) => {
    expect(outcome(target)).toBe(expected)
  })

  it.each<[string, unknown]>([
    ['/t/acme', 'acme'],
    ['/T/acme/orders', 'acme'],
    ['/t', undefined],
    ['/t/', undefined],
    ['/tt/acme', undefined],
    ['/health', undefined],
    ['/acme', undefined],
    ['/t//acme', REFUSED],
    ['//t/acme', REFUSED],
    ['/%74/acme', REFUSED],
    ['/t/%61cme', REFUSED],
    ['/t/../acme', REFUSED],
  ])('I8 reads %s below /t as %j', (target, expected) => {
    expect(outcome(target, { prefix: '/t' })).toBe(expected)
    expect(outcome(target, { prefix: '/t/' })).toBe(expected)
  })

  it('takes a prefix of several segments', () => {
    expect(outcome('/api/v1/acme/x', { prefix: '/api/v1' })).toBe('acme')
    expect(outcome('/api/v2/acme/x', { prefix: '/api/v1' })).toBeUndefined()
  })

  it.each(['', 't', '/t/:id', '/%74', '/t?x', 7, '/t//u'])(
    'is not configured with the prefix %j',
    (prefix) => {
      expect(() => path({ prefix: prefix as string })).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
    },
  )
})
