import { STATUS_CODES } from 'node:http'
import { ERRORS, TenancyError } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'
import { assertKnownKeys } from './known-keys.ts'

/** The media type of a {@link ProblemDocument}. */
export const PROBLEM_MEDIA_TYPE = 'application/problem+json'

/** Headers that describe the body which a handler meant to send; a problem document takes its place. */
export const BODY_HEADERS: readonly string[] = [
  'accept-ranges',
  'content-disposition',
  'content-encoding',
  'content-language',
  'content-length',
  'content-range',
  'etag',
  'last-modified',
]

/** Options of the error handlers of every HTTP host. */
export interface ProblemOptions {
  /**
   * What the error code is appended to for `type`: `'https://docs.example.com/errors#'`, say. Absent: `type` is `about:blank`, and the
   * code stands in `code` alone (RFC 9457, 4.2.1).
   */
  readonly typeBase?: string | undefined
}

export type ResolvedProblemOptions = Readonly<{ typeBase: string | undefined }>

/** What a client learns of an error (RFC 9457). */
export interface ProblemDocument {
  readonly type: string
  /** The phrase of the status, never the message of the error: that names values. */
  readonly title: string
  readonly status: number
  readonly code: string
  /** What the client can do about it; absent where only an operator can do something. */
  readonly hint?: string
  readonly requestId?: string
}

/** @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function resolveProblemOptions(
  what: string,
  options: ProblemOptions = {},
): ResolvedProblemOptions {
  assertKnownKeys(what, options, ['typeBase'])
  const { typeBase } = options
  if (typeBase !== undefined && (typeof typeBase !== 'string' || typeBase === ''))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `typeBase must be a non-empty string, got ${describeValue(typeBase)}.`,
    )
  return Object.freeze({ typeBase })
}

/**
 * The problem document of an error, or `undefined` if it is none of ours, which is for the application to answer.
 *
 * It is built from the catalogue and not from the error: message, hint, cause and stack of an error may name a schema, a server or a tenant. A status of 500 and
 * above has no hint, because those are addressed to operators.
 */
export function problemDocument(
  error: unknown,
  requestId?: string,
  options: ResolvedProblemOptions = { typeBase: undefined },
): ProblemDocument | undefined {
  if (!TenancyError.is(error)) return undefined
  // Another copy of this package may know codes that this one does not.
  const entry = Object.hasOwn(ERRORS, error.code) ? ERRORS[error.code] : undefined
  const status = entry?.status ?? 500
  const code = entry === undefined ? 'ERR_TENANCY' : error.code
  return {
    type: options.typeBase === undefined ? 'about:blank' : options.typeBase + code,
    title: STATUS_CODES[status] ?? 'Error',
    status,
    code,
    ...(entry !== undefined && status < 500 ? { hint: entry.hint } : {}),
    ...(requestId === undefined ? {} : { requestId }),
  }
}

/** The value of a `Vary` header after `names` were added to it, each once, in whatever case. */
export function mergeVary(
  existing: string | number | readonly string[] | undefined,
  names: readonly string[],
): string {
  const merged = [existing ?? []]
    .flat()
    .flatMap((line) => String(line).split(','))
    .map((name) => name.trim())
    .filter((name) => name !== '')
  if (merged.includes('*')) return '*'
  for (const name of names)
    if (!merged.some((known) => known.toLowerCase() === name.toLowerCase())) merged.push(name)
  return merged.join(', ')
}
