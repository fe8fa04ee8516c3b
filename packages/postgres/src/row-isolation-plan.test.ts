import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { ROW_FINDINGS, type RowIsolationFindingCode } from './row-isolation/findings.ts'
import { applyRowIsolation } from './row-isolation-apply.ts'
import { planRowIsolation, type RowIsolationOptions } from './row-isolation-plan.ts'

const salt = randomBytes(4).toString('hex')
/** Who the application is: no superuser, and no policy is lifted for it. */
const APP = `row_app_${salt}`

let db: TestDatabase
let central: pg.Pool
let version: number

beforeEach(async () => {
  db = await createTestDatabase()
  central = new pg.Pool({ connectionString: db.url, max: 2 })
  const { rows } = await db.query<{ version: number }>(
    "select current_setting('server_version_num')::int as version",
  )
  version = rows[0]?.version ?? 0
  await db.query(`create schema shop; create role ${APP}; grant usage on schema shop to ${APP};
    alter default privileges in schema shop grant all on tables to ${APP}; alter default privileges in schema shop grant usage on sequences to ${APP}`)
})
afterEach(async () => {
  await central.end()
  await db.query(`drop owned by ${APP}; drop role ${APP}`)
  await db[Symbol.asyncDispose]()
})

const plan = (options: Partial<RowIsolationOptions> = {}) =>
  planRowIsolation(central, { schema: 'shop', ...options })
const isolate = (options: Partial<RowIsolationOptions> = {}) =>
  applyRowIsolation(central, { schema: 'shop', ...options })

/** Runs statements as the application, in a tenant, or outside of every tenant. Their outcomes: rows, or the SQLSTATE. */
async function as(tenantId: string | undefined, ...statements: string[]): Promise<unknown[]> {
  const client = await central.connect()
  const outcomes: unknown[] = []
  try {
    await client.query(`begin; set local search_path to shop, pg_temp; set local role ${APP}`)
    if (tenantId !== undefined)
      await client.query("select set_config('app.tenant_id', $1, true)", [tenantId])
    for (const sql of statements) {
      await client.query('savepoint s')
      try {
        outcomes.push((await client.query(sql)).rows)
      } catch (error) {
        if (!(error instanceof pg.DatabaseError)) throw error
        outcomes.push(error.code)
        await client.query('rollback to s')
      }
    }
    await client.query('commit')
  } finally {
    client.release()
  }
  return outcomes
}

/** The keys, foreign keys and unique indexes of the schema, as Postgres prints them. */
async function definitions(): Promise<string[]> {
  const { rows } = await db.query<{ definition: string }>(`
    select k.conrelid::regclass || ' ' || k.conname || ' ' || pg_get_constraintdef(k.oid) as definition from pg_constraint k
    where k.connamespace = 'shop'::regnamespace and k.contype in ('p', 'u', 'x', 'f') and k.conparentid = 0
    union all
    select pg_get_indexdef(i.indexrelid) from pg_index i join pg_class c on c.oid = i.indexrelid
    where c.relnamespace = 'shop'::regnamespace and i.indisunique and not c.relispartition and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
    order by 1`)
  return rows.map(({ definition }) => definition)
}

/** Looks at the catalogue with other eyes than the plan's. */
async function expectIsolated(shared: readonly string[] = []): Promise<void> {
  const { rows } = await db.query(
    `select c.oid::regclass::text as table, c.relrowsecurity as enabled, c.relforcerowsecurity as forced,
      (select count(*)::int from pg_policy p where p.polrelid = c.oid and p.polpermissive and p.polwithcheck is not null and p.polqual is not null and p.polcmd = '*') as policies,
      (select count(*)::int from pg_index i where i.indrelid = c.oid and (i.indisunique or i.indisexclusion) and not exists (
        select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1]))) as narrow_keys,
      has_table_privilege($1, c.oid, 'truncate') or has_table_privilege($1, c.oid, 'references') or has_table_privilege($1, c.oid, 'trigger') or has_any_column_privilege($1, c.oid, 'references') as dangerous,
      has_table_privilege($1, c.oid, 'select') as usable
    from pg_class c where c.relnamespace = 'shop'::regnamespace and c.relkind in ('r', 'p') and c.relname <> all($2) order by 1`,
    [APP, shared],
  )
  for (const row of rows)
    expect(row).toEqual({
      table: row['table'],
      enabled: true,
      forced: true,
      policies: 1,
      narrow_keys: 0,
      dangerous: false,
      usable: true,
    })
  const { rows: loose } = await db.query(
    `select k.conname from pg_constraint k join pg_class a on a.oid = k.conrelid join pg_class b on b.oid = k.confrelid
    where k.contype = 'f' and a.relname <> all($1) and b.relname <> all($1) and not exists (
      select from unnest(k.conkey, k.confkey) n (own, other) join pg_attribute x on x.attrelid = k.conrelid and x.attnum = n.own
      join pg_attribute y on y.attrelid = k.confrelid and y.attnum = n.other where x.attname = 'tenant_id' and y.attname = 'tenant_id')`,
    [shared],
  )
  expect(loose).toEqual([])
  expect((await plan({ sharedTables: shared })).statements).toEqual([])
}

