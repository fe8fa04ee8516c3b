import { startTestServers } from '@partywall/test-support'
import type { TestProject } from 'vitest/node'

declare module 'vitest' {
  interface ProvidedContext {
    /** The Postgres of this run, as a superuser; a test makes its own database on it with `createTestDatabase`. */
    postgresUrl: string
    /** The Redis of this run; shared, so a test that writes takes `createTestRedis` instead. */
    redisUrl: string
  }
}

const NAMES = [
  'PARTYWALL_TEST_POSTGRES_URL',
  'PARTYWALL_TEST_REDIS_URL',
  'PARTYWALL_TEST_SERVERS',
] as const

/** Starts the servers of the run once, before the first test file, and stops them after the last one. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const servers = await startTestServers()
  project.provide('postgresUrl', servers.postgresUrl)
  project.provide('redisUrl', servers.redisUrl)
  // Workers and whatever they start inherit the environment: a vitest run inside a test uses the same servers.
  const before = NAMES.map((name) => [name, process.env[name]] as const)
  process.env['PARTYWALL_TEST_POSTGRES_URL'] = servers.postgresUrl
  process.env['PARTYWALL_TEST_REDIS_URL'] = servers.redisUrl
  if (servers.redisSource !== undefined) process.env['PARTYWALL_TEST_SERVERS'] = servers.redisSource
  return async () => {
    for (const [name, value] of before)
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    await servers[Symbol.asyncDispose]()
  }
}
