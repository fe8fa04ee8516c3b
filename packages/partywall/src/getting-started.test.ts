import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { eventually } from '@partywall/test-support'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { freePort } from './internal/free-port.ts'

const PACKAGE = fileURLToPath(new URL('..', import.meta.url))
const GUIDE = new URL('../../../docs/guide/getting-started.md', import.meta.url)
let folder: string

beforeAll(async () => {
  folder = await mkdtemp('/var/tmp/partywall-test-')
  // The embedded Postgres of root must be able to reach it.
  await chmod(folder, 0o755)
})
afterAll(() => rm(folder, { recursive: true, force: true, maxRetries: 3 }))

test('the guide: its files, as they stand there, answer its commands as it says', async () => {
  const guide = await readFile(GUIDE, 'utf8')
  const files = [...guide.matchAll(/^`([\w./]+)`\n\n```\w+\n([^]*?)^```/gm)]
  expect(files.map(([, name]) => name)).toEqual(['notes.ts', 'migrations/001_notes.sql', 'app.ts'])
  for (const [, name = '', text = ''] of files) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), text)
  }
  await writeFile(join(folder, 'package.json'), '{ "type": "module" }')
  const [, installed = ''] = /^npm install (.*)$/m.exec(guide) ?? []
  await mkdir(join(folder, 'node_modules'))
  for (const name of installed.split(' '))
    await symlink(
      name === 'partywall' ? PACKAGE : join(PACKAGE, 'node_modules', name),
      join(folder, 'node_modules', name),
    )

  const env = { ...process.env }
  // What pnpm's launcher adds to find packages, and what would replace the embedded Postgres.
  for (const name of ['NODE_PATH', 'DATABASE_URL']) delete env[name]
  const port = await freePort()
  const app = spawn(process.execPath, ['--conditions=source', 'app.ts'], {
    cwd: folder,
    env: { ...env, PORT: String(port) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [app.stdout, app.stderr]) stream.on('data', (part) => (said += part))
  const exit = once(app, 'exit')
  try {
    await eventually(
      () => {
        if (app.exitCode !== null) throw new Error(said)
        return said.includes('The shop is open.')
      },
      { timeoutMs: 40_000 },
    )
    const [, session = ''] = /^```console\n([^]*?)^```/m.exec(guide) ?? []
    const steps = [...session.matchAll(/^\$ (.*)\n(.*)$/gm)]
    expect(steps).toHaveLength(5)
    for (const [, command = '', output] of steps) expect(await curl(command, port)).toBe(output)
    expect(said).toContain('PARTYWALL_UNVERIFIED_SOURCE')
  } finally {
    app.kill('SIGINT')
    expect(await exit).toEqual([0, null])
  }
}, 90_000)

/** What the `curl` of the guide answers, on another port. Not every machine has curl, and not every resolver knows `*.localhost`. */
async function curl(command: string, port: number): Promise<string> {
  const [, url = ''] = /(http:\S+)$/.exec(command) ?? []
  const [, data] = /-d '([^']*)'/.exec(command) ?? []
  const { host, pathname } = new URL(url)
  const headers: Record<string, string> = { Host: host }
  for (const [, name = '', value = ''] of command.matchAll(/-H '([\w-]+): ([^']*)'/g))
    headers[name] = value
  return new Promise((resolve, reject) => {
    const method = data === undefined ? 'GET' : 'POST'
    const outgoing = request(
      { host: '127.0.0.1', port, path: pathname, method, headers },
      (answer) => {
        let text = ''
        answer.on('data', (part) => (text += part)).on('end', () => resolve(text))
      },
    )
    outgoing.on('error', reject).end(data)
  })
}