describe('a table', () => {
  it('takes its tenant from the statement, keeps tenants apart with identical ids, and refuses a row of no tenant', async () => {
    await db.query(
      'create table shop.item (id int primary key, email text unique, note text); create sequence shop.loose',
    )
    const { tables, statements, findings } = await isolate()
    expect(tables).toEqual(['shop.item'])
    expect(findings).toEqual([])
    expect(statements.length).toBeGreaterThan(5)
    await expectIsolated()
    for (const id of ['acme', 'globex'])
      expect(
        await as(
          id,
          `insert into item values (1, 'a@b.c', '${canary(id, 1)}') returning tenant_id`,
        ),
      ).toEqual([[{ tenant_id: id }]])
    for (const id of ['acme', 'globex'])
      expect(await as(id, 'select id, note from item')).toEqual([[{ id: 1, note: canary(id, 1) }]])
    // Without a tenant, and after one: the setting is '' then.
    const client = await central.connect()
    await client.query("begin; select set_config('app.tenant_id', 'acme', true); commit")
    expect(
      (await client.query("select current_setting('app.tenant_id', true) as left")).rows,
    ).toEqual([{ left: '' }])
    for (const owner of [true, false]) {
      await client.query(owner ? 'reset role' : `set role ${APP}`)
      await expect(client.query('insert into shop.item values (2)')).rejects.toMatchObject({
        code: owner ? '23502' : '42501',
      })
      await expect(
        client.query("insert into shop.item (id, tenant_id) values (2, '')"),
      ).rejects.toMatchObject({ code: owner ? '23514' : '42501' })
    }
    await client.query('reset role')
    client.release()
    expect(await as(undefined, 'select * from item')).toEqual([[]])
  })

  it('keeps what its keys are made of', async () => {
    await db.query(`create collation shop.plain from "C";
      create table shop.item (
        id int, code text, note text, a int, b int,
        constraint item_pk primary key (id) include (note) with (fillfactor = 70),
        constraint "Code ""twice""" unique nulls not distinct (code) deferrable initially deferred,
        constraint pair unique (a, b) include (note) deferrable);
      comment on constraint pair on shop.item is 'it''s a pair'; comment on index shop.item_pk is 'the \\ key';
      create unique index by_note on shop.item (lower(note) collate shop.plain text_pattern_ops desc nulls last, a) include (b) nulls not distinct with (fillfactor = 60) where a > 0;
      create unique index "on only shop.item using btree (" on shop.item (b) where code <> 'x (USING btree ('; create unique index walked on shop.item (a, b);
      create index plain on shop.item (note);
      alter index shop.by_note alter column 1 set statistics 77;
      alter table shop.item cluster on walked;
      alter table shop.item alter column b set not null; create unique index identity on shop.item (b);
      alter table shop.item replica identity using index identity`)
    await isolate()
    await expectIsolated()
    expect(await definitions()).toEqual(
      [
        'shop.item item_pk PRIMARY KEY (tenant_id, id) INCLUDE (note)',
        'shop.item Code "twice" UNIQUE NULLS NOT DISTINCT (tenant_id, code) DEFERRABLE INITIALLY DEFERRED',
        'shop.item pair UNIQUE (tenant_id, a, b) INCLUDE (note) DEFERRABLE',
        `CREATE UNIQUE INDEX by_note ON shop.item USING btree (tenant_id, lower(note) COLLATE shop.plain text_pattern_ops DESC NULLS LAST, a) INCLUDE (b) NULLS NOT DISTINCT WITH (fillfactor='60') WHERE (a > 0)`,
        `CREATE UNIQUE INDEX "on only shop.item using btree (" ON shop.item USING btree (tenant_id, b) WHERE (code <> 'x (USING btree ('::text)`,
        'CREATE UNIQUE INDEX identity ON shop.item USING btree (tenant_id, b)',
        'CREATE UNIQUE INDEX walked ON shop.item USING btree (tenant_id, a, b)',
      ].sort(),
    )
    const { rows } = await db.query(`select
      (select reloptions from pg_class where relname = 'item_pk') as options,
      (select string_agg(obj_description(oid, 'pg_constraint'), '') from pg_constraint where connamespace = 'shop'::regnamespace) as pair,
      obj_description('shop.item_pk'::regclass, 'pg_class') as pk,
      (select indexrelid::regclass::text from pg_index where indisclustered) as clustered,
      (select indexrelid::regclass::text from pg_index where indisreplident) as replica,
      (select attnum || '=' || attstattarget from pg_attribute where attrelid = 'shop.by_note'::regclass and attstattarget > 0) as statistics,
      (select count(*)::int from pg_index where indrelid = 'shop.item'::regclass) as indexes`)
    expect(rows).toEqual([
      {
        options: ['fillfactor=70'],
        pair: "it's a pair",
        pk: 'the \\ key',
        clustered: 'shop.walked',
        replica: 'shop.identity',
        statistics: '2=77',
        indexes: 8,
      },
    ])
  })

  it('may have any name, no key, serial, identity and generated columns, and be unlogged', async () => {
    await db.query(`create unlogged table shop."Bobby""; drop table shop.item; --" (id serial, number int generated always as identity, twice int generated always as (number * 2) stored, "select" text);
      create table shop.item (id int primary key)`)
    await isolate()
    await expectIsolated()
    for (const id of ['acme', 'globex'])
      expect(
        await as(
          id,
          `insert into "Bobby""; drop table shop.item; --" ("select") values ('${canary(id, 1)}')`,
          `select "select", twice = number * 2 as generated from "Bobby""; drop table shop.item; --"`,
        ),
      ).toEqual([[], [{ select: canary(id, 1), generated: true }]])
  })

  it.each([
    ['uuid', '11111111-2222-3333-4444-555555555555', '66666666-7777-8888-9999-000000000000'],
    ['int', '41', '42'],
    ['varchar(40)', 'acme', 'globex'],
    ['text', 'acme', 'globex'],
  ])('that has a tenant_id of type %s already keeps it', async (type, one, other) => {
    await db.query(`create table shop.parent (tenant_id ${type} not null, id int, note text, primary key (id));
      create table shop.child (id int primary key, parent_id int references shop.parent);
      insert into shop.parent values ('${one}', 1, '${canary('one', 1)}'), ('${other}', 2, '${canary('other', 1)}')`)
    expect((await plan()).findings).toEqual([])
    await isolate()
    await expectIsolated()
    expect(await as(one, 'select note from parent', 'insert into child values (1, 1)')).toEqual([
      [{ note: canary('one', 1) }],
      [],
    ])
    expect(await as(one, 'insert into child values (2, 2)')).toEqual(['23503'])
    expect(await as(other, 'select note from parent', 'select * from child')).toEqual([
      [{ note: canary('other', 1) }],
      [],
    ])
  })

  it('with rows is refused, or all of its rows are given to one tenant', async () => {
    await db.query(`create table shop.parent (id int primary key); create table shop.child (id int primary key, parent_id int references shop.parent);
      insert into shop.parent values (1); insert into shop.child values (1, 1); create table shop.empty (id int primary key)`)
    const refused = await plan()
    expect(refused.findings.map(({ code, object }) => [code, object])).toEqual([
      ['PARTYWALL_ROW_EXISTING_ROWS', 'shop.child'],
      ['PARTYWALL_ROW_EXISTING_ROWS', 'shop.parent'],
    ])
    await expect(applyRowIsolation(central, refused)).rejects.toMatchObject({
      code: 'ERR_TENANCY_ROW_ISOLATION_FAILED',
      hint: expect.stringContaining('tenantIdForExistingRows'),
    })
    await isolate({ tenantIdForExistingRows: 'acme' })
    await expectIsolated()
    expect(await as('acme', 'select * from child')).toEqual([
      [{ id: 1, parent_id: 1, tenant_id: 'acme' }],
    ])
    expect(await as('globex', 'select * from child')).toEqual([[]])
    // A row that comes later is not his.
    expect(await as('globex', 'insert into parent values (1) returning tenant_id')).toEqual([
      [{ tenant_id: 'globex' }],
    ])
  })

  it('with some rows of tenants and some of none has the latter filled in, past its triggers, which stay as they were', async () => {
    await db.query(`create table shop.item (id int primary key, tenant_id text, touched boolean default false);
      insert into shop.item values (1, 'globex'), (2, null), (3, '');
      create function shop.touch() returns trigger language plpgsql as $$ begin new.touched := true; return new; end $$;
      create trigger plain before update on shop.item for each row execute function shop.touch();
      create trigger "Always ""on""" before update on shop.item for each row execute function shop.touch();
      create trigger off before update on shop.item for each row execute function shop.touch();
      create trigger replica before update on shop.item for each row execute function shop.touch();
      alter table shop.item enable always trigger "Always ""on"""; alter table shop.item disable trigger off; alter table shop.item enable replica trigger replica`)
    const states = async () =>
      (
        await db.query(
          "select tgname, tgenabled from pg_trigger where tgrelid = 'shop.item'::regclass order by 1",
        )
      ).rows
    const before = await states()
    expect((await plan()).findings.map(({ code }) => code)).toEqual(['PARTYWALL_ROW_EXISTING_ROWS'])
    await isolate({ tenantIdForExistingRows: 'acme' })
    await expectIsolated()
    expect(await states()).toEqual(before)
    expect((await db.query('select * from shop.item order by id')).rows).toEqual([
      { id: 1, tenant_id: 'globex', touched: false },
      { id: 2, tenant_id: 'acme', touched: false },
      { id: 3, tenant_id: 'acme', touched: false },
    ])
  })
})

