import { randomBytes } from 'node:crypto'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { assertPooler, TenantPool } from '@partywall/postgres'
import { canary, createTestDatabase, startTestPooler } from '@partywall/test-support'
import pg from 'pg'
import { describe, expect, it } from 'vitest'
import { createPooledWorld } from './pooler-fixture.ts'
import { type PooledGround, residueRows, transactionRows } from './pooler-suite.ts'

/* Behind the pooler of the tests, which needs nothing to be installed: where there is no PgBouncer, this is what guards the rows. */
const GROUNDS: readonly PooledGround[] = [
  { by: 'tests', connections: 2, role: 'none' },
  { by: 'tests', connections: 1, role: 'per-tenant' },
]

it('D13 a pool that was not told of it is refused', async () => {
  await using world = await createPooledWorld({
    by: 'tests',
    counts: { acme: 3, globex: 5 },
    connections: 1,
  })
  await expect(assertPooler(world.openPool({ pooler: 'none' }))).rejects.toMatchObject({
    code: 'ERR_TENANCY_POOLER_UNSAFE',
  })
  expect(await assertPooler(world.openPool())).toMatchObject({ sessionState: 'leaks' })
})

describe.each(GROUNDS)('D13 transactions, $connections connection(s), role $role', (ground) => {
  transactionRows(ground)
})
describe.each(GROUNDS)('D13 residue, $connections connection(s), role $role', (ground) => {
  residueRows(ground)
})

it.each([1, 2])(
  'D10 D13 the tenant that a stranger has set is nobody, for rows of all tenants in one table (%i)',
  async (connections) => {
    const login = `rows_${randomBytes(4).toString('hex')}`
    await using db = await createTestDatabase()
    await db.query(`create role ${login} login password 'secret'; alter role ${login} set search_path = '';
      create schema pooled; grant usage on schema pooled to ${login};
      create table pooled.item (tenant_id text, id int, owner text);
      insert into pooled.item select t, n, 'canary:' || t || ':' || n from unnest(array['acme', 'globex']) t, generate_series(1, 3) n;
      alter table pooled.item enable row level security; alter table pooled.item force row level security;
      create policy tenant on pooled.item using (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
      grant select on pooled.item to ${login}`)
    const url = Object.assign(new URL(db.url), { username: login, password: 'secret' }).href
    try {
      await using pooler = await startTestPooler({ postgresUrl: url, connections })
      await using tenancy = createTenancy({
        store: memoryTenantStore(['acme', 'globex'].map((id) => ({ id, isolation: 'row' }))),
      })
      const pool = new TenantPool(tenancy, {
        connectionString: pooler.url,
        pooler: 'transaction',
        rowSchema: 'pooled',
        sharedSchemas: [],
      })
      const stranger = new pg.Client(pooler.url)
      await stranger.connect()
      const own = [1, 2, 3].map((n) => ({ owner: canary('acme', n) }))
      const ask = (text: string): Promise<pg.QueryResult[]> =>
        tenancy.run('acme', async () => [await pool.query(text)].flat())
      for (const text of ['commit', 'rollback', 'select 1; rollback']) {
        const leave = async (): Promise<void> => {
          for (let n = 0; n < connections; n++)
            await stranger.query("select set_config('app.tenant_id', 'globex', false)")
        }
        await leave()
        expect((await ask('select owner from item order by id'))[0]?.rows).toEqual(own)
        await leave()
        const results = await ask(`${text}; select owner from pooled.item`)
        expect(results.at(-1)?.rows, text).toEqual([])
      }
      await stranger.end()
      await pool.end()
    } finally {
      await db.query(`drop owned by ${login}; drop role ${login}`)
    }
  },
)
