import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createGateRole } from '@partywall/postgres'
import {
  canary,
  createTestDatabase,
  eventually,
  foreignCanaries,
  startPgBouncer,
  startTestPooler,
  type TestDatabase,
  whyNoPgBouncer,
} from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createPartywall, type DatabaseConfig, definePlugin, type Partywall } from './index.ts'

const missing = await whyNoPgBouncer()

// Roles belong to the whole server, which other test files share.
const salt = randomBytes(4).toString('hex')
const ACME = `acme-${salt}`
const GLOBEX = `globex-${salt}`
const TENANTS = [ACME, GLOBEX]
const OWNER = { name: `owner_${salt}`, password: 'secret' }
const GATE = { name: `gate_${salt}`, password: 'secret' }

let db: TestDatabase
let folder: string

beforeEach(async () => {
  db = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'partywall-pooler-'))
  await writeFile(join(folder, '001.sql'), 'create table notes (id int primary key, text text)')
  await db.query(`create role ${OWNER.name} login createrole password '${OWNER.password}'`)
  await db.query(`alter database ${db.name} owner to ${OWNER.name}`)
})
afterEach(async () => {
  const { rows } = await db.query<{ name: string }>(
    "select rolname as name from pg_roles where rolname like '%' || $1 order by rolname like 'owner%'",
    [salt],
  )
  await db[Symbol.asyncDispose]()
  const server = new pg.Client(process.env['PARTYWALL_TEST_POSTGRES_URL'])
  await server.connect()
  for (const { name } of rows) await server.query(`drop role "${name}"`)
  await server.end()
  await rm(folder, { recursive: true, force: true })
})

const loginAs = (url: string, { name, password }: typeof OWNER): string =>
  Object.assign(new URL(url), { username: name, password }).href

const notes = () =>
  definePlugin<{ notes: { id: number; text: string } }>({
    name: 'notes',
    version: '1.0.0',
    migrations: pathToFileURL(`${folder}/`),
    actions: {
      add: (id: number, { db: tables, tenant }) =>
        tables
          .insertInto('notes')
          .values({ id, text: canary(tenant.id, id) })
          .execute(),
      list: (_: undefined, { db: tables }) =>
        tables.selectFrom('notes').selectAll().orderBy('id').execute(),
    },
  })

async function open(database: DatabaseConfig): Promise<Partywall> {
  return createPartywall({
    database,
    plugins: [notes()],
    tenants: TENANTS.map((id) => ({ id })),
    log: () => undefined,
    tenancy: { authorize: () => true },
  })
}

const schemas = async (): Promise<string[]> =>
  (
    await db.query<{ name: string }>(
      "select nspname::text as name from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' order by 1",
    )
  ).rows.map(({ name }) => name)

describe('is refused before anything is created', () => {
  test.each([
    ['a pooler that nobody told of', {}, /pooler: 'none'/, /pooler: 'transaction'/],
    ['a base path', { pooler: 'transaction' }, /"\$user", public/, /search_path = ''/],
  ] as const)('%s', async (_what, config, message, hint) => {
    const url = loginAs(db.url, OWNER)
    await using pooler = await startTestPooler({ postgresUrl: url, connections: 1 })
    const error = await open({ url: pooler.url, ...config }).catch((cause: unknown) => cause)
    expect(error).toMatchObject({
      code: 'ERR_TENANCY_POOLER_UNSAFE',
      status: 500,
      message: expect.stringMatching(message),
      hint: expect.stringMatching(hint),
    })
    expect(await schemas()).toEqual(['public'])
    // Nor is anything left in the connection that the next client gets.
    const next = new pg.Client(pooler.url)
    await next.connect()
    const { rows } = await next.query(
      "select (select count(*)::int from pg_listening_channels()) as channels, (select count(*)::int from pg_prepared_statements) as names, (select count(*)::int from pg_settings where source = 'session') as settings",
    )
    expect(rows).toEqual([{ channels: 0, names: 0, settings: 0 }])
    await next.end()
  })
})

test('a cluster behind a pooler that nobody told of is refused, one that cannot be reached is left to its tenants', async () => {
  const url = loginAs(db.url, OWNER)
  await using pooler = await startTestPooler({ postgresUrl: url, connections: 1 })
  const clusters = {
    down: { connectionString: 'postgres://nobody@127.0.0.1:1/x' },
    pooled: { connectionString: pooler.url },
  }
  await expect(open({ url, clusters })).rejects.toMatchObject({
    code: 'ERR_TENANCY_POOLER_UNSAFE',
    message: expect.stringContaining('Cluster pooled:'),
  })
  expect(await schemas()).toEqual(['public'])
  const wall = await open({ url, clusters: { down: clusters.down } })
  await wall.run(ACME, () => wall.plugins.call('notes', 'add', 1))
  await wall.close()
})

describe('an address past the pooler', () => {
  test('is not taken for one', async () => {
    const wall = await open({ url: loginAs(db.url, OWNER) })
    await wall.run(ACME, () => wall.plugins.call('notes', 'add', 1))
    await wall.close()
  })
})

describe.skipIf(missing)(`behind PgBouncer${missing ? ` (SKIPPED: ${missing})` : ''}`, () => {
  /** Two processes' worth of walls, tenants that work at once, and one that is suspended by the other wall. */
  async function expectToWork(database: DatabaseConfig): Promise<void> {
    const wall = await open(database)
    try {
      await Promise.all(
        Array.from({ length: 40 }, (_, n) => {
          const id = TENANTS[n % 2] ?? ''
          return wall.run(id, () => wall.plugins.call('notes', 'add', n))
        }),
      )
      for (const id of TENANTS) {
        const rows = (await wall.run(id, () => wall.plugins.call('notes', 'list'))) as unknown[]
        expect(rows).toHaveLength(20)
        expect(foreignCanaries(rows, id)).toEqual([])
      }
    } finally {
      await wall.close()
    }
  }

  test.each([1, 4])('with %i connection(s), everything through it', async (poolSize) => {
    await db.query(`alter role ${OWNER.name} set search_path = ''`)
    await using pooler = await startPgBouncer({
      postgresUrl: db.url,
      poolMode: 'transaction',
      poolSize,
      users: [OWNER],
    })
    await expectToWork({ url: pooler.urlOf(OWNER), pooler: 'transaction' })
    // LISTEN would have stayed with a stranger.
    const stranger = new pg.Client(pooler.urlOf(OWNER))
    await stranger.connect()
    expect((await stranger.query('select pg_listening_channels()')).rows).toEqual([])
    await stranger.end()
  })

  test('the gate through it, the owner past it: changes of tenants are heard at once', async () => {
    const central = new pg.Pool({ connectionString: db.url, max: 1 })
    await createGateRole(central, GATE)
    await central.query(`alter role ${GATE.name} set search_path = ''`)
    await using pooler = await startPgBouncer({
      postgresUrl: db.url,
      poolMode: 'transaction',
      poolSize: 2,
      users: [GATE],
    })
    await central.end()
    const database: DatabaseConfig = {
      url: db.url,
      gateUrl: pooler.urlOf(GATE),
      pooler: 'transaction',
    }
    await expectToWork(database)
    await using wall = await open(database)
    await using other = await open(database)
    await other.run(ACME, () => other.plugins.call('notes', 'list'))
    await wall.tenants.suspend(ACME)
    await eventually(() =>
      other.run(ACME, () => false).catch((error: { code?: string }) => error.code),
    )
  })
})