describe('a foreign key', () => {
  it('keeps what it does, and keeps it inside of the tenant', async () => {
    await db.query(`create table shop.parent (id int primary key, a int, b int, unique (a, b));
      create table shop.child (id int primary key, name text,
        on_null int constraint on_null references shop.parent on delete set null,
        on_default int default 7 constraint on_default references shop.parent on delete set default on update cascade,
        a int, b int,
        constraint partly foreign key (a, b) references shop.parent (a, b) on delete set null (b) deferrable initially deferred,
        cascades int constraint cascades references shop.parent on delete cascade on update restrict deferrable);
      comment on constraint cascades on shop.child is 'goes with it';
      alter table shop.child add column unchecked int, add constraint unchecked foreign key (unchecked) references shop.parent not valid`)
    await isolate()
    await expectIsolated()
    expect((await definitions()).filter((line) => line.includes('FOREIGN'))).toEqual([
      'shop.child cascades FOREIGN KEY (tenant_id, cascades) REFERENCES shop.parent(tenant_id, id) ON UPDATE RESTRICT ON DELETE CASCADE DEFERRABLE',
      'shop.child on_default FOREIGN KEY (tenant_id, on_default) REFERENCES shop.parent(tenant_id, id) ON UPDATE CASCADE ON DELETE SET DEFAULT (on_default)',
      'shop.child on_null FOREIGN KEY (tenant_id, on_null) REFERENCES shop.parent(tenant_id, id) ON DELETE SET NULL (on_null)',
      'shop.child partly FOREIGN KEY (tenant_id, a, b) REFERENCES shop.parent(tenant_id, a, b) ON DELETE SET NULL (b) DEFERRABLE INITIALLY DEFERRED',
      'shop.child unchecked FOREIGN KEY (tenant_id, unchecked) REFERENCES shop.parent(tenant_id, id) NOT VALID',
    ])
    expect(
      (
        await db.query(
          "select obj_description(oid, 'pg_constraint') as text from pg_constraint where conname = 'cascades'",
        )
      ).rows,
    ).toEqual([{ text: 'goes with it' }])
    for (const id of ['acme', 'globex'])
      await as(
        id,
        'insert into parent select n, n, n from generate_series(1, 9) n',
        `insert into child select n, '${id}', 1, 2, 3, 3, 4, null from generate_series(1, 2) n`,
      )
    await as('acme', 'delete from parent where id in (1, 2, 3, 4)')
    // Of the row that refers to 4 nothing is left; with another reference the actions show.
    await as('acme', 'insert into parent select n, n, n from generate_series(1, 4) n')
    await as(
      'acme',
      `insert into child select n, 'acme', 1, 2, 3, 3, null, null from generate_series(1, 2) n`,
      'delete from parent where id in (1, 2, 3)',
    )
    const row = { on_null: null, on_default: 7, a: 3, b: null, cascades: null, unchecked: null }
    expect(await as('acme', 'select * from child order by id')).toEqual([
      [1, 2].map((id) => ({ id, name: 'acme', ...row, tenant_id: 'acme' })),
    ])
    expect(
      await as('globex', 'select name, on_null, on_default, a, b, cascades from child'),
    ).toEqual([
      [1, 2].map(() => ({ name: 'globex', on_null: 1, on_default: 2, a: 3, b: 3, cascades: 4 })),
    ])
  })

  it('may lead to its own table, and two may lead to each other', async () => {
    await db.query(`create table shop.node (id int primary key, parent_id int references shop.node on delete cascade);
      create table shop.team (id int primary key, lead_id int); create table shop.person (id int primary key, team_id int references shop.team);
      alter table shop.team add constraint led foreign key (lead_id) references shop.person deferrable initially deferred`)
    await isolate()
    await expectIsolated()
    for (const id of ['acme', 'globex'])
      expect(
        await as(
          id,
          'insert into node values (1, null), (2, 1)',
          'insert into team values (1, 1)',
          'insert into person values (1, 1)',
        ),
      ).toEqual([[], [], []])
    expect(await as('acme', 'insert into node values (3, 9)')).toEqual(['23503'])
    await as('acme', 'delete from node where id = 1')
    expect(await as('globex', 'select count(*)::int as left from node')).toEqual([[{ left: 2 }]])
  })

  it('with MATCH FULL means the same afterwards: the tenant, which is never NULL, does not count', async () => {
    await db.query(`create table shop.parent (a int, b int, primary key (a, b)); create table shop.one (id int primary key);
      create table shop.child (id int primary key, a int, b int, one int constraint single references shop.one match full,
        constraint pair foreign key (a, b) references shop.parent match full);
      create table shop.strict (id int primary key, a int not null, b int not null, constraint strict foreign key (a, b) references shop.parent match full)`)
    await isolate()
    await expectIsolated()
    expect((await definitions()).filter((line) => line.includes('FOREIGN'))).toEqual([
      'shop.child pair FOREIGN KEY (tenant_id, a, b) REFERENCES shop.parent(tenant_id, a, b)',
      'shop.child single FOREIGN KEY (tenant_id, one) REFERENCES shop.one(tenant_id, id)',
      'shop.strict strict FOREIGN KEY (tenant_id, a, b) REFERENCES shop.parent(tenant_id, a, b) MATCH FULL',
    ])
    expect(
      await as(
        'acme',
        'insert into parent values (1, 1)',
        'insert into child values (1, null, null)',
        'insert into child values (2, 1, 1)',
        'insert into child values (3, 1, null)',
        'insert into child values (4, 2, 2)',
      ),
    ).toEqual([[], [], [], '23514', '23503'])
  })

  it('to a shared table stays as it is', async () => {
    await db.query(`create table shop.country (code text primary key); insert into shop.country values ('nl');
      create table shop.item (id int primary key, country text references shop.country)`)
    const { tables } = await isolate({ sharedTables: ['country'] })
    expect(tables).toEqual(['shop.item'])
    await expectIsolated(['country'])
    expect(await definitions()).toContain(
      'shop.item item_country_fkey FOREIGN KEY (country) REFERENCES shop.country(code)',
    )
    for (const id of ['acme', 'globex'])
      expect(await as(id, "insert into item values (1, 'nl')", 'select * from country')).toEqual([
        [],
        [{ code: 'nl' }],
      ])
  })

  it('that has the tenant already stays as it is, and so do keys that have it in another place', async () => {
    await db.query(`create table shop.parent (tenant_id text not null, id int, unique (id, tenant_id));
      create table shop.child (tenant_id text not null, id int, parent_id int, primary key (tenant_id, id), constraint old foreign key (parent_id, tenant_id) references shop.parent (id, tenant_id))`)
    const before = await definitions()
    await isolate()
    await expectIsolated()
    expect(await definitions()).toEqual(before)
  })
})

