import { createTenancy, memoryTenantStore } from '@partywall/core'
import { createTestDatabase } from '@partywall/test-support'
import Cursor from 'pg-cursor'
import { expect, it } from 'vitest'
import { TenantPool } from '../index.ts'

const tenancy = createTenancy({ store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]) })
it('removes temporary tables that a function left before another checkout could find them', async () => {
  await using db = await createTestDatabase()
  for (const t of ['acme', 'globex'])
    await db.query(`create schema ${t}; create table ${t}.item (id int primary key, owner text); insert into ${t}.item values (1, '${t}');
  create function ${t}.f(x text) returns bigint language plpgsql as $$ begin create temp table if not exists scratch (owner text); insert into scratch values (x); return (select count(*) from scratch where owner <> x); end $$`)
  const pool = new TenantPool(tenancy, { connectionString: db.url, max: 1 })
  for (let i = 0; i < 3; i++)
    for (const t of ['acme', 'globex'])
      await tenancy.run(t, async () => {
        expect((await pool.query('select f($1) as n', [t])).rows).toEqual([{ n: '0' }])
        expect((await pool.query(`select f('${t}') as n`)).rows).toEqual([{ n: '0' }])
        const c = await pool.connect()
        await c.query('begin')
        expect((await c.query(`select f('${t}') as n`)).rows).toEqual([{ n: '0' }])
        expect((await c.query(`select owner from scratch`)).rows).toEqual([{ owner: t }])
        await c.query('commit')
        expect((await c.query(`select owner from scratch`)).rows).toEqual([{ owner: t }])
        c.release()
        const d = await pool.connect()
        const cur = d.query(new Cursor(`select f('${t}') as n`))
        expect(await cur.read(10)).toEqual([{ n: '0' }])
        await cur.close()
        d.release()
        const e = await pool.connect()
        const cur2 = e.query(new Cursor(`select f('${t}') as n`))
        expect(await cur2.read(10)).toEqual([{ n: '0' }])
        await cur2.close()
        e.release()
        await expect(pool.query('select * from scratch')).rejects.toThrow('does not exist')
        const g = await pool.connect()
        await g.query('begin isolation level serializable')
        await expect(g.query(`select * from scratch`)).rejects.toThrow('does not exist')
        await g.query('rollback')
        g.release()
      })
  expect(pool.totalCount).toBe(1)
  expect(pool.destroyedCount).toBe(0)
  await pool.end()
})
