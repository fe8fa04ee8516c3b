import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { canary, eventually } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { startEmbeddedPostgres } from './embedded-postgres.ts'
import { createPartywall } from './index.ts'

let base: string
const children: ChildProcess[] = []

beforeAll(async () => {
  // Not the temporary directory of the environment, which the user that root's Postgres runs as may not reach.
  base = await mkdtemp(join(process.platform === 'win32' ? '.' : '/var/tmp', 'partywall-test-'))
  await chmod(base, 0o755)
})
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})
afterAll(() => rm(base, { recursive: true, force: true, maxRetries: 3 }))

const MODULE = JSON.stringify(new URL('./embedded-postgres.ts', import.meta.url).href)

/** A process that starts the server in `dataDir`, tells its URL, and then does nothing more. */
async function holder(dataDir: string | undefined): Promise<{ child: ChildProcess; url: string }> {
  const child = spawn(
    process.execPath,
    [
      '--conditions=source',
      '--input-type=module',
      '--eval',
      `const { startEmbeddedPostgres } = await import(${MODULE})
       const { url } = await startEmbeddedPostgres({ dataDir: ${JSON.stringify(dataDir)} })
       console.log(url)
       setInterval(() => {}, 1e6)`,
    ],
    { cwd: dirname(fileURLToPath(import.meta.url)), stdio: ['ignore', 'pipe', 'inherit'] },
  )
  children.push(child)
  const [url] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer]
  return { child, url: url.toString().trim() }
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => undefined)
  return client.connect().then(
    () => client.end().then(() => true),
    () => false,
  )
}

test('a wall without a database URL: a directory keeps tenants and rows from one start to the next', async () => {
  const config = {
    tenancy: { authorize: () => true },
    database: { dataDir: join(base, 'kept', 'postgres') },
    tenants: [{ id: 'acme' }, { id: 'globex' }],
  }
  const first = await createPartywall(config)
  for (const id of ['acme', 'globex'])
    await first.run(id, async () => {
      await first.pool.query('create table notes (id int primary key, text text)')
      await first.pool.query('insert into notes values (1, $1)', [canary(id, 1)])
    })
  await first.close()
  await first.close()
  const second = await createPartywall(config)
  try {
    for (const id of ['acme', 'globex']) {
      const { rows } = await second.run(id, () => second.pool.query('select * from notes'))
      expect(rows).toEqual([{ id: 1, text: canary(id, 1) }])
    }
    const { rows } = await second.pool.central.query('select current_database() as name')
    expect(rows).toEqual([{ name: 'partywall' }])
  } finally {
    await second.close()
  }
  // Neither unfinished databases nor programs are left beside it.
  expect((await readdir(join(base, 'kept'))).filter((name) => name.includes('.new-'))).toEqual([])
})

test('it listens on the loopback interface alone, and asks for a password', async () => {
  const server = await startEmbeddedPostgres()
  try {
    const client = new pg.Client({ connectionString: server.url })
    await client.connect()
    const { rows } = await client.query(
      "select current_setting('listen_addresses') as addresses, current_setting('unix_socket_directories') as sockets",
    )
    await client.end()
    expect(rows).toEqual([{ addresses: '127.0.0.1', sockets: '' }])
    const { port } = new URL(server.url)
    expect(await answers(`postgres://postgres:guess@127.0.0.1:${port}/partywall`)).toBe(false)
    expect(await answers(server.url)).toBe(true)
  } finally {
    await server.stop()
  }
  expect(await answers(server.url)).toBe(false)
})

test('a second process on the same directory is told who has it', async () => {
  const dataDir = join(base, 'shared')
  const { child } = await holder(dataDir)
  await expect(startEmbeddedPostgres({ dataDir })).rejects.toMatchObject({
    code: 'ERR_TENANCY_DATABASE_UNAVAILABLE',
    message: expect.stringContaining(`is in use by the process ${child.pid}`),
    hint: expect.stringContaining('database.url'),
  })
})

test.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)(
  'after %s the server is gone, and the directory can be used at once',
  async (signal) => {
    const dataDir = join(base, 'killed')
    const { child, url } = await holder(dataDir)
    child.kill(signal)
    await once(child, 'exit')
    const server = await startEmbeddedPostgres({ dataDir })
    try {
      expect(await answers(server.url)).toBe(true)
      expect(await answers(url)).toBe(false)
    } finally {
      await server.stop()
    }
  },
)

test.skipIf(process.platform !== 'linux')(
  'a server whose keeper was killed as well is shut down by the next start',
  async () => {
    const dataDir = join(base, 'orphaned')
    const { child, url } = await holder(dataDir)
    for (const keeper of await childrenOf(child.pid as number)) process.kill(keeper, 'SIGKILL')
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(await answers(url)).toBe(true)
    const server = await startEmbeddedPostgres({ dataDir })
    expect(await answers(url)).toBe(false)
    await server.stop()
  },
)

test('without a directory, it takes a temporary one, which is gone afterwards, even after kill -9', async () => {
  const { child, url } = await holder(undefined)
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  const { rows } = await client.query<{ directory: string }>(
    "select current_setting('data_directory') as directory",
  )
  const directory = dirname(rows[0]?.directory ?? '')
  expect((await stat(directory)).isDirectory()).toBe(true)
  child.kill('SIGKILL')
  await eventually(() =>
    stat(directory).then(
      () => false,
      () => true,
    ),
  )
})

test('a directory that holds something else is not touched', async () => {
  const dataDir = join(base, 'photos')
  await mkdir(dataDir)
  await writeFile(join(dataDir, 'holiday.jpg'), 'x')
  await expect(startEmbeddedPostgres({ dataDir })).rejects.toMatchObject({
    code: 'ERR_TENANCY_OPTION_INVALID',
    message: expect.stringContaining(dataDir),
  })
  expect(await readdir(dataDir)).toEqual(['holiday.jpg'])
})

test.skipIf(process.getuid?.() !== 0)(
  'as root, a directory that the user of the server cannot reach is told beforehand',
  async () => {
    const locked = join(base, 'locked')
    await mkdir(locked, { mode: 0o700 })
    await expect(
      startEmbeddedPostgres({ dataDir: join(locked, 'postgres') }),
    ).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
      hint: expect.stringContaining('/var/tmp'),
    })
  },
)

test('unknown options are errors', async () => {
  await expect(startEmbeddedPostgres({ datadir: 'x' } as never)).rejects.toThrow(
    'Did you mean "dataDir"?',
  )
})

/** The processes that a process has started, as Linux tells. */
async function childrenOf(parent: number): Promise<number[]> {
  const text = await readFile(`/proc/${parent}/task/${parent}/children`, 'utf8')
  return text.trim().split(/\s+/).filter(Boolean).map(Number)
}