describe('what was prepared by hand', () => {
  it('is not planned again', async () => {
    await db.query(`create table shop.person (id int primary key); create table shop.orders (id int primary key, person_id int references shop.person);
      insert into shop.person values (1); insert into shop.orders values (1, 1)`)
    // As docs/reference/row-isolation.md says.
    for (const sql of [
      'alter table shop.person add column tenant_id text; alter table shop.orders add column tenant_id text',
      "update shop.person set tenant_id = 'acme'; update shop.orders set tenant_id = 'acme'",
      'alter table shop.person add constraint has_tenant check (tenant_id is not null) not valid; alter table shop.person validate constraint has_tenant',
      'create unique index concurrently person_new on shop.person (tenant_id, id)',
      'alter table shop.orders add constraint orders_of foreign key (tenant_id, person_id) references shop.person (tenant_id, id) not valid; alter table shop.orders validate constraint orders_of',
      'alter table shop.orders drop constraint orders_person_id_fkey; alter table shop.orders rename constraint orders_of to orders_person_id_fkey',
      'alter table shop.person alter column tenant_id set not null, drop constraint person_pkey, add constraint person_pkey primary key using index person_new',
    ])
      await db.query(sql)
    const { statements } = await plan()
    expect(
      statements.filter(({ object }) => object === 'shop.person').map(({ why }) => why),
    ).toEqual([
      'the tenant is not filled in',
      'rows may be of an empty tenant',
      'no policy',
      'row security is off',
      expect.stringContaining('which no policy bounds'),
    ])
    expect(statements.map(({ step }) => step)).not.toContain('foreign-key')
    await isolate()
    await expectIsolated()
    expect(await as('acme', 'select * from orders')).toEqual([
      [{ id: 1, person_id: 1, tenant_id: 'acme' }],
    ])
  })
})

