import type { Server } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import {
  createTenancy,
  header,
  memoryTenantStore,
  type Tenancy,
  TenancyError,
} from '@partywall/core'
import express5, { type Application, type RequestHandler } from 'express'
import { describe, expect, test } from 'vitest'
import { centralRoute, requireTenant, tenancyErrorHandler, tenancyMiddleware } from './index.ts'

// Has no types of its own under this name; those of 5 differ in what these tests do not use.
const express4 = createRequire(import.meta.url)('express4') as typeof express5

function makeTenancy(): Tenancy {
  return createTenancy({
    store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]),
    resolve: [header('X-Tenant-ID')],
    authorize: () => true,
  })
}

async function listen(app: Application): Promise<AsyncDisposable & { get: typeof get }> {
  const server = await new Promise<Server>((resolve) => {
    const listening = app.listen(0, '127.0.0.1', () => resolve(listening))
  })
  const { port } = server.address() as AddressInfo
  const get = async (path: string, headers: Record<string, string> = {}) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers })
    const text = await response.text()
    return {
      status: response.status,
      headers: response.headers,
      text,
      json: () => JSON.parse(text) as Record<string, unknown>,
    }
  }
  return {
    get,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
declare function get(
  path: string,
  headers?: Record<string, string>,
): Promise<{
  status: number
  headers: Headers
  text: string
  json(): Record<string, unknown>
}>

const frameworks = [
  { name: 'Express 5', express: express5 },
  { name: 'Express 4', express: express4 },
]

describe.each(frameworks)('tenancyMiddleware on $name', ({ express }) => {
  const app = (): Application => {
    const made = express()
    made.set('env', 'test')
    return made
  }
  const tell: (tenancy: Tenancy) => RequestHandler = (tenancy) => (req, res) => {
    res.json({
      tenant: req.tenant?.id ?? null,
      source: req.tenancy?.source ?? null,
      requestId: req.tenancy?.requestId ?? null,
      context: tenancy.current()?.tenant.id ?? null,
      mode: tenancy.context.mode(),
    })
  }

  test('gives each request its own tenant, in the request and in the context', async () => {
    const tenancy = makeTenancy()
    const made = app()
    made.use(tenancyMiddleware(tenancy))
    made.get('/', tell(tenancy))
    await using server = await listen(made)
    for (const id of ['acme', 'globex']) {
      const answer = await server.get('/', { 'X-Tenant-ID': id, 'X-Request-ID': 'forged' })
      expect(answer.json()).toEqual({
        tenant: id,
        source: 'header',
        requestId: null,
        context: id,
        mode: 'tenant',
      })
      expect(answer.headers.get('vary')).toBe('X-Tenant-ID')
    }
  })

  test('takes the request id that the application set, and adds to its Vary', async () => {
    const tenancy = makeTenancy()
    const made = app()
    made.use((req, res, next) => {
      Object.assign(req, { id: 'req-7' })
      res.vary('Origin')
      next()
    })
    made.use(tenancyMiddleware(tenancy))
    made.get('/', tell(tenancy))
    made.use(tenancyErrorHandler({ typeBase: 'https://docs.example/#' }))
    await using server = await listen(made)
    const answer = await server.get('/', { 'X-Tenant-ID': 'acme' })
    expect(answer.json()).toMatchObject({ requestId: 'req-7' })
    expect(answer.headers.get('vary')).toBe('Origin, X-Tenant-ID')
    const refused = await server.get('/', { 'X-Tenant-ID': 'nobody' })
    expect(refused.headers.get('vary')).toBe('Origin, X-Tenant-ID')
    expect(refused.headers.get('cache-control')).toBe('no-store')
    expect(refused.json()).toEqual({
      type: 'https://docs.example/#ERR_TENANCY_TENANT_UNKNOWN',
      title: 'Not Found',
      status: 404,
      code: 'ERR_TENANCY_TENANT_UNKNOWN',
      hint: 'No tenant of this id may be used here.',
      requestId: 'req-7',
    })
  })

  test('the last middleware on the way to a route decides about its mode', async () => {
    const tenancy = makeTenancy()
    const made = app()
    made.get('/health', tell(tenancy))
    made.use('/admin', tenancyMiddleware(tenancy, { mode: 'central' }))
    made.get('/admin/x', tell(tenancy))
    made.use(tenancyMiddleware(tenancy, { mode: 'optional' }))
    made.get('/any', tell(tenancy))
    made.get('/left', centralRoute(), tell(tenancy))
    made.get('/strict', requireTenant(), tell(tenancy))
    made.use('/again', tenancyMiddleware(tenancy), tell(tenancy))
    made.use(tenancyErrorHandler())
    await using server = await listen(made)
    const acme = { 'X-Tenant-ID': 'acme' }
    expect((await server.get('/health', acme)).json()).toMatchObject({ tenant: null, mode: 'none' })
    expect((await server.get('/admin/x', acme)).json()).toMatchObject({
      tenant: null,
      mode: 'central',
    })
    expect((await server.get('/any')).json()).toMatchObject({ tenant: null, mode: 'none' })
    expect((await server.get('/any', acme)).json()).toMatchObject({
      tenant: 'acme',
      context: 'acme',
    })
    expect((await server.get('/left', acme)).json()).toMatchObject({
      tenant: null,
      context: null,
      mode: 'central',
    })
    expect((await server.get('/strict')).json()).toMatchObject({
      code: 'ERR_TENANCY_IDENTIFIER_MISSING',
    })
    expect((await server.get('/strict', acme)).json()).toMatchObject({
      tenant: 'acme',
      context: 'acme',
    })
    expect((await server.get('/again')).json()).toMatchObject({
      code: 'ERR_TENANCY_IDENTIFIER_MISSING',
    })
    expect((await server.get('/again', acme)).json()).toMatchObject({
      tenant: 'acme',
      context: 'acme',
    })
  })

  test('requireTenant() restores the context of this request, and refuses to steal another', async () => {
    const tenancy = makeTenancy()
    const globex = await tenancy.run('globex', (scope) => scope)
    const made = app()
    made.use(tenancyMiddleware(tenancy))
    made.get(
      '/lost',
      (_req, _res, next) => tenancy.context.outside(() => next()),
      requireTenant(),
      tell(tenancy),
    )
    made.get(
      '/adopted',
      (_req, _res, next) => tenancy.context.outside(() => tenancy.run(globex, () => next())),
      requireTenant(),
      tell(tenancy),
    )
    made.use(tenancyErrorHandler())
    await using server = await listen(made)
    const acme = { 'X-Tenant-ID': 'acme' }
    expect((await server.get('/lost', acme)).json()).toMatchObject({ context: 'acme' })
    expect((await server.get('/adopted', acme)).json()).toMatchObject({
      code: 'ERR_TENANCY_CONTEXT_LOCKED',
    })
  })

  test('requireTenant() and centralRoute() without tenancyMiddleware() are refused', async () => {
    const made = app()
    made.get('/require', requireTenant())
    made.get('/central', centralRoute())
    made.use(tenancyErrorHandler())
    await using server = await listen(made)
    for (const path of ['/require', '/central'])
      expect((await server.get(path)).json()).toMatchObject({
        status: 500,
        code: 'ERR_TENANCY_CONTEXT_MISSING',
      })
  })

  test('the error handler logs what it answers and passes on what is not ours', async () => {
    const tenancy = makeTenancy()
    const logged: unknown[] = []
    const made = app()
    made.use(tenancyMiddleware(tenancy))
    made.get('/ours', (_req, res) => {
      res.set('Content-Length', '3').set('ETag', '"x"')
      throw new TenancyError('ERR_TENANCY_SCHEMA_MISSING', 'schema tenant_acme is gone')
    })
    made.get('/theirs', () => {
      throw Object.assign(new Error('mine'), { status: 418 })
    })
    made.use(tenancyErrorHandler({ onError: (error) => logged.push(error.message) }))
    made.use(((error: Error, _req, res, _next) =>
      res.status(418).send(error.message)) as express5.ErrorRequestHandler)
    await using server = await listen(made)
    const ours = await server.get('/ours', { 'X-Tenant-ID': 'acme' })
    expect(ours.json()).toEqual({
      type: 'about:blank',
      title: 'Internal Server Error',
      status: 500,
      code: 'ERR_TENANCY_SCHEMA_MISSING',
    })
    expect(ours.headers.get('etag')).toBeNull()
    expect(logged).toEqual(['schema tenant_acme is gone'])
    const theirs = await server.get('/theirs', { 'X-Tenant-ID': 'acme' })
    expect([theirs.status, theirs.text]).toEqual([418, 'mine'])
    expect(logged).toHaveLength(1)
  })

  test('a mode function that throws or answers nonsense ends the request', async () => {
    const tenancy = makeTenancy()
    const made = app()
    made.use(tenancyMiddleware(tenancy, { mode: (req) => req.query['mode'] as 'required' }))
    made.get('/', tell(tenancy))
    made.use(tenancyErrorHandler())
    await using server = await listen(made)
    expect((await server.get('/?mode=open')).json()).toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
    })
    expect((await server.get('/?mode=central')).json()).toMatchObject({ mode: 'central' })
  })
})

test('wrong options are refused when the middleware is made', () => {
  const tenancy = makeTenancy()
  expect(() => tenancyMiddleware(tenancy, { mode: 'require' as 'required' })).toThrow(
    /Did you mean "required"/,
  )
  expect(() => tenancyMiddleware(tenancy, { modes: 'central' } as object)).toThrow(
    /Did you mean "mode"/,
  )
  expect(() => tenancyErrorHandler({ onError: 'x' as never })).toThrow(/onError/)
})
