import { describe, expect, it } from 'vitest'
import { header, type TenancyRequest } from '../index.ts'

const services = { tenantIdOfDomain: () => undefined }
const refusal = (code: string) => expect.objectContaining({ code, status: 400 })

function withHeaders(headers: Record<string, string>): TenancyRequest {
  return {
    raw: undefined,
    method: 'GET',
    target: '/',
    authority: 'x.io',
    header: (name) => (Object.hasOwn(headers, name) ? headers[name] : undefined),
  }
}

describe('header', () => {
  const resolver = header('X-Tenant-ID')
  const identify = (headers: Record<string, string>) =>
    resolver.identify(withHeaders(headers), services)

  it('declares what it reads', () => {
    expect(resolver).toMatchObject({
      name: 'header',
      key: 'header:x-tenant-id',
      forgeable: true,
      vary: ['X-Tenant-ID'],
    })
  })

  it('gives the value as it is, and undefined without the header', () => {
    expect(identify({ 'x-tenant-id': 'acme' })).toBe('acme')
    expect(identify({ 'x-tenant-id': 'Globex ' })).toBe('Globex ')
    // Present and empty is not absent: it must not lead to the default tenant.
    expect(identify({ 'x-tenant-id': '' })).toBe('')
    expect(identify({})).toBeUndefined()
  })

  it('I4 does not take X_Tenant_ID for X-Tenant-ID', () => {
    expect(identify({ x_tenant_id: 'victim', 'x-tenant': 'victim' })).toBeUndefined()
  })

  it.each(['acme, victim', 'acme,acme', ',', 'acme,'])(
    'I4 refuses the joined value %j',
    (value) => {
      expect(() => identify({ 'x-tenant-id': value })).toThrow(
        refusal('ERR_TENANCY_IDENTIFIER_AMBIGUOUS'),
      )
    },
  )

  it.each(['close, X-Tenant-ID', 'x-tenant-id', 'keep-alive ,X-TENANT-ID , te'])(
    'I6 refuses Connection: %s, with and without the header',
    (connection) => {
      for (const headers of [{ connection }, { connection, 'x-tenant-id': 'acme' }])
        expect(() => identify(headers)).toThrow(refusal('ERR_TENANCY_IDENTIFIER_AMBIGUOUS'))
    },
  )

  it('reads a Connection header that names others', () => {
    expect(identify({ connection: 'keep-alive, x-tenant-id-2', 'x-tenant-id': 'acme' })).toBe(
      'acme',
    )
  })

  it.each([
    '',
    'X Tenant',
    'X-Tenant:',
    'x\r\ny',
    'Host',
    'cookie',
    'Authorization',
    'Connection',
    'set-cookie',
    undefined,
    7,
  ])('is not configured with %j', (name) => {
    expect(() => header(name as string)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  })
})