describe('a family', () => {
  it('of partitions is isolated whichever way it is entered', async () => {
    await db.query(`create table shop.event (id int, year int, note text, primary key (id, year), unique (year, note, id)) partition by list (year);
      create table shop.event_2024 partition of shop.event for values in (2024);
      create table shop.event_later partition of shop.event default partition by range (id);
      create table shop.event_later_1 partition of shop.event_later for values from (0) to (100);
      create unique index own on shop.event_2024 (note);
      create table shop.remark (id int primary key, event_id int, year int, foreign key (event_id, year) references shop.event on delete cascade)`)
    const { tables } = await isolate()
    expect(tables).toHaveLength(5)
    await expectIsolated()
    for (const id of ['acme', 'globex'])
      await as(
        id,
        `insert into event values (1, 2024, '${canary(id, 1)}'), (1, 2025, '${canary(id, 2)}')`,
        'insert into remark values (1, 1, 2024)',
      )
    for (const table of ['event', 'event_2024', 'event_later', 'event_later_1'])
      expect(JSON.stringify(await as('acme', `select note from ${table}`))).not.toContain('globex')
    expect(
      await as(
        'acme',
        "insert into event_2024 values (2, 2024, 'x', 'globex')",
        'delete from event_2024',
        'select count(*)::int as left from remark',
      ),
    ).toEqual(['42501', [], [{ left: 0 }]])
    expect(await as('globex', 'select count(*)::int as left from remark')).toEqual([[{ left: 1 }]])
    // A partition that comes later is planned for by itself.
    await db.query('create table shop.event_2030 partition of shop.event for values in (2030)')
    const next = await isolate()
    expect(new Set(next.statements.map(({ object }) => object))).toEqual(
      new Set(['shop.event_2030']),
    )
    await expectIsolated()
  })

  it('of inheriting tables is isolated whichever way it is entered', async () => {
    await db.query(`create table shop.thing (id int primary key, note text); create table shop.car (wheels int, primary key (id)) inherits (shop.thing);
      create table shop.van (seats int) inherits (shop.car); create table shop.boat (tenant_id text) inherits (shop.thing)`)
    await isolate()
    await expectIsolated()
    for (const id of ['acme', 'globex'])
      await as(
        id,
        `insert into car values (1, '${canary(id, 1)}', 4)`,
        `insert into van values (1, '${canary(id, 2)}', 4, 9)`,
        `insert into boat (id, note) values (1, '${canary(id, 3)}')`,
      )
    for (const [table, count] of [
      ['thing', 3],
      ['car', 2],
      ['van', 1],
      ['boat', 1],
    ] as const) {
      const [rows] = await as('acme', `select note from ${table}`)
      expect(rows).toHaveLength(count)
      expect(JSON.stringify(rows)).not.toContain('globex')
    }
  })

  it('of a shared table is shared with it', async () => {
    await db.query(
      `create table shop.rate (year int) partition by list (year); create table shop.rate_2024 partition of shop.rate for values in (2024)`,
    )
    expect((await plan({ sharedTables: ['rate'] })).statements).toEqual([])
  })
})

