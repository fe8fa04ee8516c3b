/**
 * A process of its own that runs the embedded Postgres and survives whoever started it. It waits for the end of its standard input, which comes when
 * the starter closes it, exits, crashes or is killed, even by SIGKILL; then it shuts the server down. So no signal handler has to stand in the
 * application's way, and no server is left behind.
 *
 * The only argument is a {@link KeeperOrder} as JSON. Nothing but the end of the server goes to standard output, as one line of JSON.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rm } from 'node:fs/promises'

export interface KeeperOrder {
  readonly command: string
  readonly args: readonly string[]
  readonly cwd: string
  /** Whom the server runs as; Postgres refuses to run as root. */
  readonly user?: { readonly uid: number; readonly gid: number } | undefined
  /** A directory that is removed when the server has ended. */
  readonly remove?: string | undefined
}

/** How long a fast shutdown may take; a checkpoint is part of it. */
const STOP_TIMEOUT_MS = 10_000
const LONGEST_OUTPUT = 4_000

const order = JSON.parse(process.argv[2] ?? '') as KeeperOrder
const orphaned = new Promise<undefined>((resolve) => {
  const done = (): void => resolve(undefined)
  process.stdin.on('close', done).on('error', done).resume()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, done)
})
// The starter may be gone when a line is written to it: that is no reason to leave the server running.
process.stdout.on('error', () => undefined)

let output = ''
const server = spawn(order.command, order.args, {
  ...order.user,
  cwd: order.cwd,
  stdio: ['ignore', 'pipe', 'pipe'],
  env: { ...process.env, LC_ALL: 'C' },
})
for (const stream of [server.stdout, server.stderr])
  stream.setEncoding('utf8').on('data', (text: string) => {
    output = (output + text).slice(-LONGEST_OUTPUT)
  })
const ended = new Promise<string>((resolve) => {
  server.on('error', (error) => resolve(error.message))
  server.on('close', (code, signal) => resolve(`${signal ?? code}: ${output.trim()}`))
})

const end = await Promise.race([ended, orphaned])
if (end === undefined) await stop(server)
if (order.remove !== undefined)
  await rm(order.remove, { recursive: true, force: true, maxRetries: 3 })
if (end !== undefined) process.stdout.write(`${JSON.stringify(end)}\n`)
process.stdin.destroy()

/** SIGINT is the fast shutdown: sessions are ended, and everything is written (manual, 18.5). */
async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const exited = once(child, 'exit')
  child.kill('SIGINT')
  // What follows an immediate shutdown is a recovery at the next start, and no loss.
  const timer = setTimeout(() => child.kill('SIGQUIT'), STOP_TIMEOUT_MS)
  await exited
  clearTimeout(timer)
}
