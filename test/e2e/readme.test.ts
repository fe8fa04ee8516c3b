import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { codeBlocks } from './code-blocks.ts'

const run = promisify(execFile)
const root = resolve('.')
let workspace: string
let data: string
let app: ReturnType<typeof spawn> | undefined

beforeAll(async () => {
  // Inside the workspace, so that the packages are found as a user's node_modules would give them.
  await mkdir(join(root, 'test/.cache'), { recursive: true })
  workspace = await mkdtemp(join(root, 'test/.cache/readme-'))
  data = await mkdtemp(join(tmpdir(), 'partywall-readme-'))
  // As root, Postgres runs as another user, who must get here.
  await chmod(data, 0o755)
})

afterAll(async () => {
  if (app !== undefined && app.exitCode === null) {
    const gone = once(app, 'exit')
    app.kill('SIGTERM')
    await gone
  }
  await rm(workspace, { recursive: true, force: true })
  await rm(data, { recursive: true, force: true })
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

describe('README', async () => {
  const readme = await readFile('README.md', 'utf8')
  const blocks = codeBlocks(readme)

  it('shows an app of fifteen lines whose answers to curl are as printed', {
    timeout: 120_000,
  }, async () => {
    const code = blocks.find(({ info }) => info === 'ts file=app.ts')?.text ?? ''
    expect(
      code
        .trimEnd()
        .split('\n')
        .filter((line) => line !== '').length,
    ).toBeLessThanOrEqual(15)
    const port = await freePort()
    const file = join(workspace, 'app.ts')
    await writeFile(file, code.replaceAll('3000', String(port)))
    const child = spawn(process.execPath, ['--conditions=source', file], {
      cwd: data,
      env: { ...process.env, DATABASE_URL: undefined },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    app = child
    await Promise.race([
      once(child.stdout, 'data'),
      once(child, 'exit').then(() => Promise.reject(new Error('The app ended.'))),
    ])

    const index = blocks.findIndex(({ text }) => text.startsWith('curl '))
    const commands = (blocks[index]?.text ?? '').trim().split('\n')
    const expected = (blocks[index + 1]?.text ?? '').trim().split('\n')
    expect(commands).toHaveLength(expected.length)
    for (const [line, command] of commands.entries()) {
      const { stdout } = await run('bash', ['-c', command.replaceAll('3000', String(port))])
      expect(stdout.trim(), command).toBe(expected[line])
    }
  })

  it('names the commands that CI runs', async () => {
    const ci = await readFile('.ci/run', 'utf8')
    const commands = blocks
      .flatMap(({ text }) => text.split('\n'))
      .filter((line) => line.startsWith('npx '))
    expect(commands).toEqual(['npx --yes pnpm@12.21.0 demo', 'npx --yes pnpm@12.21.0 test'])
    for (const command of commands) expect(ci).toContain(command)
  })
})