describe('around the tables', () => {
  it('views read as whoever asks, through other views as well', async () => {
    await db.query(`create table shop.item (id int primary key, note text);
      create view shop.direct as select * from shop.item; create view shop.through as select note from shop.direct;
      create view shop.already with (security_invoker = true) as select * from shop.item; create view shop.nothing as select 1 as one`)
    const { statements } = await isolate()
    expect(statements.filter(({ step }) => step === 'view').map(({ object }) => object)).toEqual([
      'shop.direct',
      'shop.through',
    ])
    for (const id of ['acme', 'globex'])
      await as(id, `insert into item values (1, '${canary(id, 1)}')`)
    for (const view of ['direct', 'through', 'already'])
      expect(await as('acme', `select note from ${view}`)).toEqual([[{ note: canary('acme', 1) }]])
    await expectIsolated()
  })

  it('exclusion constraints are widened where btree_gist is there', async () => {
    await db.query(`create table shop.booking (room int, during int4range, constraint free exclude using gist (during with &&) where (room > 0) deferrable,
      constraint once exclude using btree (room with =))`)
    expect((await plan()).findings.map(({ code, object }) => [code, object])).toEqual([
      ['PARTYWALL_ROW_EXCLUSION', 'free on shop.booking'],
    ])
    await db.query('create extension btree_gist')
    await isolate()
    await expectIsolated()
    expect(await definitions()).toEqual([
      'shop.booking free EXCLUDE USING gist (tenant_id WITH =, during WITH &&) WHERE ((room > 0)) DEFERRABLE',
      'shop.booking once EXCLUDE USING btree (tenant_id WITH =, room WITH =)',
    ])
    for (const id of ['acme', 'globex'])
      expect(
        await as(
          id,
          "insert into booking values (1, '[1,5)')",
          "insert into booking values (2, '[2,3)')",
          'set constraints all immediate',
        ),
      ).toEqual([[], '23P01', []])
  })

  it('keys without overlaps, and foreign keys that are not enforced, of PostgreSQL 18', async ({
    skip,
  }) => {
    if (version < 180_000) skip()
    await db.query(`create extension btree_gist;
      create table shop.price (id int, during daterange, primary key (id, during without overlaps));
      create table shop.offer (id int primary key, price_id int, during daterange, constraint priced foreign key (price_id, period during) references shop.price (id, period during),
        other int, constraint loose foreign key (other) references shop.offer not enforced)`)
    await isolate()
    await expectIsolated()
    expect((await definitions()).filter((line) => !line.includes('offer_pkey'))).toEqual([
      'shop.offer loose FOREIGN KEY (tenant_id, other) REFERENCES shop.offer(tenant_id, id) NOT ENFORCED',
      'shop.offer priced FOREIGN KEY (tenant_id, price_id, PERIOD during) REFERENCES shop.price(tenant_id, id, PERIOD during)',
      'shop.price price_pkey PRIMARY KEY (tenant_id, id, during WITHOUT OVERLAPS)',
    ])
  })

  it('rights that no policy bounds are taken away, also those that were passed on', async () => {
    await db.query(`create table shop.item (id int primary key); create role passer_${salt}; grant usage on schema shop to passer_${salt};
      grant truncate on shop.item to passer_${salt} with grant option; revoke truncate on shop.item from ${APP};
      set role passer_${salt}; grant truncate on shop.item to ${APP}; reset role; grant all on shop.item to public; grant create on schema shop to public;
      grant references (id) on shop.item to ${APP}`)
    await isolate()
    await expectIsolated()
    expect(await as('acme', 'truncate item', 'create table shop.mine (id int)')).toEqual([
      '42501',
      '42501',
    ])
    await db.query(`drop owned by passer_${salt}; drop role passer_${salt}`)
  })

  it('what belongs to an extension, and the ledger of migrations, are left alone', async () => {
    await db.query(`create table shop.partywall_migrations (id text primary key); insert into shop.partywall_migrations values ('001');
      create extension pg_stat_statements schema shop; create extension tablefunc schema shop`)
    const { tables, statements, findings } = await plan()
    expect([tables, statements, findings]).toEqual([[], [], []])
  })
})

interface Planted {
  readonly code: RowIsolationFindingCode
  readonly what: string
  readonly sql: string
  readonly object: string
  readonly options?: Partial<RowIsolationOptions>
  /** What remains for the plan to do, with the remedy that the finding names. */
  readonly remedy?: string
}

const ITEM = 'create table shop.item (id int primary key, note text);'

