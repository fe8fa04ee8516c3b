import { describe, expect, it } from 'vitest'
import { createPluginLogger, formatPluginLogRecord, type PluginLogRecord } from './plugin-log.ts'

const origin = { tenantId: 'acme', plugin: 'orders', version: '1.0.0' }

function logged(message: string, fields?: Record<string, unknown>): PluginLogRecord {
  const records: PluginLogRecord[] = []
  createPluginLogger((record) => void records.push(record), origin).info(message, fields)
  return records[0] as PluginLogRecord
}

describe('plugin log', () => {
  it.each([
    'a\n{"level":"info","tenantId":"globex"}',
    'a\r\nforged',
    '\u001b[2K\u001b[1Aoverwritten',
    '\u009b2Jcleared',
    'a\u2028b\u2029c\u0085d',
    '\u202egnirts',
  ])('writes %j as one line without control characters', (hostile) => {
    const line = formatPluginLogRecord(logged(hostile, { [hostile]: hostile }))
    expect(line).toMatch(/^[^\p{Cc}\p{Zl}\p{Zp}\p{Cf}]+$/u)
    expect(JSON.parse(line)).toMatchObject({
      tenantId: 'acme',
      message: hostile,
      fields: { [hostile]: hostile },
    })
  })

  it('keeps what the host attests apart from what the plugin says', () => {
    const line = formatPluginLogRecord(logged('hello', { tenantId: 'globex', level: 'error' }))
    expect(JSON.parse(line)).toMatchObject({
      tenantId: 'acme',
      level: 'info',
      fields: { tenantId: 'globex' },
    })
  })

  it('writes errors and bigints, and survives what has no JSON', () => {
    const error = Object.assign(new Error('no'), { code: 'E1' })
    expect(JSON.parse(formatPluginLogRecord(logged('m', { error, big: 1n }))).fields).toMatchObject(
      {
        error: { name: 'Error', message: 'no', code: 'E1' },
        big: '1',
      },
    )
    const cycle: Record<string, unknown> = {}
    cycle['self'] = cycle
    expect(JSON.parse(formatPluginLogRecord(logged('m', cycle)))).toMatchObject({ message: 'm' })
  })

  it('keeps an exception of the sink from the plugin', () => {
    const logger = createPluginLogger(() => {
      throw new Error('disk full')
    }, origin)
    expect(() => logger.error('m')).not.toThrow()
  })
})
