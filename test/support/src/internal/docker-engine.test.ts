import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createSocketServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import { dockerEngineAnswers } from './docker-engine.ts'

let directory: string

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'partywall-docker-'))
  vi.stubEnv('DOCKER_HOST', `unix://${directory}/docker.sock`)
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(directory, { recursive: true })
})

async function engine(listener: RequestListener): Promise<Disposable> {
  const server = createServer(listener).listen(join(directory, 'docker.sock'))
  await once(server, 'listening')
  return {
    [Symbol.dispose]: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

test('an engine that answers its ping is one', async () => {
  using _engine = await engine((request, response) => {
    response.writeHead(request.url === '/_ping' ? 200 : 404).end('OK')
  })
  expect(await dockerEngineAnswers()).toBe(true)
})

test('a refusal, a missing socket and a host that is no address are none', async () => {
  {
    using _engine = await engine((_request, response) => {
      response.writeHead(500).end()
    })
    expect(await dockerEngineAnswers()).toBe(false)
  }
  expect(await dockerEngineAnswers()).toBe(false)
  vi.stubEnv('DOCKER_HOST', 'not an address')
  expect(await dockerEngineAnswers()).toBe(false)
})

test('a socket on which nobody answers holds nobody for more than a second', async () => {
  const silent = createSocketServer().listen(join(directory, 'docker.sock'))
  await once(silent, 'listening')
  const start = performance.now()
  expect(await dockerEngineAnswers()).toBe(false)
  expect(performance.now() - start).toBeLessThan(3_000)
  silent.close()
})
