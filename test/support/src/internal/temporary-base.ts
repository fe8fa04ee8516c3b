import { stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, resolve } from 'node:path'

/** Whether every user of the machine may walk through this directory and all above it. */
export async function isTraversable(directory: string): Promise<boolean> {
  for (let current = resolve(directory); ; current = dirname(current)) {
    const found = await stat(current).catch(() => undefined)
    if (found === undefined || (found.mode & 0o001) === 0) return false
    if (current === dirname(current)) return true
  }
}

/**
 * Where a server of another user can have its data. As root, the temporary directory may be a private one that the unprivileged
 * user of the server cannot reach; then the public one of the system is taken.
 */
export async function temporaryBase(): Promise<string> {
  if (process.getuid?.() !== 0) return tmpdir()
  for (const candidate of [tmpdir(), '/tmp', '/var/tmp'])
    if (await isTraversable(candidate)) return candidate
  throw new Error(
    `No temporary directory that every user can reach: tried ${tmpdir()}, /tmp, /var/tmp.`,
  )
}
