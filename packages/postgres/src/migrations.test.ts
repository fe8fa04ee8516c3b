import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  createMigration,
  loadMigrations,
  type MigrationSet,
  migrateTenant,
  TenantPool,
} from './index.ts'

const TENANTS = ['acme', 'globex'] as const
const tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
let db: TestDatabase
let pool: TenantPool

beforeEach(async () => {
  db = await createTestDatabase()
  for (const id of TENANTS) await db.query(`create schema ${id}`)
  pool = new TenantPool(tenancy, { connectionString: db.url, max: 4 })
  return async () => {
    await pool.end()
    await db[Symbol.asyncDispose]()
  }
})
afterEach(() => {
  // Neither a failing migration nor a race may cost a connection.
  expect(pool.destroyedCount).toBe(0)
})

const ORDERS = createMigration(
  '001-orders',
  "create table orders (id int primary key, owner text); insert into orders values (1, 'canary:' || current_schema() || ':1');",
)
const ITEMS = createMigration(
  '002-items',
  'create table items (id int);\ncreate index on items (id)',
)
const set = (migrations: MigrationSet['migrations'], requires?: string[]): MigrationSet => ({
  name: 'shop',
  migrations,
  requires,
})
const migrate = (id: string, migrations: MigrationSet): Promise<string[]> =>
  tenancy.run(id, () => migrateTenant(tenancy, pool, migrations))
const tablesOf = async (id: string): Promise<string[]> =>
  (
    await db.query<{ tablename: string }>(
      'select tablename from pg_tables where schemaname = $1 order by 1',
      [id],
    )
  ).rows.map(({ tablename }) => tablename)
const ledgerOf = async (id: string): Promise<string[]> =>
  (
    await db.query<{ id: string }>(`select id from ${id}.partywall_migrations order by position`)
  ).rows.map((row) => row.id)

