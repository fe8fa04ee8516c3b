import { randomBytes } from 'node:crypto'
import { createTenancy, createTenant, memoryTenantStore, type Tenancy } from '@partywall/core'
import {
  createGateRole,
  createMigration,
  createTenantRole,
  createTenantSchema,
  migrateTenant,
  TenantPool,
} from '@partywall/postgres'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

// Roles belong to the whole server, which other test files share.
const salt = randomBytes(4).toString('hex')
const ACME = `acme-${salt}`
const GLOBEX = `globex-${salt}`
const HOMELESS = `homeless-${salt}`
const GATE = `gate_${salt}`
const TENANTS = [ACME, GLOBEX] as const
const DENIED = expect.objectContaining({ code: '42501' })

let database: TestDatabase
let central: pg.Pool
let tenancy: Tenancy
let pool: TenantPool

const as = <T>(id: string, fn: () => T): Promise<Awaited<T>> => tenancy.run(id, fn)
const ownersOf = async (sql: string): Promise<unknown[]> =>
  (await pool.query<{ owner: string }>(sql)).rows.map(({ owner }) => owner)

beforeAll(async () => {
  database = await createTestDatabase()
  central = new pg.Pool({ connectionString: database.url, max: 2 })
  tenancy = createTenancy({
    store: memoryTenantStore([...TENANTS, HOMELESS].map((id) => ({ id }))),
  })
  await central.query(
    "create table public.rates (owner text); insert into public.rates values ('everybody')",
  )
  await createGateRole(central, { name: GATE, password: 'secret' })
  for (const id of TENANTS) {
    const tenant = createTenant({ id })
    await createTenantSchema(central, tenant)
    await central.query(
      `create table "${id}".item (id int primary key, owner text); insert into "${id}".item values (1, '${canary(id, 1)}')`,
    )
    await createTenantRole(central, tenant, { gate: GATE })
  }
  await createTenantSchema(central, createTenant({ id: HOMELESS }))
  const url = new URL(database.url)
  url.username = GATE
  url.password = 'secret'
  pool = new TenantPool(tenancy, { connectionString: url.href, max: 1, role: 'per-tenant' })
})

afterAll(async () => {
  await pool.end()
  await tenancy.close()
  for (const role of [...TENANTS.map((id) => `"tenant-${id}"`), GATE])
    await central.query(`drop owned by ${role} cascade; drop role ${role}`)
  await central.end()
  await database[Symbol.asyncDispose]()
})

