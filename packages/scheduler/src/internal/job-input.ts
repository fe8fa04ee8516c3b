import { assertKnownKeys, errorText, TenancyError } from '@partywall/core'
import type { EnqueueOptions, RetryOptions, ScheduleTiming } from '../job.ts'
import type { NewDriverJob } from '../scheduler-driver.ts'
import { nextCronRun } from './cron.ts'

const NAME = /^[A-Za-z][A-Za-z0-9_.:-]{0,127}$/
// What every driver can take: BullMQ refuses ids with a colon and ids of digits alone. No slash: ids of scheduled jobs have one.
const ID = /^(?!\d+$)[A-Za-z0-9_.@+=-]{1,128}$/
const ZONE = /^[A-Za-z][A-Za-z0-9_+/-]{0,63}$/
const MAX_DATA_BYTES = 1_048_576
// Beyond it, times are no dates any more: 8.64e15 milliseconds are the end of Date.
const MAX_MS = 10 * 366 * 24 * 3_600_000

export function jobName(name: unknown): string {
  if (typeof name === 'string' && NAME.test(name)) return name
  throw invalid(
    `A job name is 1 to 128 of A-Z a-z 0-9 _ . : -, beginning with a letter; got ${describe(name)}.`,
  )
}

export function jobId(what: string, id: unknown): string {
  if (typeof id === 'string' && ID.test(id)) return id
  throw invalid(
    `The id of a ${what} is 1 to 128 of A-Z a-z 0-9 _ . @ + = -, not digits alone; got ${describe(id)}.`,
  )
}

/** JSON text of a job's data: a copy that no later change of the caller's object reaches. */
export function jobData(data: unknown): string | undefined {
  if (data === undefined) return undefined
  let json: string | undefined
  try {
    json = JSON.stringify(data)
  } catch (cause) {
    throw invalid(`The data of a job must be JSON: ${errorText(cause)}.`, cause)
  }
  if (json === undefined) throw invalid(`The data of a job must be JSON, got a ${typeof data}.`)
  if (Buffer.byteLength(json) > MAX_DATA_BYTES)
    throw invalid(
      `The data of a job takes ${Buffer.byteLength(json)} bytes; ${MAX_DATA_BYTES} are allowed. Store it, and enqueue its key.`,
    )
  return json
}

export function enqueueOptions(
  options: EnqueueOptions,
): Pick<NewDriverJob, 'attempts' | 'backoffMs' | 'delayMs'> {
  known('enqueue options', options, ['id', 'delayMs', 'attempts', 'backoffMs'])
  return { ...retry(options), delayMs: milliseconds('delayMs', options.delayMs ?? 0, 0) }
}

export function retryOptions(options: RetryOptions): Pick<NewDriverJob, 'attempts' | 'backoffMs'> {
  known('schedule options', options, ['attempts', 'backoffMs'])
  return retry(options)
}

function retry(options: RetryOptions): Pick<NewDriverJob, 'attempts' | 'backoffMs'> {
  const attempts = options.attempts ?? 1
  if (!Number.isSafeInteger(attempts) || attempts < 1 || attempts > 1_000)
    throw invalid(`attempts must be a whole number from 1 to 1,000, got ${describe(attempts)}.`)
  return { attempts, backoffMs: milliseconds('backoffMs', options.backoffMs ?? 1_000, 0) }
}

/** Checks a timing by computing its first run, and freezes a copy. */
export function scheduleTiming(timing: ScheduleTiming): ScheduleTiming {
  known('a schedule timing', timing, ['cron', 'everyMs', 'timezone'])
  const { cron, everyMs, timezone } = timing
  if ((cron === undefined) === (everyMs === undefined))
    throw invalid('A schedule timing needs either cron or everyMs.')
  if (everyMs !== undefined) {
    if (timezone !== undefined) throw invalid('timezone goes with cron, not with everyMs.')
    return Object.freeze({ everyMs: milliseconds('everyMs', everyMs, 1) })
  }
  const zone = timezone === undefined ? 'UTC' : timezone
  if (typeof zone !== 'string' || !ZONE.test(zone) || !isTimeZone(zone))
    throw invalid(`timezone must be an IANA name such as Europe/Berlin, got ${describe(zone)}.`)
  // Croner also takes ISO dates and seven fields; neither is a schedule that comes again.
  if (typeof cron !== 'string' || !/^(?:@[a-z]+|\S{1,200}(?: +\S{1,200}){4,5})$/i.test(cron.trim()))
    throw invalid(
      `cron must be a pattern of five fields, or six with seconds first; got ${describe(cron)}.`,
    )
  const pattern = cron.trim()
  let next: number | undefined
  try {
    next = nextCronRun(pattern, zone, Date.now())
  } catch (cause) {
    throw invalid(`${describe(cron)} is no cron pattern: ${errorText(cause)}`, cause)
  }
  if (next === undefined) throw invalid(`The cron pattern ${describe(cron)} is never due.`)
  return Object.freeze({ cron: pattern, timezone: zone })
}

function isTimeZone(zone: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: zone })
    return true
  } catch {
    return false
  }
}

function milliseconds(option: string, value: unknown, least: number): number {
  if (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= MAX_MS)
    return value as number
  throw invalid(
    `${option} must be a whole number of milliseconds from ${least} to ${MAX_MS} (ten years), got ${describe(value)}.`,
  )
}

function known(what: string, value: unknown, keys: readonly string[]): void {
  if (typeof value !== 'object' || value === null)
    throw invalid(`${what} must be an object, got ${describe(value)}.`)
  assertKnownKeys(what, value, keys, 'ERR_TENANCY_JOB_INVALID')
}

function invalid(message: string, cause?: unknown): TenancyError {
  return new TenancyError('ERR_TENANCY_JOB_INVALID', message, cause === undefined ? {} : { cause })
}

/** Quotes an untrusted value: one line, 80 characters of it, no control characters that could forge a log line. */
export function describe(value: unknown): string {
  if (typeof value === 'string')
    return JSON.stringify(value.slice(0, 80)).replace(
      /[^\u0020-\u007e]/g,
      (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
    )
  return typeof value === 'object' || typeof value === 'function'
    ? `a value of type ${value === null ? 'null' : typeof value}`
    : String(value)
}
