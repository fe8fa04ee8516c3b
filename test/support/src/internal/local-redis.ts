import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'

import { Redis } from 'ioredis'

import { eventually } from '../eventually.ts'
import { findProgram } from './find-program.ts'
import { freePort } from './free-port.ts'
import { keepServer } from './kept-server.ts'
import type { RunningServer } from './running-server.ts'
import { temporaryBase } from './temporary-base.ts'

/** The path of `redis-server`, or `undefined` where none is installed. */
export async function findRedisServer(): Promise<string | undefined> {
  return findProgram('redis-server')
}

/** Starts a Redis without persistence on a free port of the loopback interface; it answers when this resolves. */
export async function startLocalRedis(command: string): Promise<RunningServer> {
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    const directory = await mkdtemp(join(await temporaryBase(), 'partywall-redis-'))
    const server = keepServer({
      directory,
      server: {
        command,
        args: [
          ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory],
          ['--save', '', '--appendonly', 'no', '--daemonize', 'no', '--databases', '16'],
        ].flat(),
      },
      stopSignal: 'SIGKILL',
    })
    try {
      await Promise.race([eventually(() => answers(port)), server.failed])
      return { url: `redis://127.0.0.1:${port}`, source: 'local', stop: () => server.stop() }
    } catch (error) {
      await server.stop()
      // The port was taken between asking for it and using it.
      if (attempt === 3) throw error
    }
  }
}

async function answers(port: number): Promise<boolean> {
  const redis = new Redis({ port, host: '127.0.0.1', lazyConnect: true, retryStrategy: () => null })
  redis.on('error', () => {})
  try {
    await redis.connect()
    return (await redis.ping()) === 'PONG'
  } finally {
    redis.disconnect()
  }
}
