import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import type { KeeperOrder } from './keeper.ts'

/** A local server in the care of a keeper process. */
export interface KeptServer {
  /** Rejects with the server's last words if it ends by itself; never settles otherwise. */
  readonly failed: Promise<never>
  /** Ends the server by a signal, for a while; its directory stays. Resolves when the process is gone. */
  halt(signal: NodeJS.Signals): Promise<void>
  /** Starts a server that was halted once more. Does not wait until it answers. */
  resume(): Promise<void>
  /** Stops the server and removes its directory; safe to call twice. */
  stop(): Promise<void>
}

/** Starts a server under a keeper, see `keeper.ts`. Does not wait until the server answers. */
export function keepServer(order: KeeperOrder): KeptServer {
  // Detached, so that Ctrl-C in the terminal reaches the tests alone: the server must live as long as they clean up.
  const keeper = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      fileURLToPath(new URL('./keeper.ts', import.meta.url)),
      JSON.stringify(order),
    ],
    {
      detached: true,
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NODE_OPTIONS: '' },
    },
  )
  const closed = once(keeper, 'close')
  let said = ''
  keeper.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  const tell = async (order: string, answer: string): Promise<void> => {
    const answers = (): number => said.split('\n').filter((line) => line === answer).length
    const before = answers()
    keeper.stdin.write(`${order}\n`)
    while (answers() === before) await Promise.race([once(keeper.stdout, 'data'), failed])
  }
  let stopping = false
  const failed = closed.then(() => {
    if (stopping) return new Promise<never>(() => {})
    const lastWords = said.replaceAll(/^(?:started|stopped)\n/gm, '').trim()
    throw new Error(`A test server ended by itself. ${lastWords}`)
  })
  // Nobody may be looking when a server dies later; the tests notice by themselves.
  failed.catch(() => {})
  keeper.stdin.on('error', () => {})
  // A process that forgot to stop its server may still end; the keeper notices.
  keeper.unref()
  for (const stream of [keeper.stdin, keeper.stdout]) (stream as { unref?(): void }).unref?.()
  return {
    failed,
    halt: (signal) => tell(`stop ${signal}`, 'stopped'),
    resume: () => tell('start', 'started'),
    async stop() {
      stopping = true
      keeper.ref()
      keeper.stdin.end()
      await closed
    },
  }
}
