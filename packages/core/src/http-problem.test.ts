import { describe, expect, test } from 'vitest'
import { ERRORS, TenancyError, type TenancyErrorCode } from './errors.ts'
import { mergeVary, problemDocument, resolveProblemOptions } from './http-problem.ts'

describe('problemDocument', () => {
  test.each(Object.keys(ERRORS) as TenancyErrorCode[])(
    '%s tells nothing of the error itself',
    (code) => {
      const secret = 'tenant_acme at db.internal:5432'
      const error = new TenancyError(code, secret, {
        cause: new Error(secret),
        hint: secret,
        tenantId: 'acme',
      })
      const document = problemDocument(error, 'req-1')
      expect(JSON.stringify(document)).not.toMatch(/acme|internal:5432|stack|cause/)
      expect(document).toMatchObject({
        type: 'about:blank',
        code,
        status: ERRORS[code].status,
        requestId: 'req-1',
      })
      expect(document?.hint).toBe(ERRORS[code].status < 500 ? ERRORS[code].hint : undefined)
    },
  )

  test('is for TenancyErrors alone', () => {
    for (const other of [
      new Error('x'),
      undefined,
      null,
      'x',
      { code: 'ERR_TENANCY_TENANT_UNKNOWN', status: 404 },
    ])
      expect(problemDocument(other)).toBeUndefined()
  })

  test('answers a code of another version of the package with 500 and without repeating it', () => {
    const error = new TenancyError('ERR_TENANCY_CLOSED', 'x')
    Object.assign(error, { code: '__proto__', status: 200 })
    expect(problemDocument(error)).toEqual({
      type: 'about:blank',
      title: 'Internal Server Error',
      status: 500,
      code: 'ERR_TENANCY',
    })
  })

  test('takes a base for the type', () => {
    const options = resolveProblemOptions('test', { typeBase: 'https://docs.example/errors#' })
    const error = new TenancyError('ERR_TENANCY_CLOSED', 'x')
    expect(problemDocument(error, undefined, options)?.type).toBe(
      'https://docs.example/errors#ERR_TENANCY_CLOSED',
    )
    expect(() => resolveProblemOptions('test', { typeBas: 'x' } as object)).toThrow(
      /Did you mean "typeBase"/,
    )
    expect(() => resolveProblemOptions('test', { typeBase: '' })).toThrow(/typeBase/)
  })
})

describe('mergeVary', () => {
  test.each([
    [undefined, ['X-Tenant-ID', 'Host'], 'X-Tenant-ID, Host'],
    ['Accept-Encoding', ['Host'], 'Accept-Encoding, Host'],
    ['accept, x-tenant-id', ['X-Tenant-ID'], 'accept, x-tenant-id'],
    [['Accept', 'Origin'], ['Host'], 'Accept, Origin, Host'],
    ['*', ['Host'], '*'],
    ['', [], ''],
  ])('%j and %j give %j', (existing, names, merged) => {
    expect(mergeVary(existing, names)).toBe(merged)
  })
})
