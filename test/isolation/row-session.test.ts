import { randomBytes } from 'node:crypto'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { TenantPool } from '@partywall/postgres'
import { canary, createTestDatabase } from '@partywall/test-support'
import type pg from 'pg'
import { expect, it } from 'vitest'

it('D10 the tenant that a function has set for the session is nobody for the next one', async () => {
  const login = `rows_${randomBytes(4).toString('hex')}`
  await using db = await createTestDatabase()
  await db.query(`create role ${login} login password 'secret';
    create schema pooled; grant usage on schema pooled to ${login};
    create table pooled.item (tenant_id text, id int, owner text);
    insert into pooled.item select t, n, 'canary:' || t || ':' || n from unnest(array['acme', 'globex']) t, generate_series(1, 3) n;
    alter table pooled.item enable row level security; alter table pooled.item force row level security;
    create policy tenant on pooled.item using (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
    grant select on pooled.item to ${login};
    create function pooled.stay(who text) returns void language plpgsql as $$ begin perform set_config('app.tenant_id', who, false); end $$`)
  const url = Object.assign(new URL(db.url), { username: login, password: 'secret' }).href
  try {
    await using tenancy = createTenancy({
      store: memoryTenantStore(['acme', 'globex'].map((id) => ({ id, isolation: 'row' }))),
    })
    const pool = new TenantPool(tenancy, {
      connectionString: url,
      max: 1,
      rowSchema: 'pooled',
      sharedSchemas: [],
    })
    const ask = (id: string, text: string): Promise<pg.QueryResult[]> =>
      tenancy.run(id, async () => [await pool.query(text)].flat())
    for (const text of ['commit', 'rollback']) {
      await ask('globex', "select stay('globex')")
      expect((await ask('acme', 'select owner from item order by id'))[0]?.rows).toEqual(
        [1, 2, 3].map((n) => ({ owner: canary('acme', n) })),
      )
      await ask('globex', "select stay('globex')")
      const results = await ask('acme', `${text}; select owner from pooled.item`)
      expect(results.at(-1)?.rows, text).toEqual([])
    }
    // The same connection all the time.
    expect([pool.totalCount, pool.destroyedCount]).toEqual([1, 0])
    await pool.end()
  } finally {
    await db.query(`drop owned by ${login}; drop role ${login}`)
  }
})