const PLANTED: readonly Planted[] = [
  {
    code: 'PARTYWALL_ROW_DEFINER_FUNCTION',
    what: 'a definer function of a superuser',
    sql: `${ITEM} create function shop.all_items() returns bigint language sql security definer set search_path = pg_catalog as 'select count(*) from shop.item'`,
    object: 'shop.all_items()',
  },
  {
    code: 'PARTYWALL_ROW_DEPENDENT',
    what: 'a view that groups by the key',
    sql: `${ITEM} create view shop.grouped as select id, note, count(*) from shop.item group by id`,
    object: 'rule _RETURN on view shop.grouped: item_pkey on shop.item',
    remedy:
      'create or replace view shop.grouped as select id, note, count(*) from shop.item group by id, note',
  },
  {
    code: 'PARTYWALL_ROW_EXCLUSION',
    what: 'an exclusion constraint of a method that takes one column',
    sql: 'create table shop.item (id int, constraint once exclude using hash (id with =))',
    object: 'once on shop.item',
    remedy: 'alter table shop.item drop constraint once',
  },
  {
    code: 'PARTYWALL_ROW_EXISTING_ROWS',
    what: 'rows',
    sql: `${ITEM} insert into shop.item values (1)`,
    object: 'shop.item',
    remedy: 'delete from shop.item',
  },
  {
    code: 'PARTYWALL_ROW_FAMILY',
    what: 'a shared child',
    sql: `${ITEM} create table shop.child () inherits (shop.item)`,
    object: 'shop.child, of shop.item',
    options: { sharedTables: ['child'] },
    remedy: 'alter table shop.child no inherit shop.item',
  },
  {
    code: 'PARTYWALL_ROW_FAMILY',
    what: 'a child of a shared table',
    sql: `${ITEM} create table shop.child () inherits (shop.item)`,
    object: 'shop.child, of shop.item',
    options: { sharedTables: ['item'] },
    remedy: 'alter table shop.child no inherit shop.item',
  },
  {
    code: 'PARTYWALL_ROW_FAMILY',
    what: 'a partition in another schema',
    sql: 'create schema other; create table shop.item (id int) partition by list (id); create table other.part partition of shop.item default',
    object: 'other.part, of shop.item',
    remedy: 'alter table shop.item detach partition other.part',
  },
  {
    code: 'PARTYWALL_ROW_FAMILY',
    what: 'a parent in another schema',
    sql: 'create schema other; create table other.base (id int); create table shop.item () inherits (other.base)',
    object: 'shop.item, of another schema',
    remedy: 'alter table shop.item no inherit other.base',
  },
  {
    code: 'PARTYWALL_ROW_FOREIGN_TABLE',
    what: 'a foreign table',
    sql: 'create foreign data wrapper nothing; create server nowhere foreign data wrapper nothing; create foreign table shop.far (id int) server nowhere',
    object: 'shop.far',
    remedy: 'drop foreign table shop.far',
  },
  {
    code: 'PARTYWALL_ROW_INDEX_INVALID',
    what: 'a unique index that is not complete',
    sql: 'create table shop.item (id int) partition by list (id); create table shop.part partition of shop.item default; create unique index broken on only shop.item (id)',
    object: 'shop.broken',
    remedy: 'drop index shop.broken',
  },
  {
    code: 'PARTYWALL_ROW_KEY_FROM_OUTSIDE',
    what: 'a foreign key of a shared table',
    sql: `${ITEM} create table shop.shared (item_id int constraint outer_item references shop.item)`,
    object: 'outer_item on shop.shared',
    options: { sharedTables: ['shared'] },
    remedy: 'alter table shop.shared drop constraint outer_item',
  },
  {
    code: 'PARTYWALL_ROW_KEY_FROM_OUTSIDE',
    what: 'a foreign key of another schema',
    sql: `${ITEM} create schema other; create table other.line (item_id int constraint outer_item references shop.item)`,
    object: 'outer_item on other.line',
    remedy: 'alter table other.line drop constraint outer_item',
  },
  {
    code: 'PARTYWALL_ROW_KEY_NAMES_TENANT',
    what: 'the list of tenants that was not declared as shared',
    sql: 'create table shop.tenants (id text primary key); create table shop.item (tenant_id text not null constraint owned references shop.tenants)',
    object: 'owned on shop.item',
    options: {},
    remedy: 'alter table shop.item drop constraint owned',
  },
  {
    code: 'PARTYWALL_ROW_KEY_SETS_NULL',
    what: 'ON UPDATE SET NULL',
    sql: `${ITEM} create table shop.line (item_id int constraint lost references shop.item on update set null)`,
    object: 'lost on shop.line',
    remedy:
      'alter table shop.line drop constraint lost, add constraint lost foreign key (item_id) references shop.item on update cascade',
  },
  {
    code: 'PARTYWALL_ROW_KEY_TO_OTHER_SCHEMA',
    what: 'a foreign key to isolated rows elsewhere',
    sql: `create schema other; create table other.item (tenant_id text, id int primary key); alter table other.item enable row level security; create table shop.line (item_id int constraint away references other.item)`,
    object: 'away on shop.line',
    remedy: 'alter table shop.line drop constraint away',
  },
  {
    code: 'PARTYWALL_ROW_KEY_TYPES',
    what: 'tenants of two types',
    sql: 'create table shop.item (tenant_id uuid not null, id int primary key); create table shop.line (tenant_id int not null, item_id int constraint mixed references shop.item)',
    object: 'mixed on shop.line',
    remedy: 'alter table shop.line drop column tenant_id',
  },
  {
    code: 'PARTYWALL_ROW_MATERIALIZED_VIEW',
    what: 'a materialized view, also over a view, in any schema',
    sql: `${ITEM} create schema other; create view shop.through with (security_invoker = true) as select * from shop.item; create materialized view other.copy as select * from shop.through`,
    object: 'other.copy',
    remedy: 'drop materialized view other.copy',
  },
  {
    code: 'PARTYWALL_ROW_OWNER',
    what: 'a table that a migration made as a tenant',
    sql: `${ITEM} create role "tenant-own-${salt}"; alter table shop.item owner to "tenant-own-${salt}"`,
    object: 'shop.item',
    remedy: `alter table shop.item owner to current_user; drop role "tenant-own-${salt}"`,
  },
  {
    code: 'PARTYWALL_ROW_POLICY_BESIDE',
    what: "the application's own policy",
    sql: `${ITEM} create policy readable on shop.item for select using (true); create policy narrow on shop.item as restrictive using (true)`,
    object: '"readable" on shop.item',
    remedy: 'drop policy readable on shop.item',
  },
  {
    code: 'PARTYWALL_ROW_PUBLICATION',
    what: 'a publication of some columns',
    sql: `${ITEM} create publication few for table shop.item (id)`,
    object: 'few of shop.item',
    remedy: 'drop publication few',
  },
  {
    code: 'PARTYWALL_ROW_RULE',
    what: 'a rule of a superuser',
    sql: `${ITEM} create rule hide as on delete to shop.item do instead update shop.item set note = 'deleted' where id = old.id`,
    object: 'hide on shop.item',
    remedy: 'drop rule hide on shop.item',
  },
  {
    code: 'PARTYWALL_ROW_TENANT_COLUMN',
    what: 'a tenant that is made of the row',
    sql: 'create table shop.item (id int primary key, tenant_id text generated always as (id::text) stored)',
    object: 'shop.item',
    remedy: 'alter table shop.item drop column tenant_id',
  },
  {
    code: 'PARTYWALL_ROW_TENANT_COLUMN',
    what: 'a tenant of another type',
    sql: 'create table shop.item (id int primary key, tenant_id char(8) not null)',
    object: 'shop.item',
    remedy: 'alter table shop.item alter column tenant_id type text',
  },
  {
    code: 'PARTYWALL_ROW_TENANT_COLUMN',
    what: 'a tenant for whom A is a',
    sql: `create collation shop.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); create table shop.item (id int primary key, tenant_id text collate shop.loose not null)`,
    object: 'shop.item',
    remedy: 'alter table shop.item alter column tenant_id type text',
  },
  {
    code: 'PARTYWALL_ROW_TRIGGERS_DISABLED',
    what: 'foreign keys that are not enforced',
    sql: `${ITEM} create table shop.line (item_id int constraint idle references shop.item); alter table shop.line disable trigger all`,
    object: 'idle on shop.line',
    remedy: 'alter table shop.line enable trigger all',
  },
  {
    code: 'PARTYWALL_ROW_TYPED_TABLE',
    what: 'a table of a type',
    sql: 'create type shop.kind as (id int); create table shop.item of shop.kind',
    object: 'shop.item',
    remedy: 'alter table shop.item not of',
  },
  {
    code: 'PARTYWALL_ROW_VIEW_OUTSIDE',
    what: 'a view of another schema',
    sql: `${ITEM} create schema other; create view other.spy as select * from shop.item`,
    object: 'other.spy',
    remedy: 'alter view other.spy set (security_invoker = true)',
  },
]

