import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/**
 * Whom a server runs as that refuses to run as root, as Postgres and PgBouncer do: the user `postgres` where there is one, otherwise `nobody`, which every system
 * has: no user is added to the machine. `undefined` where this process is not root.
 */
export async function unprivilegedUser(): Promise<{ uid: number; gid: number } | undefined> {
  if (process.getuid?.() !== 0) return undefined
  for (const name of ['postgres', 'nobody']) {
    const ids = await Promise.all(
      ['-u', '-g'].map(async (flag) =>
        Number((await promisify(execFile)('id', [flag, name])).stdout),
      ),
    ).catch(() => [])
    const [uid, gid] = ids
    if (uid !== undefined && gid !== undefined) return { uid, gid }
  }
  throw new Error('The server cannot run as root, and there is no user "postgres" or "nobody".')
}
