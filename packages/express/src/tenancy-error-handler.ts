import {
  BODY_HEADERS,
  PROBLEM_MEDIA_TYPE,
  type ProblemOptions,
  problemDocument,
  resolveProblemOptions,
  TenancyError,
} from '@partywall/core'
import type { ErrorRequestHandler, Request } from 'express'
import { requestId } from './internal/request-state.ts'

export interface TenancyErrorHandlerOptions extends ProblemOptions {
  /**
   * Told each error that is answered, for the log: the client learns neither message nor cause. Absent: errors of status 500 and above go to `console.error`, as Express
   * itself does, unless the `env` setting is `test`.
   */
  readonly onError?: ((error: TenancyError, req: Request) => void) | undefined
}

/**
 * Makes the error handler that answers every TenancyError with a problem document (RFC 9457), whose content is safe to show to strangers. Everything else passes to the
 * next error handler untouched. Stands before the application's own.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function tenancyErrorHandler(options: TenancyErrorHandlerOptions = {}): ErrorRequestHandler {
  const { onError = logServerErrors, ...problem } = options
  if (typeof onError !== 'function')
    throw new TenancyError('ERR_TENANCY_OPTION_INVALID', 'onError must be a function.')
  const problemOptions = resolveProblemOptions('tenancyErrorHandler()', problem)
  // Express tells error handlers by their four parameters.
  return function tenancyErrorHandler(error, req, res, next) {
    const document = problemDocument(error, requestId(req), problemOptions)
    // With headers sent, Express closes the connection: the only honest answer left.
    if (document === undefined || res.headersSent) {
      next(error)
      return
    }
    onError(error, req)
    for (const name of BODY_HEADERS) res.removeHeader(name)
    res.statusCode = document.status
    res.setHeader('Content-Type', PROBLEM_MEDIA_TYPE)
    // A 404 may be stored without being asked to (RFC 9110, 15.1), and then outlives the creation of the tenant.
    res.setHeader('Cache-Control', 'no-store')
    const body = JSON.stringify(document)
    // Node counts by itself, except where a Content-Length was removed before.
    res.setHeader('Content-Length', Buffer.byteLength(body))
    res.end(body)
  }
}

function logServerErrors(error: TenancyError, req: Request): void {
  if (error.status >= 500 && req.app.get('env') !== 'test') console.error(error)
}
