import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import Cursor from 'pg-cursor'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { TenantPool } from './index.ts'

const TENANTS = ['acme', 'globex'] as const
const ONE = 'select * from item where id = $1'

let database: TestDatabase
let tenancy: Tenancy
let pool: TenantPool

beforeEach(async () => {
  database = await createTestDatabase()
  for (const id of TENANTS)
    await database.query(
      `create schema ${id}; create table ${id}.item (id int, owner text); insert into ${id}.item values (1, '${canary(id, 1)}')`,
    )
  tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
  pool = new TenantPool(tenancy, { connectionString: database.url, max: 1 })
})

afterEach(async () => {
  await pool.end()
  await tenancy.close()
  await database[Symbol.asyncDispose]()
})

const read = (id: string): Promise<unknown[]> =>
  tenancy.run(id, async () => (await pool.query(ONE, [1])).rows)

/** The texts that the one connection has prepared, without the scope's. */
const prepared = (id: string): Promise<string[]> =>
  tenancy.run(id, async () => {
    const { rows } = await pool.query<{ statement: string }>({
      text: "select statement from pg_prepared_statements where name ~ '^__partywall_[0-9]+$' order by 1",
      // A text with types gets no name, so that the question does not answer itself.
      types: { getTypeParser: () => String },
    })
    return rows.map(({ statement }) => statement)
  })

test('a text that comes again is prepared, once for each tenant', async () => {
  for (let n = 0; n < 5; n++)
    for (const id of TENANTS) expect(await read(id)).toEqual([{ id: 1, owner: canary(id, 1) }])
  expect(await prepared('acme')).toEqual([ONE, ONE])
})

test('columns that change under a prepared statement are seen at once, in the tenant that changed and in no other', async () => {
  for (let n = 0; n < 3; n++) for (const id of TENANTS) await read(id)
  await database.query('alter table acme.item add column note text')
  expect(await read('acme')).toEqual([{ id: 1, owner: canary('acme', 1), note: null }])
  expect(await read('globex')).toEqual([{ id: 1, owner: canary('globex', 1) }])
  expect(await read('acme')).toEqual([{ id: 1, owner: canary('acme', 1), note: null }])
  expect([pool.totalCount, pool.destroyedCount]).toEqual([1, 0])
})

test('a change of columns under a held BEGIN, and under a cursor, is no error either', async () => {
  for (let n = 0; n < 3; n++) await read('acme')
  await database.query('alter table acme.item add column note text')
  await tenancy.run('acme', () =>
    pool.transaction(async (query) => {
      expect((await query(ONE, [1])).rows).toHaveLength(1)
      expect((await query('show transaction_isolation')).rows).toEqual([
        { transaction_isolation: 'repeatable read' },
      ])
    }, 'begin isolation level repeatable read'),
  )
  await database.query('alter table acme.item add column more text')
  await tenancy.run('acme', async () => {
    const client = await pool.connect()
    const cursor = client.query(new Cursor(ONE, [1]))
    expect(await cursor.read(5)).toEqual([
      { id: 1, owner: canary('acme', 1), note: null, more: null },
    ])
    await cursor.close()
    client.release()
  })
  expect(pool.destroyedCount).toBe(0)
})

test('inside a transaction the error of a change of columns is the caller’s, and the next one works', async () => {
  for (let n = 0; n < 3; n++) await read('acme')
  await tenancy.run('acme', async () => {
    const client = await pool.connect()
    await client.query('begin')
    await client.query('select 1')
    await database.query('alter table acme.item add column note text')
    await expect(client.query(ONE, [1])).rejects.toMatchObject({ code: '0A000' })
    await client.query('rollback')
    expect((await client.query(ONE, [1])).rows).toHaveLength(1)
    client.release()
  })
  expect(await read('acme')).toHaveLength(1)
})

test('statements that the session has forgotten are prepared anew', async () => {
  for (let n = 0; n < 3; n++) await read('acme')
  await database.query(
    `create function acme.forget() returns void language plpgsql as $$ declare n text; begin
       for n in select name from pg_prepared_statements where name ~ '^__partywall_[0-9]+$' loop execute format('deallocate %I', n); end loop; end $$`,
  )
  await tenancy.run('acme', () => pool.query('select forget()'))
  expect(await read('acme')).toEqual([{ id: 1, owner: canary('acme', 1) }])
  await tenancy.run('acme', () => pool.query('deallocate all'))
  expect(await read('acme')).toEqual([{ id: 1, owner: canary('acme', 1) }])
  expect(await read('globex')).toEqual([{ id: 1, owner: canary('globex', 1) }])
})

test('a statement that writes runs once, also when it had to be prepared anew', async () => {
  const write = (): Promise<unknown> =>
    tenancy.run('acme', () => pool.query('insert into item values (2, $1) returning *', ['new']))
  for (let n = 0; n < 3; n++) await write()
  await database.query('alter table acme.item add column note text')
  await write()
  const { rows } = await database.query('select count(*)::int as n from acme.item where id = 2')
  expect(rows).toEqual([{ n: 4 }])
})

test('as many are kept as the option says, and none with off', async () => {
  for (const [preparedStatements, kept] of [
    [2, 2],
    ['off', 0],
  ] as const) {
    await pool.end()
    pool = new TenantPool(tenancy, {
      connectionString: database.url,
      max: 1,
      preparedStatements,
    })
    for (let n = 0; n < 4; n++)
      for (let column = 1; column <= 2; column++)
        for (let again = 0; again < 3; again++)
          await tenancy.run('acme', () => pool.query(`select ${column}, $1::int`, [n]))
    for (let again = 0; again < 3; again++) await read('acme')
    expect(await prepared('acme')).toHaveLength(kept)
  }
  for (const bad of [0, -1, 1.5, 'on'])
    expect(() => new TenantPool(tenancy, { preparedStatements: bad as number })).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
})