describe('D12 role: per-tenant', () => {
  test('each tenant has its own rows, in every form of a statement, over one connection', async () => {
    for (let n = 0; n < 3; n++)
      for (const id of TENANTS)
        await as(id, async () => {
          const own = [canary(id, 1)]
          expect(await ownersOf('select owner from item')).toEqual(own)
          expect((await pool.query('select owner from item where id = $1', [1])).rows).toEqual([
            { owner: own[0] },
          ])
          const both = (await pool.query(
            'select owner from item; select current_user::text as owner',
          )) as unknown as pg.QueryResult[]
          expect(both.map(({ rows }) => rows)).toEqual([
            [{ owner: own[0] }],
            [{ owner: `tenant-${id}` }],
          ])
          await pool.transaction(async (query) => {
            expect((await query('select owner from item')).rows).toEqual([{ owner: own[0] }])
            await query('update item set owner = owner where id = $1', [1])
          }, 'begin isolation level serializable')
          const client = await pool.connect()
          const cursor = client.query(new Cursor('select owner from item'))
          expect(await cursor.read(5)).toEqual([{ owner: own[0] }])
          await cursor.close()
          client.release()
        })
    expect([pool.totalCount, pool.destroyedCount]).toEqual([1, 0])
  })

  test.each<[string, (other: string) => string]>([
    ['a qualified name', (other) => `select owner from "${other}".item`],
    ['a write', (other) => `insert into "${other}".item values (9, 'x')`],
    ['a path of its own', (other) => `set local search_path to "${other}"; select owner from item`],
    [
      'a path of its own in a transaction',
      (other) => `begin; set local search_path to "${other}"; select owner from item; commit`,
    ],
    ['a write into a shared schema', () => "insert into public.rates values ('x')"],
    ['a table in another schema', (other) => `create table "${other}".planted (id int)`],
    ['dropping a table', (other) => `drop table "${other}".item`],
  ])('D12 the server refuses %s of another tenant', async (_, sql) => {
    for (const [id, other] of [
      [ACME, GLOBEX],
      [GLOBEX, ACME],
    ] as const) {
      await expect(as(id, () => pool.query(sql(other)))).rejects.toThrow(
        /permission denied|must be owner|does not exist/,
      )
      expect(await as(other, () => ownersOf('select owner from item'))).toEqual([canary(other, 1)])
    }
    expect((await central.query('select owner from public.rates')).rows).toEqual([
      { owner: 'everybody' },
    ])
  })

  test('shared tables are read', async () => {
    for (const id of TENANTS)
      expect(await as(id, () => ownersOf('select owner from rates'))).toEqual(['everybody'])
  })

  test('D12 a statement without a scope finds a gate without privileges', async () => {
    for (const sql of [`select owner from "${ACME}".item`, 'select owner from public.rates'])
      await expect(pool.central.query(sql)).rejects.toEqual(DENIED)
    // After the scope has ended inside a text, too.
    await expect(
      as(ACME, () => pool.query(`commit; select owner from "${ACME}".item`)),
    ).rejects.toEqual(DENIED)
    expect(await as(GLOBEX, () => ownersOf('select owner from item'))).toEqual([canary(GLOBEX, 1)])
  })

  test('a chained transaction is in its tenant again', async () => {
    await as(ACME, async () => {
      const client = await pool.connect()
      await client.query('begin')
      await client.query('select 1')
      await client.query('commit and chain')
      expect((await client.query('select owner, current_user::text as me from item')).rows).toEqual(
        [{ owner: canary(ACME, 1), me: `tenant-${ACME}` }],
      )
      await client.query('rollback')
      client.release()
    })
  })

  test('a tenant whose role is missing is refused before its statement, and costs no connection', async () => {
    const before = pool.destroyedCount
    for (let n = 0; n < 2; n++)
      await expect(
        as(HOMELESS, () => pool.query("insert into public.rates values ('x')")),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_SCOPE_FAILED' })
    expect(await as(ACME, () => ownersOf('select owner from item'))).toEqual([canary(ACME, 1)])
    expect(pool.destroyedCount).toBe(before)
  })

  test('P7 a migration runs as its tenant: it cannot write another one, and what it makes is its own', async () => {
    const made = createMigration('001', 'create table note (owner text)')
    const strays = createMigration(
      '002',
      `insert into "${GLOBEX}".item values (7, 'acme was here')`,
    )
    await as(ACME, () => migrateTenant(tenancy, pool, { name: 'notes', migrations: [made] }))
    await expect(
      as(ACME, () => migrateTenant(tenancy, pool, { name: 'notes', migrations: [made, strays] })),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_MIGRATION_FAILED', cause: DENIED })
    expect(await as(ACME, () => ownersOf('select owner from note'))).toEqual([])
    expect(await as(GLOBEX, () => ownersOf('select owner from item'))).toEqual([canary(GLOBEX, 1)])
  })

  test('tables that the owner of the schema adds later are the tenant’s as well', async () => {
    await central.query(`create table "${ACME}".later (owner text default 'later')`)
    await as(ACME, async () => {
      await pool.query('insert into later default values')
      expect(await ownersOf('select owner from later')).toEqual(['later'])
    })
  })
})

describe('createGateRole and createTenantRole', () => {
  test('are safe to repeat and to race', async () => {
    expect(await createGateRole(central, { name: GATE, password: 'other' })).toBe(false)
    const racer = createTenant({ id: `racer-${salt}` })
    await createTenantSchema(central, racer)
    const outcomes = await Promise.all(
      [1, 2, 3].map(() => createTenantRole(central, racer, { gate: GATE })),
    )
    expect(outcomes.filter(Boolean)).toHaveLength(1)
    await central.query(
      `drop schema "racer-${salt}"; drop owned by "tenant-racer-${salt}"; drop role "tenant-racer-${salt}"`,
    )
  })

  test('roles of several tenants may be made at once, and take over what is in their schemas', async () => {
    const tenants = Array.from({ length: 6 }, (_, n) => createTenant({ id: `many-${n}-${salt}` }))
    for (const tenant of tenants) {
      await createTenantSchema(central, tenant)
      await central.query(
        `set search_path to "${tenant.id}"; create type mood as enum ('fine'); create table note (id serial primary key, mood mood); create view notes as select * from note;
         create function one() returns int language sql as 'select 1'; create sequence loose; reset search_path`,
      )
    }
    await Promise.all(
      tenants.map((tenant) =>
        createTenantRole(central, tenant, { gate: GATE, ownership: 'tenant' }),
      ),
    )
    for (const { id } of tenants) {
      const { rows } = await central.query<{ owner: string }>(
        `select distinct pg_get_userbyid(owner) as owner from (
           select relowner as owner from pg_class where relnamespace = $1::regnamespace and relkind in ('r', 'v', 'S')
           union all select proowner from pg_proc where pronamespace = $1::regnamespace
           union all select typowner from pg_type where typnamespace = $1::regnamespace and typtype = 'e') o`,
        [`"${id}"`],
      )
      expect(rows).toEqual([{ owner: `tenant-${id}` }])
    }
    for (const { id } of tenants)
      await central.query(
        `drop schema "${id}" cascade; drop owned by "tenant-${id}"; drop role "tenant-${id}"`,
      )
  })

  test('refuse a role that is no gate, a bad name, and a tenant without a schema', async () => {
    const { rows } = await central.query<{ me: string }>('select current_user::text as me')
    await expect(
      createGateRole(central, { name: rows[0]?.me ?? '', password: 'x' }),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_OPTION_INVALID' })
    await expect(createGateRole(central, { name: 'a"b', password: 'x' })).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
    })
    await expect(
      createTenantRole(central, createTenant({ id: `none-${salt}` }), { gate: GATE }),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_SCHEMA_MISSING' })
    expect(() => new TenantPool(tenancy, { role: 'tenant' as never })).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  })
})
