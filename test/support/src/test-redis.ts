import { randomUUID } from 'node:crypto'

import { Redis } from 'ioredis'

import { eventually } from './eventually.ts'
import { chosenServerSource, startTestRedisServer } from './test-servers.ts'

/** A Redis for one test file. */
export interface TestRedis extends AsyncDisposable {
  readonly url: string
  /** A plain client of the helper's own: it sees every key of every tenant. */
  readonly redis: Redis
  /** Whether the server is for this test alone; otherwise only the logical database in `url` is. */
  readonly isPrivate: boolean
  /** Removes every key of this test, and only those. */
  flush(): Promise<void>
}

export interface TestRedisOptions {
  /**
   * For tests of commands that reach beyond one logical database (FLUSHALL, ACL, CONFIG, CLIENT KILL, PUBLISH): starts a server
   * even where `PARTYWALL_TEST_REDIS_URL` names one. @defaultValue `false`
   */
  readonly privateServer?: boolean
}

/**
 * Gives a test file an empty Redis that no other file touches: a server of its own (it starts in about 0.1 s), or, where the user
 * named a server by `PARTYWALL_TEST_REDIS_URL`, one of its logical databases 1 to 15, leased under a lock in database 0 and
 * refused unless it is empty. Disposing stops the server, or empties and returns the database.
 */
export async function createTestRedis({
  privateServer = false,
}: TestRedisOptions = {}): Promise<TestRedis> {
  const shared = process.env['PARTYWALL_TEST_REDIS_URL']
  const named = shared && chosenServerSource() === undefined && !privateServer
  return named ? leaseDatabase(shared) : startPrivateServer()
}

async function startPrivateServer(): Promise<TestRedis> {
  const server = await startTestRedisServer()
  const redis = new Redis(server.url)
  return {
    url: server.url,
    redis,
    isPrivate: true,
    async flush() {
      await redis.flushall()
    },
    async [Symbol.asyncDispose]() {
      redis.disconnect()
      await server.stop()
    },
  }
}

const LEASE_MS = 30_000

async function leaseDatabase(server: string): Promise<TestRedis> {
  const locks = new Redis(Object.assign(new URL(server), { pathname: '/0' }).href)
  const token = randomUUID()
  const lockOf = (database: number): string => `partywall-test:database:${database}`
  const leaseOne = async (): Promise<number | undefined> => {
    for (let database = 1; database <= 15; database++) {
      const locked = await locks.set(lockOf(database), token, 'PX', LEASE_MS, 'NX')
      if (locked !== 'OK') continue
      if (await isEmpty(server, database)) return database
      // Somebody's data, or what a killed test left: not ours to remove.
      await locks.del(lockOf(database))
    }
    return undefined
  }
  const database = await eventually(leaseOne, { timeoutMs: 60_000, intervalMs: 200 }).catch(
    (error: unknown) => {
      locks.disconnect()
      throw new Error(`No empty logical database (1 to 15) on ${new URL(server).host}.`, {
        cause: error,
      })
    },
  )
  // A killed test gives its database back when the lease runs out.
  const renewal = setInterval(() => {
    locks.pexpire(lockOf(database), LEASE_MS).catch(() => {})
  }, LEASE_MS / 3)
  renewal.unref()
  const url = Object.assign(new URL(server), { pathname: `/${database}` }).href
  const redis = new Redis(url)
  return {
    url,
    redis,
    isPrivate: false,
    async flush() {
      await redis.flushdb()
    },
    async [Symbol.asyncDispose]() {
      clearInterval(renewal)
      await redis.flushdb()
      redis.disconnect()
      await locks.del(lockOf(database))
      locks.disconnect()
    },
  }
}

async function isEmpty(server: string, database: number): Promise<boolean> {
  const redis = new Redis(Object.assign(new URL(server), { pathname: `/${database}` }).href)
  try {
    return (await redis.dbsize()) === 0
  } finally {
    redis.disconnect()
  }
}
