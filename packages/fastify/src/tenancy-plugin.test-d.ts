import type { Tenancy, Tenant, TenantScope } from '@partywall/core'
import Fastify from 'fastify'
import { expectTypeOf } from 'vitest'
import { tenancyErrorHandler, tenancyPlugin } from './index.ts'

declare const tenancy: Tenancy
const app = Fastify()
await app.register(tenancyPlugin, { tenancy, mode: 'optional', errorHandler: 'none' })
// @ts-expect-error the tenancy is not optional
await app.register(tenancyPlugin, {})
expectTypeOf(app.tenancy).toEqualTypeOf<Tenancy>()
app.get('/', { config: { tenancy: 'central' } }, (request) => {
  expectTypeOf(request.tenant).toEqualTypeOf<Tenant | undefined>()
  expectTypeOf(request.tenancy).toEqualTypeOf<TenantScope | undefined>()
  // @ts-expect-error it is the tenancy's to set
  request.tenant = undefined
})
// @ts-expect-error there is no such mode
app.get('/open', { config: { tenancy: 'open' } }, () => 'x')
app.setErrorHandler(tenancyErrorHandler())
