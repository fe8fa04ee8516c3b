import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createGateRole } from '@partywall/postgres'
import {
  canary,
  createTestDatabase,
  type RunningServer,
  startTestPostgres,
  type TestDatabase,
} from '@partywall/test-support'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createPartywall, definePlugin, type Partywall, type PartywallConfig } from './index.ts'

// Databases and roles belong to the whole server, which other test files share.
const salt = randomBytes(4).toString('hex')
const IDS = {
  schema: `schema-${salt}`,
  database: `database-${salt}`,
  westSchema: `west-schema-${salt}`,
  westDatabase: `west-database-${salt}`,
}
const GATE = `gate_${salt}`
const TENANTS: PartywallConfig['tenants'] = [
  { id: IDS.schema },
  { id: IDS.database, isolation: 'database' },
  { id: IDS.westSchema, placement: { cluster: 'west' } },
  { id: IDS.westDatabase, isolation: 'database', placement: { cluster: 'west' } },
]

let db: TestDatabase
let west: RunningServer
let folder: string

beforeAll(async () => {
  db = await createTestDatabase()
  west = await startTestPostgres()
  folder = await mkdtemp(join(tmpdir(), 'partywall-fleet-'))
  await writeFile(join(folder, '001.sql'), 'create table notes (id int primary key, text text)')
  for (const url of [db.url, west.url]) {
    const owner = new pg.Pool({ connectionString: url, max: 1 })
    await createGateRole(owner, { name: GATE, password: 'secret' })
    await owner.end()
  }
})
afterAll(async () => {
  await db.query(`drop database if exists "tenant-${IDS.database}" with (force)`)
  for (const id of [IDS.schema, IDS.database])
    await db.query(`drop owned by "tenant-${id}" cascade; drop role "tenant-${id}"`)
  await db.query(`drop owned by "${GATE}" cascade; drop role "${GATE}"`)
  await db[Symbol.asyncDispose]()
  await west.stop()
  await rm(folder, { recursive: true, force: true })
})

const notes = () =>
  definePlugin<{ notes: { id: number; text: string } }>({
    name: 'notes',
    version: '1.0.0',
    migrations: pathToFileURL(`${folder}/`),
    requires: ['notes.text'],
    seed: ({ db: tables, tenant }) =>
      tables
        .insertInto('notes')
        .values({ id: 1, text: canary(tenant.id, 'seed') })
        .execute(),
    actions: {
      place: async (_: undefined, { pool }) =>
        (
          await pool.query(
            'select current_database() as database, current_schema() as schema, current_user::text as role, inet_server_port() as port, (select text from notes) as text',
          )
        ).rows,
    },
  })

const gateOf = (url: string): string =>
  Object.assign(new URL(url), { username: GATE, password: 'secret' }).href

const start = (database: PartywallConfig['database']): Promise<Partywall> =>
  createPartywall({
    tenancy: { authorize: () => true },
    log: () => undefined,
    plugins: [notes()],
    tenants: TENANTS,
    database,
  })

test('tenants are provisioned where their records say, in databases of their own too, and found there by the next start', async () => {
  const { hostname: host, port, username: user, password } = new URL(west.url)
  const far = { host, port: Number(port) }
  const clusters = {
    west: { ...far, user: GATE, password: 'secret', central: { user, password } },
  }
  const database = { url: db.url, gateUrl: gateOf(db.url), clusters }
  for (let round = 0; round < 2; round++) {
    const wall = await start(database)
    const places = await Promise.all(
      Object.values(IDS).map((id) => wall.run(id, () => wall.plugins.call('notes', 'place'))),
    )
    const home = Number(new URL(db.url).port)
    expect(places.flat()).toEqual(
      [
        { database: db.name, schema: IDS.schema, port: home },
        { database: `tenant-${IDS.database}`, schema: 'public', port: home },
        { database: 'postgres', schema: IDS.westSchema, port: Number(port) },
        { database: `tenant-${IDS.westDatabase}`, schema: 'public', port: Number(port) },
      ].map((place, index) => {
        const id = Object.values(IDS)[index] as string
        return { ...place, role: `tenant-${id}`, text: canary(id, 'seed') }
      }),
    )
    // A gate and a foreign database: the server keeps it out.
    await expect(
      wall.run(IDS.database, () => wall.pool.query('create schema mine')),
    ).rejects.toMatchObject({ code: '42501' })
    await wall.close()
  }
}, 60_000)

test('a cluster that is not configured is refused before a record is made', async () => {
  const fresh = await createTestDatabase()
  const alone = { url: fresh.url, clusters: {} }
  const strangers = TENANTS?.filter(({ placement }) => placement !== undefined)
  await expect(
    createPartywall({ database: alone, tenants: strangers, log: () => undefined }),
  ).rejects.toMatchObject({ code: 'ERR_TENANCY_CLUSTER_UNKNOWN' })
  expect((await fresh.query('select id from partywall.tenants')).rows).toEqual([])
  await fresh[Symbol.asyncDispose]()
  await expect(
    createPartywall({ database: { clusters: { west: { host: '' } } } }),
  ).rejects.toMatchObject({ code: 'ERR_TENANCY_OPTION_INVALID' })
}, 60_000)
