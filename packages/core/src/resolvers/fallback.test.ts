import { describe, expect, it } from 'vitest'
import {
  createTenancy,
  fallback,
  header,
  memoryTenantStore,
  type TenancyRequest,
} from '../index.ts'

function request(headers: Record<string, string> = {}): TenancyRequest {
  return {
    raw: undefined,
    method: 'GET',
    target: '/',
    authority: 'x.io',
    header: (name) => headers[name],
  }
}
const setUp = (fallbackId: string) =>
  createTenancy({
    store: memoryTenantStore([{ id: 'acme' }, { id: 'globex', status: 'suspended' }]),
    resolve: [header('X-Tenant-ID'), fallback(fallbackId)],
    authorize: () => true,
  })

describe('fallback', () => {
  it('is the tenant of requests that name none, and of no others', async () => {
    const tenancy = setUp('acme')
    expect(await tenancy.resolve(request())).toMatchObject({
      tenant: { id: 'acme' },
      source: 'fallback',
    })
    for (const id of ['hooli', 'globex', 'public'])
      await expect(tenancy.resolve(request({ 'x-tenant-id': id }))).rejects.toMatchObject({
        code: 'ERR_TENANCY_TENANT_UNKNOWN',
      })
    for (const id of ['', 'Acme', '../acme'])
      expect(() => tenancy.resolve(request({ 'x-tenant-id': id }))).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_IDENTIFIER_INVALID' }),
      )
  })

  it('declares public, which needs no record', async () => {
    const tenancy = setUp('public')
    expect((await tenancy.resolve(request()))?.tenant.id).toBe('public')
    expect((await tenancy.resolve(request({ 'x-tenant-id': 'public' })))?.source).toBe('header')
  })

  it('declares no other tenant: one without a record, or suspended, is a 404', async () => {
    for (const id of ['hooli', 'globex'])
      await expect(setUp(id).resolve(request())).rejects.toMatchObject({
        code: 'ERR_TENANCY_TENANT_UNKNOWN',
        status: 404,
      })
  })

  it('is asked of authorize like any other', async () => {
    const seen: string[] = []
    const tenancy = createTenancy({
      store: memoryTenantStore(),
      resolve: [fallback('public')],
      authorize: ({ tenant, source }) => {
        seen.push(`${source}:${tenant.id}`)
        return false
      },
    })
    await expect(tenancy.resolve(request())).rejects.toMatchObject({ status: 404 })
    expect(seen).toEqual(['fallback:public'])
  })

  it.each(['', 'Public', 'www', 'pg_catalog', undefined])('is not configured with %j', (id) => {
    expect(() => fallback(id as string)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_IDENTIFIER_INVALID' }),
    )
  })
})
