import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { fileURLToPath } from 'node:url'

/** A server as if it were further away, by a proxy in a process of its own: on loopback, in order, with nothing lost. */
export interface FarServer extends AsyncDisposable {
  readonly url: string
  /** Times that the client spoke after the server had, since the last call. With one statement at a time, round trips. */
  roundTrips(): Promise<number>
}

/** @param delayMs - what a round trip takes longer; the timers of Node have no finer grain than one millisecond, so all of it is on the way to the server. */
export async function farServer(url: string, delayMs: number): Promise<FarServer> {
  const target = new URL(url)
  const child = fork(fileURLToPath(import.meta.url), [
    target.hostname,
    target.port || '5432',
    String(delayMs),
  ])
  const ask = async (question: string): Promise<number> => {
    const answer = once(child, 'message') as Promise<[number]>
    child.send(question)
    return (await answer)[0]
  }
  const port = await ask('port')
  return {
    url: Object.assign(new URL(url), { host: `127.0.0.1:${port}` }).href,
    roundTrips: () => ask('roundTrips'),
    [Symbol.asyncDispose]: async () => {
      const gone = once(child, 'exit')
      child.disconnect()
      await gone
    },
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await serve(process)

async function serve(parent: NodeJS.Process | ChildProcess): Promise<void> {
  const [host, port, delayMs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])]
  let roundTrips = 0
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ host, port, noDelay: true })
    let spoke: 'near' | 'far' = 'far'
    near.on('data', (chunk) => {
      if (spoke === 'far') roundTrips++
      spoke = 'near'
      if (delayMs === 0) far.write(chunk)
      else setTimeout(() => far.writable && far.write(chunk), delayMs)
    })
    far.on('data', (chunk) => {
      spoke = 'far'
      near.write(chunk)
    })
    near.on('close', () => far.destroy())
    far.on('close', () => near.destroy())
    near.on('error', () => far.destroy())
    far.on('error', () => near.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  parent.on('message', (question) => {
    process.send?.(question === 'port' ? (server.address() as AddressInfo).port : roundTrips)
    if (question === 'roundTrips') roundTrips = 0
  })
  process.on('disconnect', () => process.exit())
}
