import {
  assertKnownKeys,
  assertTenancyMode,
  assertTrustProxy,
  enterRequest,
  leaveRequest,
  mergeVary,
  type Tenancy,
  TenancyError,
  type TenancyMode,
  type Tenant,
  type TenantScope,
} from '@partywall/core'
import type { FastifyInstance, FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { FastifyTenancyRequest } from './internal/fastify-tenancy-request.ts'
import { trustProxyOption } from './internal/trust-proxy-option.ts'
import { type TenancyErrorHandlerOptions, tenancyErrorHandler } from './tenancy-error-handler.ts'

declare module 'fastify' {
  interface FastifyInstance {
    readonly tenancy: Tenancy
  }
  interface FastifyRequest {
    /** The tenant that the request acts for; `undefined` where there is none. */
    readonly tenant: Tenant | undefined
    /** The tenant, and how it came to be. */
    readonly tenancy: TenantScope | undefined
  }
  interface FastifyContextConfig {
    /** What the route is to tenants. @defaultValue the `mode` of the plugin, `'required'` */
    tenancy?: TenancyMode | undefined
  }
}

export interface TenancyPluginOptions {
  readonly tenancy: Tenancy
  /** The mode of routes that declare none by `config: { tenancy }`. @defaultValue `'required'` */
  readonly mode?: TenancyMode | undefined
  /**
   * Options of the error handler that the plugin sets, which answers TenancyErrors and leaves the rest to the handler that was set before, or to that of Fastify. `'none'`
   * sets none: then call `tenancyErrorHandler()` in your own. @defaultValue `{}`
   */
  readonly errorHandler?: TenancyErrorHandlerOptions | 'none' | undefined
}

const scopeKey = Symbol('partywall.fastify')

type WithScope = FastifyRequest & { [scopeKey]: TenantScope | undefined }

const plugin: FastifyPluginCallback<TenancyPluginOptions> = (fastify, options, done) => {
  try {
    register(fastify, options)
    done()
  } catch (error) {
    done(error as Error)
  }
}

/**
 * Finds the tenant of each request and runs everything from the first hook behind it in that tenant's context. Decorates `fastify.tenancy`, `request.tenant` and `request.tenancy`, and
 * sets `Vary`; what is wrong with a request goes to the error handler, and no handler runs. Unknown routes run outside of every tenant.
 *
 * Registration rejects with a TenancyError `ERR_TENANCY_OPTION_INVALID`.
 */
export const tenancyPlugin: FastifyPluginCallback<TenancyPluginOptions> = fp(plugin, {
  name: '@partywall/fastify',
  fastify: '5.x',
})

function register(fastify: FastifyInstance, options: TenancyPluginOptions): void {
  assertKnownKeys('tenancyPlugin', options, ['tenancy', 'mode', 'errorHandler'])
  const { tenancy, errorHandler = {} } = options
  if (typeof tenancy?.resolve !== 'function')
    throw new TenancyError('ERR_TENANCY_OPTION_INVALID', 'tenancyPlugin needs { tenancy }.')
  const defaultMode = assertTenancyMode('mode', options.mode ?? 'required')
  assertTrustProxy(tenancy, 'trustProxy', trustProxyOption(fastify))
  if (errorHandler !== 'none') fastify.setErrorHandler(tenancyErrorHandler(errorHandler))

  fastify.decorate('tenancy', tenancy)
  fastify.decorateRequest(scopeKey, undefined)
  fastify.decorateRequest('tenancy', {
    getter(): TenantScope | undefined {
      return (this as unknown as WithScope)[scopeKey]
    },
  })
  fastify.decorateRequest('tenant', {
    getter(): Tenant | undefined {
      return (this as unknown as WithScope)[scopeKey]?.tenant
    },
  })

  fastify.addHook('onRoute', ({ config, method, url }) => {
    if (config?.tenancy !== undefined)
      assertTenancyMode(`config.tenancy of ${String(method)} ${url}`, config.tenancy)
  })

  const vary = mergeVary(undefined, tenancy.vary)
  // A callback and not an async hook: the context is entered by run() around done(), and ends with it.
  fastify.addHook('onRequest', (request, reply, next) => {
    const { config, url } = request.routeOptions
    if (url === undefined) {
      // No route: nobody's tenant is asked for, and that of the request before on the socket is left.
      leaveRequest(tenancy, { message: request.raw, response: reply.raw }, () => next())
      return
    }
    const mode = config.tenancy ?? defaultMode
    if (mode !== 'central' && vary !== '') setVary(reply, vary, tenancy.vary)
    enterRequest(tenancy, {
      mode,
      request: new FastifyTenancyRequest(request),
      message: request.raw,
      response: reply.raw,
      requestId: request.id,
      reason: () => `route ${request.method} ${url}`,
      accept: (scope) => {
        ;(request as WithScope)[scopeKey] = scope
      },
      next: next as (error?: unknown) => void,
    })
  })
}

function setVary(reply: FastifyReply, vary: string, names: readonly string[]): void {
  const existing = reply.getHeader('vary')
  reply.header('vary', existing === undefined ? vary : mergeVary(existing, names))
}