describe('a finding', () => {
  it.each(PLANTED)('$code: $what', async ({ code, sql, object, options, remedy }) => {
    await db.query(sql)
    const { findings } = await plan(options)
    expect(findings).toEqual([{ code, object, ...ROW_FINDINGS[code] }])
    if (ROW_FINDINGS[code].severity === 'error') {
      const before = await definitions()
      await expect(isolate(options)).rejects.toMatchObject({
        code: 'ERR_TENANCY_ROW_ISOLATION_FAILED',
        message: expect.stringContaining(code),
        hint: ROW_FINDINGS[code].remedy,
      })
      expect(await definitions()).toEqual(before)
    }
    if (remedy !== undefined) {
      await db.query(remedy)
      expect((await plan(options)).findings).toEqual([])
    }
    await isolate(options)
    await expectIsolated(options?.sharedTables)
  })

  it('is planted above for every code', () => {
    expect(new Set(PLANTED.map(({ code }) => code))).toEqual(new Set(Object.keys(ROW_FINDINGS)))
  })

  it('leads with the list of the tenants declared as shared to nothing worse', async () => {
    await db.query(
      'create table shop.tenants (id text primary key); create table shop.item (tenant_id text not null references shop.tenants, id int primary key)',
    )
    await isolate({ sharedTables: ['tenants'] })
    await expectIsolated(['tenants'])
  })

  it('stands in docs/reference/row-isolation.md, with its severity, and no other does', async () => {
    const text = await readFile(
      new URL('../../../docs/reference/row-isolation.md', import.meta.url),
      'utf8',
    )
    const rows = [
      ...text.matchAll(/^\| `(PARTYWALL_ROW_[A-Z_]+)` +\| (\w+) +\| (.+) \| (.+) \|$/gm),
    ]
    expect(rows.map(([, code, severity]) => `${code} ${severity}`)).toEqual(
      Object.entries(ROW_FINDINGS).map(([code, { severity }]) => `${code} ${severity}`),
    )
  })
})

describe('options', () => {
  it.each([
    [{ schema: 'nowhere' }, 'ERR_TENANCY_SCHEMA_MISSING', /nowhere/],
    [{ schema: 'a"b' }, 'ERR_TENANCY_OPTION_INVALID', /no schema name/],
    [{ sharedTables: ['itme'] }, 'ERR_TENANCY_OPTION_INVALID', /Did you mean "item"/],
    [{ sharedTables: 'item' }, 'ERR_TENANCY_OPTION_INVALID', /list of names/],
    [{ role: 'tenant' }, 'ERR_TENANCY_OPTION_INVALID', /'per-tenant'/],
    [{ tenantIdForExistingRows: "x'; drop" }, 'ERR_TENANCY_IDENTIFIER_INVALID', /no tenant id/],
    [{ table: 'item' }, 'ERR_TENANCY_OPTION_INVALID', /table/],
  ])('%j is refused', async (options, code, message) => {
    await db.query('create table shop.item (id int)')
    await expect(plan(options as Partial<RowIsolationOptions>)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    })
    expect(central.idleCount).toBe(central.totalCount)
  })
})
