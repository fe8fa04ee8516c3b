import { TEST_POSTGRES_SETTINGS } from './local-postgres.ts'
import type { RunningServer } from './running-server.ts'

/** How long an image may take to be pulled and its server to start. */
const STARTUP_MS = 120_000

/** Starts Postgres 18 in a container. Testcontainers removes it when this process ends, however it ends. */
export async function startPostgresContainer(): Promise<RunningServer> {
  const { GenericContainer, Wait } = await import('testcontainers')
  const container = await new GenericContainer('postgres:18-alpine')
    .withEnvironment({ POSTGRES_PASSWORD: 'postgres', POSTGRES_INITDB_ARGS: '--no-sync' })
    .withTmpFs({ '/var/lib/postgresql': 'rw' })
    .withCommand(['postgres', ...TEST_POSTGRES_SETTINGS])
    .withExposedPorts(5432)
    // Twice: the image starts the server once for its own set-up.
    .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
    .withStartupTimeout(STARTUP_MS)
    .start()
  const address = `${container.getHost()}:${container.getMappedPort(5432)}`
  return {
    url: `postgres://postgres:postgres@${address}/postgres`,
    source: 'docker',
    stop: async () => {
      await container.stop()
    },
  }
}

/** Starts Redis in a container, without persistence. */
export async function startRedisContainer(): Promise<RunningServer> {
  const { GenericContainer, Wait } = await import('testcontainers')
  const container = await new GenericContainer('redis:8-alpine')
    .withCommand(['redis-server', '--save', '', '--appendonly', 'no'])
    .withExposedPorts(6379)
    .withWaitStrategy(Wait.forLogMessage(/Ready to accept connections/))
    .withStartupTimeout(STARTUP_MS)
    .start()
  return {
    url: `redis://${container.getHost()}:${container.getMappedPort(6379)}`,
    source: 'docker',
    stop: async () => {
      await container.stop()
    },
  }
}
