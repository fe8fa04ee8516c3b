import { randomBytes } from 'node:crypto'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createGateRole } from '@partywall/postgres'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createPartywall, definePlugin, type PartywallConfig, type Plugin } from './index.ts'

// Roles belong to the whole server, which other test files share.
const salt = randomBytes(4).toString('hex')
const ACME = `acme-${salt}`
const GLOBEX = `globex-${salt}`
const GATE = `gate_${salt}`
const TENANTS = [{ id: ACME }, { id: GLOBEX }]

let db: TestDatabase
let folder: string

beforeEach(async () => {
  db = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'partywall-gate-'))
})

afterEach(async () => {
  await db[Symbol.asyncDispose]()
  await rm(folder, { recursive: true, force: true })
})

/** A plugin whose migrations are the given texts. */
async function notes(...texts: string[]): Promise<Plugin<any>> {
  for (const [index, text] of texts.entries()) await writeFile(join(folder, `00${index}.sql`), text)
  return definePlugin<{ notes: { text: string } }>({
    name: 'notes',
    version: '1.0.0',
    migrations: pathToFileURL(`${folder}/`),
    actions: {
      add: (_: undefined, { db: tables, tenant }) =>
        tables
          .insertInto('notes')
          .values({ text: canary(tenant.id, 1) })
          .execute(),
    },
  })
}

const CREATE = 'create table notes (text text)'

async function withWall(
  config: PartywallConfig,
  fn: (wall: Awaited<ReturnType<typeof createPartywall>>) => Promise<void>,
): Promise<void> {
  const wall = await createPartywall({
    tenants: TENANTS,
    log: () => undefined,
    ...config,
    tenancy: { authorize: () => true },
  })
  try {
    await fn(wall)
  } finally {
    await wall.close()
  }
}

/** What the server refuses to each of the two, and what it still lets them do. */
async function expectWalls(wall: Awaited<ReturnType<typeof createPartywall>>): Promise<void> {
  for (const [id, other] of [
    [ACME, GLOBEX],
    [GLOBEX, ACME],
  ] as const) {
    const ask = (sql: string) => wall.run(id, () => wall.pool.query(sql))
    expect((await ask('select distinct text from notes')).rows).toEqual([{ text: canary(id, 1) }])
    for (const sql of [
      `select * from "${other}".notes`,
      `set local search_path to "${other}"; select * from notes`,
      `insert into "${other}".notes values ('x')`,
      'select id from partywall.tenants',
    ])
      await expect(ask(sql), sql).rejects.toMatchObject({
        code: expect.stringMatching(/42501|42P01/),
      })
  }
}

test('with a gate, the server keeps each tenant out of the others and out of the registry; tenants that are older than the gate get roles and keep their rows', async () => {
  const owner = new pg.Pool({ connectionString: db.url, max: 1 })
  await createGateRole(owner, { name: GATE, password: 'secret' })
  const gateUrl = Object.assign(new URL(db.url), { username: GATE, password: 'secret' }).href
  try {
    const first = await notes(CREATE)
    await withWall({ database: { url: db.url }, plugins: [first] }, async (wall) => {
      for (const { id } of TENANTS) await wall.run(id, () => wall.plugins.call('notes', 'add'))
    })
    // Runs as the tenant, on a table that the owner made.
    const second = await notes(CREATE, 'alter table notes add column seen boolean')
    for (let start = 0; start < 2; start++)
      await withWall({ database: { url: db.url, gateUrl }, plugins: [second] }, async (wall) => {
        await wall.run(ACME, () => wall.pool.query('update notes set seen = true'))
        await expectWalls(wall)
      })
  } finally {
    for (const role of [`"tenant-${ACME}"`, `"tenant-${GLOBEX}"`, GATE])
      await owner.query(`drop owned by ${role} cascade; drop role ${role}`)
    await owner.end()
  }
})

test('an embedded Postgres has a gate by itself, at every start', { timeout: 60_000 }, async () => {
  await using server = await temporaryServer()
  const plugin = await notes(CREATE)
  for (let start = 0; start < 2; start++)
    await withWall({ database: { dataDir: server.dataDir }, plugins: [plugin] }, async (wall) => {
      for (const { id } of TENANTS) await wall.run(id, () => wall.plugins.call('notes', 'add'))
      await expectWalls(wall)
    })
})

/** A directory that the user of the server can reach, also as root. */
async function temporaryServer(): Promise<{ dataDir: string } & AsyncDisposable> {
  const parent = await mkdtemp(join('/var/tmp', 'partywall-gate-'))
  await chmod(parent, 0o755)
  return {
    dataDir: join(parent, 'postgres'),
    [Symbol.asyncDispose]: () => rm(parent, { recursive: true, force: true }),
  }
}

test('a gate without a user, or without the login of the owner, is refused before anything starts', async () => {
  for (const database of [
    { url: db.url, gateUrl: 'postgres://127.0.0.1/x' },
    { gateUrl: db.url },
    { url: db.url, gateUrl: 'http://x' },
  ])
    await expect(createPartywall({ database })).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
    })
})
