import {
  createTenancy,
  header,
  memoryTenantStore,
  type Tenancy,
  TenancyError,
} from '@partywall/core'
import Fastify, { type FastifyInstance } from 'fastify'
import { describe, expect, test } from 'vitest'
import { tenancyErrorHandler, tenancyPlugin } from './index.ts'

function makeTenancy(): Tenancy {
  return createTenancy({
    store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]),
    resolve: [header('X-Tenant-ID')],
    authorize: () => true,
  })
}

const tell = (app: FastifyInstance): void => {
  const { tenancy } = app
  for (const mode of ['required', 'optional', 'central'] as const)
    app.get(`/${mode}`, { config: { tenancy: mode } }, async (request) => ({
      tenant: request.tenant?.id ?? null,
      requestId: request.tenancy?.requestId === request.id,
      context: tenancy.current()?.tenant.id ?? null,
      mode: tenancy.context.mode(),
    }))
}

const acme = { 'x-tenant-id': 'acme' }

describe('tenancyPlugin', () => {
  test('gives each request its own tenant, in the request and in the context', async () => {
    const tenancy = makeTenancy()
    const app = Fastify()
    app.addHook('onRequest', async (_request, reply) => void reply.header('vary', 'Origin'))
    await app.register(tenancyPlugin, { tenancy })
    tell(app)
    expect(app.tenancy).toBe(tenancy)
    for (const id of ['acme', 'globex']) {
      const answer = await app.inject({ url: '/required', headers: { 'x-tenant-id': id } })
      expect(answer.json()).toEqual({ tenant: id, requestId: true, context: id, mode: 'tenant' })
      expect(answer.headers['vary']).toBe('Origin, X-Tenant-ID')
    }
  })

  test('routes without a mode are required, and the plugin can say otherwise', async () => {
    for (const [mode, status] of [
      [undefined, 400],
      ['optional', 200],
      ['central', 200],
    ] as const) {
      const app = Fastify()
      await app.register(tenancyPlugin, { tenancy: makeTenancy(), mode })
      app.get('/', () => 'ran')
      tell(app)
      expect((await app.inject('/')).statusCode).toBe(status)
      expect((await app.inject('/required')).statusCode).toBe(400)
    }
  })

  test('covers routes of encapsulated plugins and those that were there before', async () => {
    const app = Fastify()
    app.get('/before', (request) => ({ tenant: request.tenant?.id }))
    await app.register(tenancyPlugin, { tenancy: makeTenancy() })
    await app.register(
      async (child) => {
        child.get('/child', (request) => ({ tenant: request.tenant?.id }))
      },
      { prefix: '/v1' },
    )
    for (const url of ['/before', '/v1/child']) {
      expect((await app.inject(url)).statusCode).toBe(400)
      expect((await app.inject({ url, headers: acme })).json()).toEqual({ tenant: 'acme' })
    }
  })

  test('an unknown route needs no tenant, whichever handler answers it', async () => {
    const tenancy = makeTenancy()
    const app = Fastify()
    await app.register(tenancyPlugin, { tenancy })
    app.setNotFoundHandler((_request, reply) => {
      reply.code(404).send({ mode: tenancy.context.mode() })
    })
    const answer = await app.inject({ url: '/nowhere', headers: acme })
    expect([answer.statusCode, answer.json()]).toEqual([404, { mode: 'none' }])
  })

  test('every hook behind it runs in the tenant, and so does the error handler', async () => {
    const tenancy = makeTenancy()
    const seen: [string, string | undefined][] = []
    const app = Fastify()
    await app.register(tenancyPlugin, { tenancy })
    const note = (hook: string): void => void seen.push([hook, tenancy.current()?.tenant.id])
    app.addHook('preParsing', async () => note('preParsing'))
    app.addHook('preValidation', async () => note('preValidation'))
    app.addHook('preHandler', async () => note('preHandler'))
    app.addHook('onError', async () => note('onError'))
    app.addHook('onSend', async () => note('onSend'))
    app.addHook('onResponse', async () => note('onResponse'))
    app.post('/', () => {
      throw new TenancyError('ERR_TENANCY_SCHEMA_MISSING', 'schema tenant_acme is gone')
    })
    const answer = await app.inject({ method: 'POST', url: '/', headers: acme, payload: { a: 1 } })
    expect(answer.headers['content-type']).toBe('application/problem+json')
    expect(answer.json()).toEqual({
      type: 'about:blank',
      title: 'Internal Server Error',
      status: 500,
      code: 'ERR_TENANCY_SCHEMA_MISSING',
      requestId: 'req-1',
    })
    expect(seen).toHaveLength(6)
    for (const [hook, tenant] of seen) expect([hook, tenant]).toEqual([hook, 'acme'])
  })

  test('the error handler passes on what is not ours, to the handler that was there before', async () => {
    const app = Fastify()
    app.get('/', () => {
      throw new Error('mine')
    })
    await app.register(async (scope) => {
      scope.setErrorHandler((error: Error, _request, reply) =>
        reply.code(418).send({ own: error.message }),
      )
      await scope.register(async (inner) => {
        await inner.register(tenancyPlugin, { tenancy: makeTenancy() })
        inner.get('/inner', () => {
          throw new Error('mine')
        })
      })
    })
    const inner = await app.inject({ url: '/inner', headers: acme })
    expect([inner.statusCode, inner.json()]).toEqual([418, { own: 'mine' }])
    expect((await app.inject({ url: '/inner' })).json()).toMatchObject({
      code: 'ERR_TENANCY_IDENTIFIER_MISSING',
    })
  })

  describe('what is thrown and is no Error', () => {
    const thrown: Readonly<Record<string, unknown>> = {
      nothing: undefined,
      null: null,
      text: 'not allowed',
      empty: '',
      number: 42,
      object: { error: 'not allowed' },
      status: { code: 'NO', statusCode: 403 },
      text200: { status: 200 },
      error: new Error('mine'),
    }

    /** The same application with the plugin, or without. */
    async function answers(
      how: 'bare' | 'plugin' | 'own handler returns ours',
      handler?: 'app',
    ): Promise<unknown[]> {
      const app = Fastify()
      const seen: unknown[] = []
      if (handler === 'app')
        app.setErrorHandler((error, _request, reply) => {
          seen.push(error)
          return reply.code(418).send({ own: true })
        })
      await app.register(async (scope) => {
        if (how !== 'bare')
          await scope.register(tenancyPlugin, {
            tenancy: makeTenancy(),
            errorHandler: how === 'plugin' ? {} : 'none',
          })
        if (how === 'own handler returns ours') {
          const ours = tenancyErrorHandler()
          scope.setErrorHandler((error, request, reply) => ours(error, request, reply))
        }
        scope.addHook('onError', async (_request, _reply, error) => void seen.push(error))
        for (const [name, value] of Object.entries(thrown)) {
          scope.get(`/async/${name}`, async () => {
            throw value
          })
          scope.get(`/sync/${name}`, () => {
            throw value
          })
          const guard = async (): Promise<void> => {
            throw value
          }
          scope.get(`/guard/${name}`, { preHandler: guard }, async () => 'secret')
        }
      })
      const all: unknown[] = []
      for (const kind of ['async', 'sync', 'guard'])
        for (const name of Object.keys(thrown))
          for (const id of ['acme', 'globex']) {
            const url = `/${kind}/${name}`
            const { statusCode, headers, body } = await app.inject({
              url,
              headers: { 'x-tenant-id': id },
            })
            all.push({
              url,
              id,
              statusCode,
              type: headers['content-type'],
              body,
              seen: seen.splice(0),
            })
          }
      await app.close()
      return all
    }

    test.each([
      ['plugin', undefined],
      ['plugin', 'app'],
      ['own handler returns ours', undefined],
      ['own handler returns ours', 'app'],
    ] as const)(
      'is answered as without the plugin: %s, error handler of the application: %s',
      async (how, handler) => {
        const bare = await answers('bare', handler)
        expect(bare).toHaveLength(54)
        for (const answer of bare) expect(answer).not.toMatchObject({ statusCode: 200 })
        expect(await answers(how, handler)).toEqual(bare)
      },
    )
  })

  test("with errorHandler 'none' the application calls it where it wants", async () => {
    const app = Fastify()
    await app.register(tenancyPlugin, { tenancy: makeTenancy(), errorHandler: 'none' })
    const ours = tenancyErrorHandler({ typeBase: 'https://docs.example/#' })
    app.setErrorHandler((error, request, reply) => {
      if (TenancyError.is(error)) return ours(error, request, reply)
      return reply.code(418).send({ own: true })
    })
    app.get('/', () => {
      throw new Error('mine')
    })
    expect((await app.inject('/')).json()).toMatchObject({
      type: 'https://docs.example/#ERR_TENANCY_IDENTIFIER_MISSING',
    })
    expect((await app.inject({ url: '/', headers: acme })).json()).toEqual({ own: true })
  })

  test('wrong options and modes are refused at registration', async () => {
    const tenancy = makeTenancy()
    const register = async (options: object): Promise<unknown> =>
      await Fastify().register(tenancyPlugin, options as never)
    await expect(register({})).rejects.toMatchObject({ code: 'ERR_TENANCY_OPTION_INVALID' })
    await expect(register({ tenancy, mod: 'central' })).rejects.toThrow(/Did you mean "mode"/)
    await expect(register({ tenancy, mode: 'open' })).rejects.toThrow(/mode must be one of/)
    await expect(register({ tenancy, errorHandler: { typeBase: 1 } })).rejects.toThrow(/typeBase/)
    const app = Fastify()
    await app.register(tenancyPlugin, { tenancy })
    expect(() => app.get('/', { config: { tenancy: 'optinal' as 'optional' } }, () => 'x')).toThrow(
      /Did you mean "optional"/,
    )
  })
})
