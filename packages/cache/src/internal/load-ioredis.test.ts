import { describe, expect, test } from 'vitest'
import { loadIoredis } from './load-ioredis.ts'

const failing = (code: string) => () => {
  throw Object.assign(new Error('Cannot find module'), { code })
}

describe('loadIoredis', () => {
  test('without the package, loading succeeds and constructing names what to install', () => {
    const { Redis } = loadIoredis(failing('MODULE_NOT_FOUND'))
    class Client extends Redis {}
    expect(() => new Client()).toThrowError(
      expect.objectContaining({
        code: 'ERR_TENANCY_PEER_MISSING',
        hint: expect.stringContaining('npm install ioredis'),
      }),
    )
  })

  test('a package that is there and broken is not hidden', () => {
    expect(() => loadIoredis(failing('ERR_DLOPEN_FAILED'))).toThrowError('Cannot find module')
  })
})
