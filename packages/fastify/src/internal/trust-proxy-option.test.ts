import Fastify from 'fastify'
import { expect, test } from 'vitest'
import { trustProxyOption } from './trust-proxy-option.ts'

test('finds the option at the root and inside encapsulated plugins', async () => {
  const app = Fastify({ trustProxy: ['10.0.0.0/8'] })
  const seen: unknown[] = [trustProxyOption(app)]
  app.register(async (child) => {
    child.register(async (grandchild) => {
      seen.push(trustProxyOption(grandchild))
    })
  })
  await app.ready()
  expect(seen).toEqual([['10.0.0.0/8'], ['10.0.0.0/8']])
  expect(trustProxyOption(Fastify())).toBeUndefined()
})
