import { describe, expect, it, vi } from 'vitest'
import { type ClaimOptions, claim, type TenancyRequest, type VerifiedToken } from '../index.ts'

const services = { tenantIdOfDomain: () => undefined }
const invalid = expect.objectContaining({ code: 'ERR_TENANCY_TOKEN_INVALID', status: 401 })
const encode = (value: unknown) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
const token = (payload: unknown, head: unknown = { alg: 'ES256' }) =>
  `${encode(head)}.${encode(payload)}.c2ln`

function withAuthorization(authorization: string | undefined): TenancyRequest {
  return {
    raw: undefined,
    method: 'GET',
    target: '/',
    authority: 'x.io',
    header: (name) => (name === 'authorization' ? authorization : undefined),
  }
}

/** Verifies nothing: what is tested here is what is refused before, and what is done with the answer. */
const verifier = () =>
  vi.fn(
    (text: string): VerifiedToken => ({
      claims: JSON.parse(Buffer.from(text.split('.')[1] ?? '', 'base64url').toString()) as Record<
        string,
        unknown
      >,
    }),
  )
const identify = (authorization: string | undefined, verify = verifier()) =>
  claim('tid', { verify }).identify(withAuthorization(authorization), services)

describe('claim', () => {
  it('is the one source that cannot be forged', () => {
    expect(claim('tid', { verify: verifier() })).toMatchObject({
      forgeable: false,
      vary: ['Authorization'],
      key: 'claim:tid',
    })
  })

  it.each(['Bearer', 'bearer', 'BEARER  '])('reads the claim of a token behind %j', (scheme) => {
    expect(identify(`${scheme} ${token({ tid: 'acme' })}`)).toBe('acme')
    expect(identify(`${scheme} ${token({ tid: 'globex' })}`)).toBe('globex')
  })

  it.each([undefined, '', 'Basic dTpw', 'Bearerish x', 'DPoP Bearer'])(
    'is absent from Authorization: %j',
    (authorization) => {
      const verify = verifier()
      expect(identify(authorization, verify)).toBeUndefined()
      expect(verify).not.toHaveBeenCalled()
    },
  )

  it.each([
    ['no token', 'Bearer'],
    ['an empty token', 'Bearer '],
    ['a tab before the token', `Bearer\t${token({ tid: 'acme' })}`],
    ['a space before the scheme and no token', ' Bearer'],
    ['a comma after the scheme', `Bearer,${token({ tid: 'acme' })}`],
    ['two tokens', `Bearer ${token({ tid: 'acme' })} ${token({ tid: 'globex' })}`],
    ['joined headers', `Bearer ${token({ tid: 'acme' })}, Bearer ${token({ tid: 'globex' })}`],
    ['an opaque token', 'Bearer abcdef'],
    ['an empty signature', `Bearer ${token({ tid: 'acme' }).replace(/[^.]*$/, '')}`],
    ['five parts', 'Bearer a.b.c.d.e'],
    ['1 MB', `Bearer ${token({ tid: 'acme', pad: 'x'.repeat(1_000_000) })}`],
    ['alg none', `Bearer ${token({ tid: 'acme' }, { alg: 'none' })}`],
    ['alg NoNe', `Bearer ${token({ tid: 'acme' }, { alg: 'NoNe' })}`],
    ['no alg', `Bearer ${token({ tid: 'acme' }, {})}`],
    ['an alg that is a list', `Bearer ${token({ tid: 'acme' }, { alg: ['ES256'] })}`],
    ['a payload that is no JSON', `Bearer ${token('tid=acme')}`],
    ['a payload that is a list', `Bearer ${token(['tid', 'acme'])}`],
    ['a payload that is null', `Bearer ${token('null')}`],
    [
      'invalid UTF-8',
      `Bearer ${encode({ alg: 'ES256' })}.${Buffer.from([0xff]).toString('base64url')}.c2ln`,
    ],
    ['a claim that stands twice', `Bearer ${token('{"tid":"acme","tid":"globex"}')}`],
    [
      'a claim that stands twice, once escaped',
      `Bearer ${token('{"tid":"acme","t\\u0069d":"globex"}')}`,
    ],
    [
      'an alg that stands twice',
      `Bearer ${token({ tid: 'acme' }, '{"alg":"ES256","alg":"none"}')}`,
    ],
    ['another claim that stands twice', `Bearer ${token('{"tid":"acme","iss":"a","iss":"b"}')}`],
  ])('refuses %s before it is verified', (_, authorization) => {
    const verify = verifier()
    expect(() => identify(authorization, verify)).toThrow(invalid)
    expect(verify).not.toHaveBeenCalled()
  })

  it('counts members right, whatever the strings in them hold', () => {
    const payload = { tid: 'acme', note: '":{\\"tid\\":', nested: { tid: 'x', list: [{ tid: 1 }] } }
    expect(identify(`Bearer ${token(payload)}`)).toBe('acme')
    expect(identify(`Bearer ${token('{"__proto__":{"tid":"victim"},"tid":"acme"}')}`)).toBe('acme')
  })

  it.each([
    ['missing', {}],
    ['inherited', JSON.parse('{"__proto__":{"tid":"victim"}}')],
    ['null', { tid: null }],
    ['a list', { tid: ['acme'] }],
    ['a number', { tid: 7 }],
    ['an object', { tid: { id: 'acme' } }],
    ['a boolean', { tid: true }],
    ['empty', { tid: '' }],
    ['no id', { tid: 'Acme' }],
  ])('I9 refuses a claim that is %s', (_, payload) => {
    expect(() => identify(`Bearer ${token(payload)}`)).toThrow(invalid)
  })

  it.each([['globex'], [''], [null]])('I9 refuses a claim for acme signed by %j', (tenantId) => {
    const verify = () => ({ claims: { tid: 'acme' }, tenantId: tenantId as string })
    expect(() =>
      claim('tid', { verify }).identify(withAuthorization(`Bearer ${token({})}`), services),
    ).toThrow(invalid)
  })

  it('refuses what the verifier refuses, now or later', async () => {
    const error = new Error('expired')
    const request = withAuthorization(`Bearer ${token({ tid: 'acme' })}`)
    const sync = claim('tid', {
      verify: () => {
        throw error
      },
    })
    expect(() => sync.identify(request, services)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_TOKEN_INVALID', cause: error }),
    )
    const later = claim('tid', { verify: () => Promise.reject(error) })
    await expect(later.identify(request, services)).rejects.toEqual(invalid)
  })

  it('reads claims that were verified in front', () => {
    const resolver = claim('tid', {
      claims: (request) => request.raw as Record<string, unknown> | undefined,
    })
    const identifyRaw = (raw: unknown) =>
      resolver.identify({ ...withAuthorization(undefined), raw }, services)
    expect(identifyRaw({ tid: 'acme' })).toBe('acme')
    expect(identifyRaw(undefined)).toBeUndefined()
    // What a claim inherits is not in the token.
    const inherited: unknown = Object.create({ tid: 'victim' })
    for (const raw of [{}, inherited, { tid: ['acme'] }, Promise.resolve({ tid: 'acme' })])
      expect(() => identifyRaw(raw)).toThrow(invalid)
  })

  it.each<[string, unknown]>([
    ['', { verify: verifier() }],
    ['tid', {}],
    ['tid', { verify: verifier(), claims: () => ({}) }],
    ['tid', { verify: verifier(), algorithms: ['ES256'] }],
    ['tid', undefined],
    ['tid', { verify: undefined }],
    ['tid', { claims: 'claims' }],
  ])('is not configured with %j and %o', (name, options) => {
    expect(() => claim(name, options as ClaimOptions)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  })
})
