import { TenancyError } from '@partywall/core'
import type { Redis as IoredisClient, RedisOptions } from 'ioredis'
import { plainRedis } from './internal/load-ioredis.ts'

export interface RedisReachableOptions {
  /** How long to try, in milliseconds. @defaultValue `5_000` */
  readonly timeoutMs?: number | undefined
}

/**
 * Resolves when a Redis server accepts the connection and the credentials and answers a PING. For the start of an application, where a clear error is worth more than
 * ioredis's patient retries. Uses a connection of its own, closed before this settles; safe to repeat.
 *
 * @param target A URL, or a client (`TenantRedis` or any other of ioredis), of which the options are used.
 * @throws {TenancyError} `ERR_TENANCY_REDIS_UNAVAILABLE`; the message names host and port, or the path of the socket, and never a user or a password.
 */
export async function assertRedisReachable(
  target: IoredisClient | string,
  options: RedisReachableOptions = {},
): Promise<void> {
  const { timeoutMs = 5_000 } = options
  const probe = createProbe(target, timeoutMs)
  let failure: Error | undefined
  probe.on('error', (error) => {
    failure ??= error
  })
  const timer = setTimeout(() => {
    failure ??= new Error(`no answer within ${timeoutMs} ms`)
    probe.disconnect()
  }, timeoutMs)
  try {
    await probe.connect()
    await probe.ping()
  } catch (error) {
    // The rejection only says that the connection is closed; the event said why.
    const reason = failure ?? (error as Error)
    throw new TenancyError(
      'ERR_TENANCY_REDIS_UNAVAILABLE',
      `Redis at ${addressOf(probe.options)} cannot be used: ${reason.message}.`,
      { cause: withoutCommand(reason) },
    )
  } finally {
    clearTimeout(timer)
    probe.disconnect()
  }
}

function createProbe(target: IoredisClient | string, timeoutMs: number): IoredisClient {
  const once: RedisOptions = {
    lazyConnect: true,
    connectTimeout: timeoutMs,
    retryStrategy: () => null,
    sentinelRetryStrategy: () => null,
    reconnectOnError: null,
    maxRetriesPerRequest: 0,
  }
  return typeof target === 'string'
    ? plainRedis(target, once)
    : plainRedis({ ...target.options, keyPrefix: '', ...once })
}

function addressOf({ path, host, port, sentinels, name }: RedisOptions): string {
  if (sentinels)
    return `sentinels ${sentinels.map((sentinel) => `${sentinel.host}:${sentinel.port}`).join(', ')} (${name})`
  return path ?? `${host}:${port}`
}

/** An error of AUTH or HELLO carries the command, and so the password. */
function withoutCommand(error: Error): Error {
  const { code } = error as { code?: unknown }
  return Object.assign(new Error(error.message), code === undefined ? {} : { code })
}
