import {
  BODY_HEADERS,
  PROBLEM_MEDIA_TYPE,
  type ProblemOptions,
  problemDocument,
  resolveProblemOptions,
} from '@partywall/core'
import type { FastifyReply, FastifyRequest } from 'fastify'

export type TenancyErrorHandlerOptions = ProblemOptions
export type TenancyErrorHandler = (
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
) => Promise<never> | undefined

/**
 * Makes the error handler that answers every TenancyError with a problem document (RFC 9457), whose content is safe to show to strangers; the whole error goes to
 * `request.log`. Everything else is sent on untouched, to the error handler that was set before. The plugin sets it; call it yourself where you set your own, and
 * return what it returns: a thrown value that is no Error is passed on by a rejection.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function tenancyErrorHandler(options: TenancyErrorHandlerOptions = {}): TenancyErrorHandler {
  const resolved = resolveProblemOptions('tenancyErrorHandler()', options)
  return function tenancyErrorHandler(error, request, reply) {
    const document = problemDocument(error, request.id, resolved)
    if (document === undefined) {
      if (error instanceof Error) {
        reply.send(error)
        return undefined
      }
      // Sent, it would be an ordinary payload to Fastify: a guard that throws an object would be answered 200. Rejected with, it stays an error.
      const rejection = Promise.reject(error)
      // Where nobody takes it, it must not end the process.
      rejection.catch(() => {})
      return rejection
    }
    const level = document.status >= 500 ? 'error' : 'info'
    request.log[level]({ err: error, req: request, res: reply }, document.code)
    for (const name of BODY_HEADERS) reply.removeHeader(name)
    // A Buffer, because Fastify passes strings of a JSON type through serializers and adds a charset, which this type does not have.
    reply
      .code(document.status)
      .header('content-type', PROBLEM_MEDIA_TYPE)
      // A 404 may be stored without being asked to (RFC 9110, 15.1), and then outlives the creation of the tenant.
      .header('cache-control', 'no-store')
      .send(Buffer.from(JSON.stringify(document)))
    return undefined
  }
}
