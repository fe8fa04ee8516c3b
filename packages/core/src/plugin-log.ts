import { describeValue } from './internal/describe-value.ts'
import { errorText } from './internal/error-text.ts'

export type PluginLogLevel = 'debug' | 'info' | 'warn' | 'error'

/** Structured logging for plugins. The tenant, the plugin and the request are attached by the host. */
export interface PluginLogger {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void
  info(message: string, fields?: Readonly<Record<string, unknown>>): void
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void
  error(message: string, fields?: Readonly<Record<string, unknown>>): void
}

/** What one call of a logger says. `fields` is what the plugin gave and stands apart from what the host attests. */
export interface PluginLogRecord {
  readonly time: Date
  readonly level: PluginLogLevel
  readonly tenantId: string
  readonly plugin: string
  readonly version: string
  readonly requestId?: string
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>>
}

/** Where records go. Must not throw; what it throws is reported by a process warning and does not reach the plugin. */
export type PluginLogSink = (record: PluginLogRecord) => void

/** @internal What a logger attests of whoever logs. */
export type PluginLogOrigin = Pick<PluginLogRecord, 'tenantId' | 'plugin' | 'version' | 'requestId'>

const NO_FIELDS = Object.freeze({})

/** @internal A logger of one tenant and plugin. */
export function createPluginLogger(sink: PluginLogSink, origin: PluginLogOrigin): PluginLogger {
  const write =
    (level: PluginLogLevel) =>
    (message: string, fields: Readonly<Record<string, unknown>> = NO_FIELDS): void => {
      try {
        sink(
          Object.freeze({ time: new Date(), level, ...origin, message: String(message), fields }),
        )
      } catch (error) {
        process.emitWarning(`The log sink threw: ${describeValue(errorText(error))}`, {
          code: 'PARTYWALL_LOG_FAILED',
        })
      }
    }
  return Object.freeze({
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
  })
}

/**
 * One record as one line of JSON, without the line break. Characters that could start a second line or move a terminal's cursor are
 * escaped, in keys and in values: no message forges another record.
 */
export function formatPluginLogRecord(record: PluginLogRecord): string {
  const { time, fields, ...attested } = record
  const line = { time: time.toISOString(), ...attested }
  let json: string
  try {
    json = JSON.stringify({ ...line, fields }, readable)
  } catch {
    // A cycle, or a toJSON that throws: the message still counts.
    json = JSON.stringify({ ...line, fields: 'not serialisable' })
  }
  // JSON escapes what is below U+0020 already; this adds DEL, the C1 controls (U+009B begins an ANSI sequence), and invisible line and direction marks.
  return json.replace(
    /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** The default sink: `info` and above, one line of JSON each, to standard error. */
export function stderrLogSink(record: PluginLogRecord): void {
  if (record.level !== 'debug') process.stderr.write(`${formatPluginLogRecord(record)}\n`)
}

function readable(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (value instanceof Error) {
    const { name, message, stack, cause } = value
    const code = (value as { code?: unknown }).code
    return { name, code, message, stack, cause }
  }
  return value
}
