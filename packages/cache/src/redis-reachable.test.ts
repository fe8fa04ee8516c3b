import { createServer } from 'node:net'
import { inspect } from 'node:util'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AclOracle, createAclOracle } from './acl-oracle.test-suite.ts'
import { assertRedisReachable } from './redis-reachable.ts'
import { TenantRedis } from './tenant-redis.ts'

let oracle: AclOracle
beforeAll(async () => {
  oracle = await createAclOracle('acme')
})
afterAll(() => oracle[Symbol.asyncDispose]())

const failureOf = (promise: Promise<void>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  )

describe('assertRedisReachable', () => {
  test('resolves for a server that answers, by URL and by client', async () => {
    await assertRedisReachable(oracle.url)
    const tenancy = createTenancy({ store: memoryTenantStore([{ id: 'acme' }]) })
    const redis = new TenantRedis(tenancy, oracle.url, { lazyConnect: true })
    await assertRedisReachable(redis)
    expect(redis.status).toBe('wait')
    redis.disconnect()
  })

  test('nothing listens: names host and port, fails at once, tells nothing of the password', async () => {
    const started = performance.now()
    const error = await failureOf(assertRedisReachable('redis://user:hunter2@127.0.0.1:1/3'))
    expect(error).toMatchObject({
      code: 'ERR_TENANCY_REDIS_UNAVAILABLE',
      retryable: true,
      message: expect.stringMatching(/127\.0\.0\.1:1 .*ECONNREFUSED/),
      cause: { code: 'ECONNREFUSED' },
    })
    expect(inspect(error, { depth: 10 })).not.toContain('hunter2')
    expect(performance.now() - started).toBeLessThan(3_000)
  })

  test('a wrong password is reported without it', async () => {
    const url = new URL(oracle.url)
    url.password = 'hunter2'
    for (const protocol of ['2', '3']) {
      url.searchParams.set('protocol', protocol)
      const error = await failureOf(assertRedisReachable(url.href))
      expect(error).toMatchObject({
        code: 'ERR_TENANCY_REDIS_UNAVAILABLE',
        message: expect.stringMatching(new RegExp(`${url.hostname}:${url.port} .*WRONGPASS`)),
      })
      expect(inspect(error, { depth: 10 })).not.toContain('hunter2')
    }
  })

  test('a server that accepts and says nothing is given up on', async () => {
    const silent = createServer((socket) => socket.on('error', () => {}))
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const address = silent.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    const url = `redis://127.0.0.1:${address.port}`
    const error = await failureOf(assertRedisReachable(url, { timeoutMs: 200 }))
    expect(error).toMatchObject({
      code: 'ERR_TENANCY_REDIS_UNAVAILABLE',
      message: expect.stringContaining('no answer within 200 ms'),
    })
    silent.close()
  })
})
