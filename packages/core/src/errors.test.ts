import { readFile } from 'node:fs/promises'
import { describe, expect, expectTypeOf, it } from 'vitest'
import { ERRORS, TenancyError, type TenancyErrorCode } from './index.ts'

const codes = Object.keys(ERRORS) as TenancyErrorCode[]

/** The rows of the table: code to what its cells say. */
async function documentedErrors(): Promise<Map<string, string[]>> {
  const text = await readFile(new URL('../../../docs/reference/errors.md', import.meta.url), 'utf8')
  const rows = new Map<string, string[]>()
  for (const line of text.split('\n')) {
    const cells = line.split(/(?<!\\)\|/).map((cell) => cell.trim())
    const code = /^`(ERR_TENANCY_[A-Z_]+)`$/.exec(cells[1] ?? '')?.[1]
    if (code === undefined) continue
    if (rows.has(code)) throw new Error(`${code} stands twice in docs/reference/errors.md.`)
    rows.set(code, cells.slice(2, -1))
  }
  return rows
}

describe('the error catalogue', () => {
  it('is what docs/reference/errors.md says, code by code, both ways', async () => {
    const documented = await documentedErrors()
    const fromCode = codes.map((code) => [
      code,
      `${ERRORS[code].status}`,
      yes(ERRORS[code].retryable),
    ])
    const fromDocs = [...documented].map(([code, [status, retryable]]) => [code, status, retryable])
    const sorted = (rows: unknown[]) => rows.map((row) => JSON.stringify(row)).toSorted()
    expect(sorted(fromDocs)).toEqual(sorted(fromCode))
  })

  it('is documented with meaning, cause and fix', async () => {
    for (const [code, cells] of await documentedErrors()) {
      expect(cells, code).toHaveLength(5)
      for (const cell of cells.slice(2)) expect(cell, code).toMatch(/^.{12,}\.$/)
    }
  })

  it.each(codes)('%s follows the rules of the house', (code) => {
    const { status, retryable, hint } = ERRORS[code]
    expect(code).toMatch(/^ERR_TENANCY(?:_[A-Z]+)+$/)
    expect(status).toBeGreaterThanOrEqual(400)
    expect(status).toBeLessThan(600)
    // What the client did wrong stays wrong.
    if (retryable) expect([409, 425, 429, 500, 502, 503, 504]).toContain(status)
    expect(hint).toMatch(/^[A-Z].{10,}\.$/)
  })
})

describe('TenancyError', () => {
  it('carries what the catalogue says', () => {
    const cause = new Error('connect ECONNREFUSED')
    const error = new TenancyError('ERR_TENANCY_STORE_UNAVAILABLE', 'The store failed.', {
      cause,
      tenantId: 'acme',
    })
    expect(error).toBeInstanceOf(Error)
    expect(error).toMatchObject({
      name: 'TenancyError',
      message: 'The store failed.',
      code: 'ERR_TENANCY_STORE_UNAVAILABLE',
      status: 503,
      retryable: true,
      hint: ERRORS.ERR_TENANCY_STORE_UNAVAILABLE.hint,
      tenantId: 'acme',
      cause,
    })
  })

  it('takes a more precise hint, and has no cause where none is given', () => {
    const error = new TenancyError('ERR_TENANCY_OPTION_INVALID', 'Wrong.', { hint: 'Do this.' })
    expect(error.hint).toBe('Do this.')
    expect('cause' in error).toBe(false)
    expect('tenantId' in error).toBe(false)
    expect('cause' in new TenancyError('ERR_TENANCY_CLOSED', 'x', { cause: undefined })).toBe(true)
  })

  it('is recognised, with and without its code', () => {
    const error: unknown = new TenancyError('ERR_TENANCY_TENANT_UNKNOWN', 'None.')
    expect(TenancyError.is(error)).toBe(true)
    expect(TenancyError.is(error, 'ERR_TENANCY_TENANT_UNKNOWN')).toBe(true)
    expect(TenancyError.is(error, 'ERR_TENANCY_CLOSED')).toBe(false)
    class Special extends TenancyError<'ERR_TENANCY_CLOSED'> {}
    expect(TenancyError.is(new Special('ERR_TENANCY_CLOSED', 'x'), 'ERR_TENANCY_CLOSED')).toBe(true)
  })

  it.each([
    undefined,
    null,
    'ERR_TENANCY_CLOSED',
    new Error('ERR_TENANCY_CLOSED'),
    { name: 'TenancyError', code: 'ERR_TENANCY_CLOSED', status: 503 },
    JSON.parse(JSON.stringify(new TenancyError('ERR_TENANCY_CLOSED', 'x'))),
  ])('does not take %o for one', (value) => {
    expect(TenancyError.is(value)).toBe(false)
  })

  it('narrows by its code', () => {
    const error: unknown = new TenancyError('ERR_TENANCY_CLOSED', 'x')
    if (TenancyError.is(error, 'ERR_TENANCY_CLOSED'))
      expectTypeOf(error.code).toEqualTypeOf<'ERR_TENANCY_CLOSED'>()
    if (TenancyError.is(error)) expectTypeOf(error.code).toEqualTypeOf<TenancyErrorCode>()
    // @ts-expect-error no code of the catalogue
    expect(() => new TenancyError('ERR_TENANCY_NOTHING', 'x')).toThrow(TypeError)
  })
})

function yes(value: boolean): string {
  return value ? 'yes' : 'no'
}
