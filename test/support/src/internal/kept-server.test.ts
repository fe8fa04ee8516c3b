import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { expect, test } from 'vitest'

import { eventually } from '../eventually.ts'
import { keepServer } from './kept-server.ts'

/** A server for the keeper: it leaves its process id behind, and takes no hint by SIGTERM. */
const STUBBORN = `
  require('node:fs').writeFileSync('pid', String(process.pid))
  process.on('SIGTERM', () => {})
  setInterval(() => {}, 1_000)
`

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const pidIn = (directory: string): Promise<number> =>
  eventually(() => Number(readFileSync(join(directory, 'pid'), 'utf8')))

const orderFor = (directory: string, script: string) => ({
  directory,
  server: { command: process.execPath, args: ['-e', script] },
  stopSignal: 'SIGKILL' as const,
})

test('a server and its directory end with stop', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'partywall-keeper-'))
  const server = keepServer(orderFor(directory, STUBBORN))
  const pid = await pidIn(directory)
  await server.stop()
  await server.stop()
  expect(isAlive(pid)).toBe(false)
  expect(existsSync(directory)).toBe(false)
})

test('a server can be halted and resumed in its directory, as often as one likes', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'partywall-keeper-'))
  const server = keepServer(orderFor(directory, STUBBORN))
  const pids = [await pidIn(directory)]
  for (let n = 0; n < 2; n++) {
    await server.halt('SIGKILL')
    expect(isAlive(pids.at(-1) ?? 0)).toBe(false)
    expect(existsSync(directory)).toBe(true)
    await server.resume()
    pids.push(
      await eventually(async () => {
        const pid = await pidIn(directory)
        return pid !== pids.at(-1) && pid
      }),
    )
  }
  expect(pids.map(isAlive)).toEqual([false, false, true])
  await server.halt('SIGKILL')
  await server.stop()
  expect(existsSync(directory)).toBe(false)
})

test.each(['SIGKILL', 'SIGINT'] as const)(
  'a server and its directory are gone after the starter ended by %s',
  async (signal) => {
    const directory = await mkdtemp(join(tmpdir(), 'partywall-keeper-'))
    const starter = spawn(process.execPath, [
      '--disable-warning=ExperimentalWarning',
      '--input-type=module',
      '-e',
      `import { keepServer } from ${JSON.stringify(new URL('./kept-server.ts', import.meta.url))}
       keepServer(${JSON.stringify(orderFor(directory, STUBBORN))})
       setInterval(() => {}, 1_000)`,
    ])
    const exited = once(starter, 'exit')
    const pid = await pidIn(directory)
    starter.kill(signal)
    await exited
    await eventually(() => !existsSync(directory))
    expect(isAlive(pid)).toBe(false)
  },
)

test('a server that ends by itself is reported with its last words', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'partywall-keeper-'))
  const server = keepServer(orderFor(directory, "console.error('address in use'); process.exit(3)"))
  await expect(server.failed).rejects.toThrow(/ended with 3.*address in use/)
  expect(existsSync(directory)).toBe(false)
  await server.stop()
})

test('a preparation that fails is reported, and the server is not started', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'partywall-keeper-'))
  const server = keepServer({
    ...orderFor(directory, STUBBORN),
    prepare: {
      command: process.execPath,
      args: ['-e', "console.log('no space'); process.exit(1)"],
    },
  })
  await expect(server.failed).rejects.toThrow(/no space/)
  await server.stop()
})
