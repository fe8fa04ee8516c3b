import { execFile } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import { TenancyError } from '@partywall/core'

export interface ServerUser {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

/**
 * Whom the embedded Postgres runs as: ourselves, which is `undefined`, or, since Postgres refuses to run as root, the user `postgres` where there is one and
 * otherwise `nobody`, which every system has. No user is added to the machine.
 *
 * @throws {TenancyError} `ERR_TENANCY_DATABASE_UNAVAILABLE` as root on a machine without either.
 */
export async function serverUser(): Promise<ServerUser | undefined> {
  if (process.getuid?.() !== 0) return undefined
  for (const name of ['postgres', 'nobody']) {
    const ids = await Promise.all(
      ['-u', '-g'].map(async (flag) =>
        Number((await promisify(execFile)('id', [flag, name])).stdout),
      ),
    ).catch(() => [])
    const [uid, gid] = ids
    if (uid !== undefined && gid !== undefined) return { name, uid, gid }
  }
  throw new TenancyError(
    'ERR_TENANCY_DATABASE_UNAVAILABLE',
    'Postgres does not run as root, and this system has neither a user "postgres" nor "nobody".',
    { hint: 'Run the application as another user, or set database.url.' },
  )
}

/** Tells whether every user of the machine may walk through this directory and all above it. */
export async function isTraversable(directory: string): Promise<boolean> {
  for (let current = resolve(directory); ; current = dirname(current)) {
    const found = await stat(current).catch(() => undefined)
    if (found === undefined || (found.mode & 0o001) === 0) return false
    if (current === dirname(current)) return true
  }
}
