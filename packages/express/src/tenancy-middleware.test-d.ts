import type { Tenancy, Tenant, TenantScope } from '@partywall/core'
import express from 'express'
import { expectTypeOf } from 'vitest'
import { requireTenant, tenancyErrorHandler, tenancyMiddleware } from './index.ts'

declare const tenancy: Tenancy
const app = express()
app.use(tenancyMiddleware(tenancy, { mode: (req) => (req.path === '/' ? 'central' : 'required') }))
// @ts-expect-error there is no such mode
app.use(tenancyMiddleware(tenancy, { mode: 'open' }))
app.get('/', requireTenant(), (req) => {
  expectTypeOf(req.tenant).toEqualTypeOf<Tenant | undefined>()
  expectTypeOf(req.tenancy).toEqualTypeOf<TenantScope | undefined>()
})
app.use(tenancyErrorHandler())