describe('migrateTenant', () => {
  it('applies what is pending, in the tenant of the caller alone, and repeats harmlessly', async () => {
    expect(await migrate('acme', set([ORDERS]))).toEqual(['001-orders'])
    expect(await tablesOf('globex')).toEqual([])
    expect(await migrate('acme', set([ORDERS, ITEMS]))).toEqual(['002-items'])
    expect(await migrate('acme', set([ORDERS, ITEMS]))).toEqual([])
    expect(await migrate('globex', set([ORDERS, ITEMS]))).toEqual(['001-orders', '002-items'])
    for (const id of TENANTS) {
      expect(await tablesOf(id)).toEqual(['items', 'orders', 'partywall_migrations'])
      expect((await db.query(`select owner from ${id}.orders`)).rows).toEqual([
        { owner: `canary:${id}:1` },
      ])
    }
    expect(await tablesOf('public')).toEqual([])
  })

  it('keeps sets of different owners apart', async () => {
    await migrate('acme', { name: 'shop', migrations: [ORDERS] })
    expect(
      await migrate('acme', {
        name: 'billing',
        migrations: [createMigration('001-orders', 'create table bills (id int)')],
      }),
    ).toEqual(['001-orders'])
    expect(await migrate('acme', { name: 'shop', migrations: [ORDERS, ITEMS] })).toEqual([
      '002-items',
    ])
  })

  it('survives racers: each migration once, everybody happy', async () => {
    const results = await Promise.all(
      Array.from({ length: 6 }, (_, n) => migrate(TENANTS[n % 2] ?? 'acme', set([ORDERS, ITEMS]))),
    )
    expect(results.filter(({ length }) => length === 2)).toHaveLength(2)
    for (const id of TENANTS) expect(await ledgerOf(id)).toEqual(['001-orders', '002-items'])
  })

  it.each([
    ['edited', [createMigration('001-orders', `${ORDERS.sql} `), ITEMS], 'was edited'],
    ['removed from the front', [ITEMS], 'was removed'],
    ['removed from the end', [ORDERS], 'was removed'],
    [
      'preceded by a new one',
      [createMigration('000-new', 'select 1'), ORDERS, ITEMS],
      'is preceded by a new one',
    ],
    ['moved', [ITEMS, ORDERS], 'is preceded by a new one'],
  ])('refuses a set in which an applied migration was %s', async (_how, migrations, reason) => {
    await migrate('acme', set([ORDERS, ITEMS]))
    await expect(migrate('acme', set(migrations))).rejects.toMatchObject({
      code: 'ERR_TENANCY_MIGRATION_CHANGED',
      message: expect.stringContaining(reason),
    })
    expect(await ledgerOf('acme')).toEqual(['001-orders', '002-items'])
    expect(await tablesOf('globex')).toEqual([])
  })

  it('takes CRLF and LF for the same text', async () => {
    const lf = createMigration('001', 'create table a (\n id int\n);\n')
    const crlf = createMigration('001', 'create table a (\r\n id int\r\n);\r\n')
    expect(crlf.checksum).toBe(lf.checksum)
    await migrate('acme', set([lf]))
    expect(await migrate('acme', set([crlf]))).toEqual([])
  })

  it('rolls everything back when one fails, and goes on from there when it is mended', async () => {
    const broken = createMigration(
      '002-items',
      'create table items (id int); create table items (id int)',
    )
    const error = await migrate('acme', set([ORDERS, broken])).catch((cause: unknown) => cause)
    expect(error).toMatchObject({
      code: 'ERR_TENANCY_MIGRATION_FAILED',
      tenantId: 'acme',
      cause: { code: '42P07' },
    })
    expect(await tablesOf('acme')).toEqual([])
    expect(await migrate('acme', set([ORDERS, ITEMS]))).toEqual(['001-orders', '002-items'])
    await expect(
      migrate('acme', set([ORDERS, ITEMS, createMigration('003', 'select nothing')])),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_MIGRATION_FAILED' })
    expect(await ledgerOf('acme')).toEqual(['001-orders', '002-items'])
  })

  it.each(['commit', 'rollback', 'commit; begin', 'commit and chain', 'rollback; begin; select 1'])(
    'refuses a text that holds a %s: it is not recorded as applied',
    async (ending) => {
      await migrate('acme', set([ORDERS]))
      await expect(
        migrate(
          'acme',
          set([ORDERS, createMigration('002', `create table early (id int); ${ending};`)]),
        ),
      ).rejects.toMatchObject({
        code: 'ERR_TENANCY_MIGRATION_FAILED',
      })
      expect(await ledgerOf('acme')).toEqual(['001-orders'])
      expect(await tablesOf('globex')).toEqual([])
    },
  )

  it.each(['globex', 'public'])(
    'refuses a migration that points the path at %s, and leaves nothing of it',
    async (schema) => {
      const away = createMigration(
        '002',
        `set local search_path to ${schema}; create table strayed (id int)`,
      )
      await migrate('globex', set([ORDERS]))
      await migrate('acme', set([ORDERS]))
      await expect(migrate('acme', set([ORDERS, away]))).rejects.toMatchObject({
        code: 'ERR_TENANCY_MIGRATION_FAILED',
      })
      expect(await ledgerOf('acme')).toEqual(['001-orders'])
      expect(await ledgerOf('globex')).toEqual(['001-orders'])
      const { rows } = await db.query("select 1 from pg_class where relname = 'strayed'")
      expect(rows).toEqual([])
    },
  )

  it('checks what the set requires of the schema of the tenant, not of a shared one', async () => {
    await db.query('create table public.rates (id int, value int)')
    await expect(
      migrate('acme', set([ORDERS], ['orders', 'orders.total', 'rates'])),
    ).rejects.toMatchObject({
      code: 'ERR_TENANCY_MIGRATION_FAILED',
      message: expect.stringContaining('lacks orders.total, rates'),
    })
    expect(await tablesOf('acme')).toEqual([])
    expect(await migrate('acme', set([ORDERS], ['orders', 'orders.owner']))).toEqual(['001-orders'])
  })

  it('needs a tenant', async () => {
    await expect(migrateTenant(tenancy, pool, set([ORDERS]))).rejects.toMatchObject({
      code: 'ERR_TENANCY_CONTEXT_MISSING',
    })
  })
})

describe('loadMigrations', () => {
  it('reads *.sql in the order of the names, and nothing else', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'partywall-migrations-'))
    try {
      for (const name of ['010-c.sql', '002-b.sql', '001 a%20#.sql', 'README.md', '003.sql.bak'])
        await writeFile(join(folder, name), `select '${name}'`)
      const found = await loadMigrations(pathToFileURL(folder))
      expect(found.map(({ id, sql }) => [id, sql])).toEqual([
        ['001 a%20#', "select '001 a%20#.sql'"],
        ['002-b', "select '002-b.sql'"],
        ['010-c', "select '010-c.sql'"],
      ])
      expect(found).toEqual(await loadMigrations(pathToFileURL(`${folder}/`)))
    } finally {
      await rm(folder, { recursive: true })
    }
    await expect(loadMigrations(pathToFileURL(folder))).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
    })
  })
})
