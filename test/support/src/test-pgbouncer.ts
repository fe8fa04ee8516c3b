import { execFile } from 'node:child_process'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

import { Client } from 'pg'

import { eventually } from './eventually.ts'
import { findProgram } from './internal/find-program.ts'
import { freePort } from './internal/free-port.ts'
import { keepServer } from './internal/kept-server.ts'
import { temporaryBase } from './internal/temporary-base.ts'
import { unprivilegedUser } from './internal/unprivileged-user.ts'

export interface TestPgBouncerOptions {
  /** The server behind it, with the login of a superuser; also what `url` names but for host and port. */
  readonly postgresUrl: string
  readonly poolMode: 'session' | 'transaction' | 'statement'
  /** Server connections for each pair of user and database. */
  readonly poolSize: number
  /** Statements with names that it carries from one server connection to another; needs PgBouncer 1.21 or newer. @defaultValue `0` */
  readonly maxPreparedStatements?: number | undefined
  /** Who may log in, beside the user of `postgresUrl`. */
  readonly users?: readonly { readonly name: string; readonly password: string }[] | undefined
  /** Further settings of its section `[pgbouncer]`. */
  readonly settings?: Readonly<Record<string, string | number>> | undefined
}

/** A PgBouncer of one test's own. */
export interface TestPgBouncer extends AsyncDisposable {
  /** As `postgresUrl`, by way of the pooler. */
  readonly url: string
  /** The same with the login of one of `users`. */
  urlOf(user: { readonly name: string; readonly password: string }): string
  /** Runs a command of the admin console: `SHOW SERVERS`, `RECONNECT`. */
  admin(command: string): Promise<readonly Readonly<Record<string, unknown>>[]>
}

/** Where Debian puts it, which is not on everybody's PATH. */
const FURTHER = ['/usr/sbin', '/usr/local/sbin', '/usr/local/bin', '/opt/homebrew/bin']

const find = (): Promise<string | undefined> => findProgram('pgbouncer', FURTHER)

/**
 * Why tests behind a PgBouncer cannot run here, for their titles, or `undefined` if they can. Also said on standard error: what was not tested must not look tested.
 *
 * @param version - the oldest that will do, `[1, 21]` for example.
 */
export async function whyNoPgBouncer(
  version: readonly [major: number, minor: number] = [1, 0],
): Promise<string | undefined> {
  const reason = await reasonFor(version)
  if (reason !== undefined) process.stderr.write(`Tests are SKIPPED: ${reason}.\n`)
  return reason
}

async function reasonFor([major, minor]: readonly [number, number]): Promise<string | undefined> {
  const command = await find()
  if (command === undefined) return 'no pgbouncer is installed (apt-get install pgbouncer)'
  const { stdout } = await promisify(execFile)(command, ['--version'])
  const [, first = 0, second = 0] = (/(\d+)\.(\d+)/.exec(stdout) ?? []).map(Number)
  return first > major || (first === major && second >= minor)
    ? undefined
    : `pgbouncer ${first}.${second} is installed, and ${major}.${minor} is needed`
}

/** Starts a PgBouncer on a free port of the loopback interface; it answers when this resolves, and disposing stops it. Rejects where none is installed, see {@link whyNoPgBouncer}. */
export async function startPgBouncer(options: TestPgBouncerOptions): Promise<TestPgBouncer> {
  const command = await find()
  if (command === undefined) throw new Error('No pgbouncer is installed.')
  const user = await unprivilegedUser()
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    const directory = await mkdtemp(join(await temporaryBase(), 'partywall-pgbouncer-'))
    const url = Object.assign(new URL(options.postgresUrl), { hostname: '127.0.0.1', port }).href
    const admin = Object.assign(new URL(url), { pathname: '/pgbouncer' }).href
    const config = join(directory, 'pgbouncer.ini')
    const passwords = join(directory, 'users.txt')
    // Ours until the keeper hands the directory over; readable for the user of the server, who alone can enter the directory then.
    await writeFile(config, configOf(options, port, passwords), { mode: 0o644 })
    await writeFile(passwords, passwordsOf(options), { mode: 0o644 })
    const server = keepServer({
      directory,
      user,
      server: { command, args: [config] },
      // What the signals that end it gracefully mean has changed between versions, and it has nothing to save.
      stopSignal: 'SIGKILL',
    })
    try {
      // The console: nothing is opened on the server behind it.
      await Promise.race([eventually(() => ask(admin, 'SHOW VERSION')), server.failed])
      return {
        url,
        urlOf: ({ name, password }) =>
          Object.assign(new URL(url), { username: name, password }).href,
        admin: (text) => ask(admin, text),
        [Symbol.asyncDispose]: () => server.stop(),
      }
    } catch (error) {
      await server.stop()
      // The port was taken between asking for it and using it.
      if (attempt === 3) throw error
    }
  }
}

function configOf(
  { postgresUrl, poolMode, poolSize, maxPreparedStatements, settings = {} }: TestPgBouncerOptions,
  port: number,
  passwords: string,
): string {
  const { hostname, port: serverPort, username } = new URL(postgresUrl)
  const lines = Object.entries({
    listen_addr: '127.0.0.1',
    listen_port: port,
    unix_socket_dir: '',
    // With passwords in plain text it can log in to the server in whatever way that asks for.
    auth_type: 'md5',
    auth_file: passwords,
    admin_users: decodeURIComponent(username),
    pool_mode: poolMode,
    default_pool_size: poolSize,
    max_client_conn: 500,
    // A test that waits for a connection in vain is to fail, and not to wait.
    query_wait_timeout: 20,
    log_connections: 0,
    log_disconnections: 0,
    log_stats: 0,
    ...(maxPreparedStatements === undefined
      ? {}
      : { max_prepared_statements: maxPreparedStatements }),
    ...settings,
  }).map(([name, value]) => `${name} = ${value}`)
  return [
    '[databases]',
    `* = host=${hostname} port=${serverPort || 5432}`,
    '[pgbouncer]',
    ...lines,
    '',
  ].join('\n')
}

function passwordsOf({ postgresUrl, users = [] }: TestPgBouncerOptions): string {
  const { username, password } = new URL(postgresUrl)
  const own = { name: decodeURIComponent(username), password: decodeURIComponent(password) }
  return [own, ...users]
    .map((user) => [user.name, user.password].map((text) => `"${text.replaceAll('"', '""')}"`))
    .map((entry) => `${entry.join(' ')}\n`)
    .join('')
}

async function ask(url: string, command: string): Promise<readonly Record<string, unknown>[]> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 2_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    return (await client.query<Record<string, unknown>>(command)).rows
  } finally {
    await client.end().catch(() => {})
  }
}
