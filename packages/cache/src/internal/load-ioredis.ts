import { createRequire } from 'node:module'
import { TenancyError } from '@partywall/core'
import type * as Ioredis from 'ioredis'

type IoredisModule = Pick<typeof Ioredis, 'Redis' | 'Command'>

/**
 * Loads the optional peer. Where it is not installed, the memory driver must still work, so the classes are placeholders that
 * refuse to be constructed.
 *
 * @internal `require` is a parameter for the test only.
 */
export function loadIoredis(
  require: (name: string) => unknown = createRequire(import.meta.url),
): IoredisModule {
  try {
    return require('ioredis') as IoredisModule
  } catch (cause) {
    if ((cause as { code?: unknown }).code !== 'MODULE_NOT_FOUND') throw cause
    class Missing {
      constructor() {
        throw new TenancyError(
          'ERR_TENANCY_PEER_MISSING',
          'TenantRedis needs the package ioredis.',
          {
            cause,
            hint: 'Install it: npm install ioredis',
          },
        )
      }
    }
    return { Redis: Missing, Command: Missing } as unknown as IoredisModule
  }
}

const ioredis = loadIoredis()

export const Redis: typeof Ioredis.Redis = ioredis.Redis
export const Command: typeof Ioredis.Command = ioredis.Command

/** Constructs a plain client. Its constructor takes many forms, each with a signature of its own and none for all. */
export function plainRedis(...args: readonly unknown[]): Ioredis.Redis {
  return new Redis(...(args as unknown as []))
}
