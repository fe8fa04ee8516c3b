import { createTenancy, memoryTenantStore } from '@partywall/core'
import pg from 'pg'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { TenantPool } from './index.ts'

const url = 'postgres://root@127.0.0.1:5432/root'
const tenancy = createTenancy({
  store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }, { id: 'nowhere' }]),
})
let pool: TenantPool
beforeAll(async () => {
  const admin = new pg.Client(url)
  await admin.connect()
  for (const t of ['acme', 'globex'])
    await admin.query(
      `drop schema if exists ${t} cascade; create schema ${t}; create table ${t}.item (id int primary key, owner text); insert into ${t}.item values (1, '${t}')`,
    )
  await admin.end()
  pool = new TenantPool(tenancy, { connectionString: url, max: 1 })
})
afterAll(() => pool.end())
it('works', async () => {
  for (const t of ['acme', 'globex'])
    await tenancy.run(t, async () => {
      expect((await pool.query('select * from item')).rows).toEqual([{ id: 1, owner: t }])
      expect((await pool.query('select * from item where id = $1', [1])).rows).toEqual([
        { id: 1, owner: t },
      ])
      await expect(pool.query('select * from nope')).rejects.toThrow(/nope/)
      const r = (await pool.query(
        'select 1 as a; select owner from item',
      )) as unknown as pg.QueryResult[]
      expect(r.map((x) => x.rows)).toEqual([[{ a: 1 }], [{ owner: t }]])
      await pool.transaction(async (q) => {
        expect((await q('select owner from item')).rows[0]).toEqual({ owner: t })
      })
      await pool.transaction(async (q) => {
        expect((await q('select owner, $1::int as n from item', [1])).rows[0].owner).toEqual(t)
      }, 'begin isolation level serializable')
      const c = await pool.connect()
      await c.query('BEGIN')
      await c.query('SET TRANSACTION ISOLATION LEVEL SERIALIZABLE')
      expect((await c.query('show transaction_isolation')).rows).toEqual([
        { transaction_isolation: 'serializable' },
      ])
      await c.query('insert into item values (2, $1)', [t])
      await expect(c.query('insert into item values (2, $1)', [t])).rejects.toThrow()
      await c.query('rollback')
      c.release()
      expect(pool.totalCount).toBe(1)
      await expect(c.query('select 1')).rejects.toThrow('released')
    })
  await expect(tenancy.run('nowhere', () => pool.query('select 1'))).rejects.toMatchObject({
    code: 'ERR_TENANCY_SCHEMA_MISSING',
  })
  await expect(
    tenancy.run('nowhere', () => pool.query('select 1 where 1=$1', [1])),
  ).rejects.toMatchObject({ code: 'ERR_TENANCY_SCHEMA_MISSING' })
  await expect(pool.query('select 1')).rejects.toMatchObject({
    code: 'ERR_TENANCY_CONTEXT_MISSING',
  })
  expect(pool.destroyedCount).toBe(0)
  expect(pool.totalCount).toBe(1)
})
