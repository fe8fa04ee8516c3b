/**
 * A process of its own that runs one server and survives whoever started it: it waits for the end of its standard input, which
 * comes when the starter closes it, exits, crashes or is killed, even by SIGKILL. Then it stops the server and removes its
 * directory. This is what leaves no process and no directory behind, whatever happens to a test run.
 *
 * The only argument is a {@link KeeperOrder} as JSON. One line goes to standard output: `started`, or the reason for a failure.
 *
 * On standard input it takes `stop <signal>` and `start`, one a line, and answers with `stopped` and `started`: the same server,
 * in the same directory. A server that ends without being told to is a failure.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chown, rm } from 'node:fs/promises'
import { createInterface } from 'node:readline'

/** One program to run, as an unprivileged user where the keeper itself is root. */
export interface KeeperCommand {
  readonly command: string
  readonly args: readonly string[]
}

export interface KeeperOrder {
  /** An empty directory; the server works in it, and it is removed at the end. */
  readonly directory: string
  readonly user?: { readonly uid: number; readonly gid: number } | undefined
  /** Runs before the server, and must succeed. */
  readonly prepare?: KeeperCommand | undefined
  readonly server: KeeperCommand
  readonly stopSignal: NodeJS.Signals
}

const order = JSON.parse(process.argv[2] ?? '') as KeeperOrder
const orphaned = Promise.withResolvers<'orphaned'>()
process.stdin.on('close', () => {
  orphaned.resolve('orphaned')
})
process.stdin.on('error', () => {
  orphaned.resolve('orphaned')
})
/** Orders that were not carried out yet, and who waits for the next one. */
const orders: string[] = []
let ordered = Promise.withResolvers<void>()
createInterface({ input: process.stdin }).on('line', (line) => {
  orders.push(line)
  ordered.resolve()
})
async function nextOrder(): Promise<string> {
  while (orders.length === 0) await ordered.promise
  ordered = Promise.withResolvers()
  return orders.shift() ?? ''
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => {
    orphaned.resolve('orphaned')
  })
// The starter may be gone when a line is written to it: that is no reason to leave the server running.
process.stdout.on('error', () => {})

/** Runs a program; resolves to its end as a sentence. Its last output is kept for the message. */
function run({ command, args }: KeeperCommand): {
  readonly child: ChildProcess
  readonly ended: Promise<{ readonly ok: boolean; readonly why: string }>
} {
  const child = spawn(command, args, {
    ...order.user,
    cwd: order.directory,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-4_000)
    })
  const ended = new Promise<{ ok: boolean; why: string }>((resolve) => {
    child.on('error', (error) => {
      resolve({ ok: false, why: error.message })
    })
    child.on('close', (code, signal) => {
      resolve({ ok: code === 0, why: `${command} ended with ${signal ?? code}: ${output.trim()}` })
    })
  })
  return { child, ended }
}

async function stop(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const exited = once(child, 'exit')
  child.kill(signal)
  const timer = setTimeout(() => child.kill('SIGKILL'), 5_000)
  await exited
  clearTimeout(timer)
}

/** Runs until the starter is gone; the reason where the server ended by itself. */
async function keep(): Promise<string | undefined> {
  if (order.user !== undefined) await chown(order.directory, order.user.uid, order.user.gid)
  if (order.prepare !== undefined) {
    const preparation = run(order.prepare)
    const first = await Promise.race([preparation.ended, orphaned.promise])
    if (first === 'orphaned') {
      await stop(preparation.child, 'SIGKILL')
      return undefined
    }
    if (!first.ok) return first.why
  }
  for (;;) {
    const server = run(order.server)
    process.stdout.write('started\n')
    const told = nextOrder()
    const first = await Promise.race([server.ended, orphaned.promise, told])
    if (typeof first === 'object') return first.why
    if (first === 'orphaned') {
      await stop(server.child, order.stopSignal)
      return undefined
    }
    await stop(server.child, first.replace('stop ', '') as NodeJS.Signals)
    // Processes that it started hold its output open: one that still runs would keep the next server from the directory.
    await server.ended
    process.stdout.write('stopped\n')
    if ((await Promise.race([nextOrder(), orphaned.promise])) === 'orphaned') return undefined
  }
}

const failure = await keep().catch((error: unknown) => String(error))
await rm(order.directory, { recursive: true, force: true, maxRetries: 3 })
if (failure !== undefined) process.stdout.write(`${JSON.stringify(failure)}\n`)
process.exitCode = failure === undefined ? 0 : 1
process.stdin.destroy()
