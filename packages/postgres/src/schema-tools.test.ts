import { createTenant } from '@partywall/core'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  createSchemaFromSql,
  createTenantSchema,
  dropTenantSchema,
  fleetOverview,
  renameTenantSchema,
} from './index.ts'

const acme = createTenant({ id: 'acme' })
const globex = createTenant({ id: 'globex' })
const SHOP = `create table customers (id serial primary key, owner text not null default 'canary:' || current_schema());
create table orders (id int primary key, customer_id int references customers (id) on delete set null);
insert into customers default values;
create view open_orders as select * from orders;`
const CONFLICT = { code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT' }

let db: TestDatabase
let central: pg.Pool

beforeEach(async () => {
  db = await createTestDatabase()
  central = new pg.Pool({ connectionString: db.url, max: 4 })
  return async () => {
    await central.end()
    await db[Symbol.asyncDispose]()
  }
})
afterEach(async () => {
  // Whatever happened, no tenant's path is left in a connection, and none is lent out.
  expect(central.totalCount - central.idleCount).toBe(0)
  const paths = await Promise.all(
    Array.from({ length: 4 }, () => central.query('show search_path')),
  )
  expect(new Set(paths.flatMap(({ rows }) => rows.map((row) => row.search_path)))).toEqual(
    new Set(['"$user", public']),
  )
})

const relationsOf = async (schema: string): Promise<string[]> =>
  (
    await db.query<{ name: string }>(
      `select relname as name from pg_class c join pg_namespace n on n.oid = relnamespace
       where nspname = $1 and relkind in ('r', 'p', 'v', 'm', 'S') order by 1`,
      [schema],
    )
  ).rows.map(({ name }) => name)
const schemas = async (): Promise<string[]> =>
  (
    await db.query<{ name: string }>(
      "select nspname as name from pg_namespace where nspname !~ '^(pg_|information_schema|public)' order by 1",
    )
  ).rows.map(({ name }) => name)
const SHOP_RELATIONS = ['customers', 'customers_id_seq', 'open_orders', 'orders']
const drop = (tenant: typeof acme, batchSize?: number) =>
  dropTenantSchema(central, tenant, { confirm: tenant.id, batchSize })

describe('createSchemaFromSql', () => {
  it('creates, marks and fills the schema of each tenant', async () => {
    for (const tenant of [acme, globex])
      expect(await createSchemaFromSql(central, tenant, SHOP)).toBe(true)
    for (const { id } of [acme, globex]) {
      expect(await relationsOf(id)).toEqual(SHOP_RELATIONS)
      expect((await db.query(`select id, owner from ${id}.customers`)).rows).toEqual([
        { id: 1, owner: `canary:${id}` },
      ])
    }
    expect(await relationsOf('public')).toEqual([])
    // The mark is the one of createTenantSchema.
    expect(await createTenantSchema(central, acme)).toBe(false)
  })

  it('survives racers: each schema once, everybody happy', async () => {
    const created = await Promise.all(
      Array.from({ length: 12 }, (_, n) =>
        createSchemaFromSql(central, n % 2 ? acme : globex, SHOP),
      ),
    )
    expect(created.filter(Boolean)).toHaveLength(2)
    for (const { id } of [acme, globex])
      expect((await db.query(`select owner from ${id}.customers`)).rows).toHaveLength(1)
  })

  it('runs nothing where the schema is there already, and refuses that of somebody else', async () => {
    await createTenantSchema(central, acme)
    expect(await createSchemaFromSql(central, acme, SHOP)).toBe(false)
    expect(await relationsOf('acme')).toEqual([])
    const thief = createTenant({ id: 'thief', placement: { schema: 'acme' } })
    await expect(createSchemaFromSql(central, thief, SHOP)).rejects.toMatchObject(CONFLICT)
    const root = createTenant({ id: 'root', placement: { schema: 'public' } })
    await expect(createSchemaFromSql(central, root, SHOP)).rejects.toMatchObject(CONFLICT)
    const shared = { sharedSchemas: ['globex'] }
    await expect(createSchemaFromSql(central, globex, SHOP, shared)).rejects.toMatchObject(CONFLICT)
    expect(await relationsOf('acme')).toEqual([])
    expect(await schemas()).toEqual(['acme'])
  })

  it.each([
    ['fails', `${SHOP} select 1 / 0`, '22012'],
    ['holds COMMIT', `${SHOP} commit; create table leaked (id int)`, '0A000'],
    ['holds ROLLBACK', `rollback; create table leaked (id int)`, '0A000'],
    ['does not parse', `${SHOP} creat table leaked (id int)`, '42601'],
    ['creates a schema that exists', `create schema public`, '42P06'],
  ])('leaves nothing behind when the text %s', async (_what, sql, code) => {
    await expect(createSchemaFromSql(central, acme, sql)).rejects.toMatchObject({ code })
    expect(await schemas()).toEqual([])
    expect(await relationsOf('public')).toEqual([])
  })

  it('keeps the settings of a dump out of the connections', async () => {
    const dump = `set statement_timeout = 1234; select pg_catalog.set_config('search_path', '', false); create table acme.dumped (id int)`
    expect(await createSchemaFromSql(central, acme, dump)).toBe(true)
    expect(await relationsOf('acme')).toEqual(['dumped'])
    for (let n = 0; n < 4; n++)
      expect((await central.query('show statement_timeout')).rows).toEqual([
        { statement_timeout: '0' },
      ])
  })

  it('takes texts with quotes of every kind, and shared schemas', async () => {
    await db.query('create schema common; create table common.countries (id int primary key)')
    const sql = String.raw`create table notes (body text default E'it\'s \\ "so" $a$', c int references countries (id));
      create function f() returns text language plpgsql as $a$ begin return $$canary:$$ || 'acme''s'; end $a$; -- the end`
    await createSchemaFromSql(central, acme, sql, { sharedSchemas: ['common'] })
    await db.query('insert into acme.notes default values')
    expect((await db.query('select body, acme.f() as f from acme.notes')).rows).toEqual([
      { body: String.raw`it's \ "so" $a$`, f: "canary:acme's" },
    ])
  })
})

describe('renameTenantSchema', () => {
  const initech = createTenant({ id: 'initech' })

  it('renames the schema and hands the mark over, once', async () => {
    for (const tenant of [acme, globex]) await createSchemaFromSql(central, tenant, SHOP)
    expect(await renameTenantSchema(central, acme, initech)).toBe(true)
    expect(await renameTenantSchema(central, acme, initech)).toBe(false)
    expect(await schemas()).toEqual(['globex', 'initech'])
    expect((await db.query('select owner from initech.customers')).rows).toEqual([
      { owner: 'canary:acme' },
    ])
    expect((await db.query('select owner from globex.customers')).rows).toEqual([
      { owner: 'canary:globex' },
    ])
    expect(await createTenantSchema(central, initech)).toBe(false)
    expect(await createTenantSchema(central, acme)).toBe(true)
  })

  it('gives a tenant another schema, and a schema another tenant', async () => {
    await createSchemaFromSql(central, acme, SHOP)
    const moved = createTenant({ id: 'acme', placement: { schema: 'acme_old' } })
    expect(await renameTenantSchema(central, acme, moved)).toBe(true)
    const heir = createTenant({ id: 'heir', placement: { schema: 'acme_old' } })
    expect(await renameTenantSchema(central, moved, heir)).toBe(true)
    expect(await renameTenantSchema(central, moved, heir)).toBe(false)
    expect(
      (await fleetOverview(central)).map(({ tenantId, schema }) => [tenantId, schema]),
    ).toEqual([['heir', 'acme_old']])
  })

  it('refuses schemas of others, taken names, public and nothing at all', async () => {
    await createTenantSchema(central, acme)
    await createTenantSchema(central, globex)
    await db.query('create schema unmarked')
    const at = (id: string, schema: string) => createTenant({ id, placement: { schema } })
    for (const [from, to] of [
      [acme, globex],
      [at('initech', 'globex'), initech],
      [at('acme', 'unmarked'), initech],
      [acme, at('initech', 'unmarked')],
      [acme, at('initech', 'public')],
      [at('acme', 'public'), initech],
      [at('initech', 'acme'), globex],
    ] as const)
      await expect(renameTenantSchema(central, from, to)).rejects.toMatchObject(CONFLICT)
    await expect(
      renameTenantSchema(central, createTenant({ id: 'nobody' }), initech),
    ).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_MISSING',
    })
    expect(await schemas()).toEqual(['acme', 'globex', 'unmarked'])
  })

  it('survives renames that cross and race', async () => {
    await createSchemaFromSql(central, acme, SHOP)
    await createSchemaFromSql(central, globex, SHOP)
    const results = await Promise.allSettled([
      renameTenantSchema(central, acme, initech),
      renameTenantSchema(central, acme, initech),
      renameTenantSchema(central, globex, initech),
      renameTenantSchema(central, globex, initech),
    ])
    const won = (await schemas()).find((name) => name !== 'initech')
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(2)
    for (const result of results)
      if (result.status === 'rejected') expect(result.reason).toMatchObject(CONFLICT)
    expect(['acme', 'globex']).toContain(won)
    expect((await db.query('select owner from initech.customers')).rows).toEqual([
      { owner: won === 'acme' ? 'canary:globex' : 'canary:acme' },
    ])
  })
})

describe('dropTenantSchema', () => {
  /** Everything that a schema can hold, with circles between tables, functions and types. */
  const ZOO = `${SHOP}
    alter table customers add column last_order int references orders (id);
    create type mood as enum ('happy', 'sad');
    create domain amount as numeric check (value > 0);
    create type pair as (a int, b amount);
    create type span as range (subtype = int);
    create function total(orders) returns int language sql as 'select 1';
    create function feel(mood) returns mood language sql immutable as 'select $1';
    create procedure work() language sql as 'select 1';
    create aggregate sums (int) (sfunc = int4pl, stype = int, initcond = '0');
    create function is_same(mood, mood) returns boolean language sql as $$ select true $$;
    create operator === (leftarg = mood, rightarg = mood, function = is_same);
    alter table orders add column mood mood default feel('happy'), add column p pair, add column s span, add column n int generated always as identity;
    create index on orders (feel(mood));
    create function noticed() returns trigger language plpgsql as $$ begin return new; end $$;
    create trigger noticed before insert on orders for each row execute function noticed();
    create view totals as select total(o) from orders o;
    create materialized view moods as select feel(mood) from orders;
    create view happy as select * from moods;
    create table event (id int, at date) partition by range (at);
    create table event_a partition of event for values from ('2026-01-01') to ('2027-01-01') partition by range (id);
    create table event_a1 partition of event_a for values from (0) to (10);
    create table child () inherits (customers);
    create statistics stats on id, customer_id from orders;
    create sequence numbers;
    create collation german from "C";
    create text search configuration words (copy = simple);
    alter table orders enable row level security;
    create policy mine on orders using (feel(mood) = 'happy');
    create rule quiet as on delete to totals do instead nothing;
    alter default privileges in schema acme grant select on tables to public;
    create extension pg_trgm schema acme;
    create extension btree_gin schema acme;
    create index trigrams on customers using gin (owner gin_trgm_ops);`

  it.each([1, 20, 500])(
    'drops whatever a schema holds, at most %i locks at a time, and nothing else',
    async (size) => {
      await db.query('create table public.countries (id int primary key)')
      await createSchemaFromSql(
        central,
        acme,
        `${ZOO} alter table orders add column country int references countries (id)`,
      )
      await createSchemaFromSql(central, globex, SHOP)
      await db.query('create publication changes for table acme.orders, globex.orders')
      const before = await db.query(
        'select count(*)::int as n from pg_depend d where refobjid = $1::text::regnamespace and deptype = $2',
        ['acme', 'n'],
      )
      expect(await drop(acme, size)).toBe(before.rows[0]?.['n'])
      expect(await drop(acme, size)).toBe(0)
      expect(await schemas()).toEqual(['globex'])
      expect(await relationsOf('public')).toEqual(['countries'])
      expect(await relationsOf('globex')).toEqual(SHOP_RELATIONS)
      expect((await db.query('select owner from globex.customers')).rows).toEqual([
        { owner: 'canary:globex' },
      ])
      expect((await db.query('select tablename from pg_publication_tables')).rows).toHaveLength(1)
    },
  )

  it('drops 1,200 tables in small transactions', { timeout: 120_000 }, async () => {
    const tables = Array.from(
      { length: 1200 },
      (_, n) =>
        `create table t${n} (id int primary key, body text${n % 10 ? '' : `, hub int references t1 (id)`})`,
    )
    // Made in parts as well: more than the lock table holds cannot be made in one transaction either.
    await createSchemaFromSql(central, acme, tables[1] ?? '')
    for (let n = 0; n < 1200; n += 300)
      await db.query(
        `begin; set local search_path = acme; ${tables
          .slice(n, n + 300)
          .filter((sql) => sql !== tables[1])
          .join(';')}; commit`,
      )
    await createSchemaFromSql(central, globex, SHOP)
    const most = { locks: 0 }
    const watched = await watchLocks(central, most)
    expect(await drop(acme)).toBe(1200)
    watched()
    expect(most.locks).toBeGreaterThan(100)
    // The locks that a transaction holds beside those of its batch: catalogues, the schema, the database.
    expect(most.locks).toBeLessThanOrEqual(500 + 60)
    expect(await schemas()).toEqual(['globex'])
    expect(await relationsOf('globex')).toEqual(SHOP_RELATIONS)
  })

  it('goes on after a crash at any point', async () => {
    const crashAt = async (step: number): Promise<boolean> => {
      const client = new pg.Pool({ connectionString: db.url, max: 1 })
      client.on('error', () => {})
      let transactions = 0
      client.on('connect', (connection) => {
        const query = connection.query.bind(connection) as (...args: unknown[]) => unknown
        Object.assign(connection, {
          query: async (...args: unknown[]) => {
            if (args[0] === 'commit' && ++transactions === step) {
              const { rows } = (await query('select pg_backend_pid() as pid')) as pg.QueryResult
              await db.query('select pg_terminate_backend($1)', [rows[0]?.pid])
            }
            return query(...args)
          },
        })
        connection.on('error', () => {})
      })
      try {
        await dropTenantSchema(client, acme, { confirm: 'acme', batchSize: 60 })
        return true
      } catch {
        return false
      } finally {
        await client.end()
      }
    }
    await createSchemaFromSql(central, globex, SHOP)
    await createSchemaFromSql(central, acme, ZOO)
    let crashes = 0
    // Each run gets one transaction further than where the one before it died: the check, then one batch more.
    while (!(await crashAt(3))) {
      crashes++
      expect(crashes).toBeLessThan(50)
      const left = await fleetOverview(central)
      // What is left still says whose it is.
      expect(left.map(({ tenantId }) => tenantId)).toEqual(['acme', 'globex'])
    }
    expect(crashes).toBeGreaterThan(3)
    expect(await schemas()).toEqual(['globex'])
    expect(await relationsOf('globex')).toEqual(SHOP_RELATIONS)
  })

  const DEPENDENTS: readonly (readonly [what: string, sql: string, name: string])[] = [
    ['a view', 'create view globex.spy as select * from acme.orders', 'view globex.spy'],
    [
      'a view on a view',
      'create view globex.spy as select * from acme.open_orders',
      'view globex.spy',
    ],
    [
      'a materialized view',
      'create materialized view public.spy as select id from acme.orders',
      'materialized view public.spy',
    ],
    [
      'a foreign key',
      'create table globex.spy (id int references acme.customers (id))',
      'table constraint spy_id_fkey on globex.spy',
    ],
    [
      'a default',
      "create table globex.spy (id int default nextval('acme.customers_id_seq'))",
      'default value for globex.spy.id',
    ],
    [
      'a column type',
      "create type acme.mood as enum ('a'); create table globex.spy (id int, mood acme.mood)",
      'table column globex.spy.mood',
    ],
    [
      'an argument',
      "create function globex.spy(acme.orders) returns int language sql as 'select 1'",
      'function globex.spy(acme.orders)',
    ],
    [
      'a standard body',
      'create function globex.spy() returns bigint language sql begin atomic select count(*) from acme.orders; end',
      'function globex.spy()',
    ],
    ['a child table', 'create table globex.spy () inherits (acme.orders)', 'table globex.spy'],
    [
      'a trigger',
      "create function acme.f() returns trigger language plpgsql as 'begin return new; end'; create trigger spy before insert on globex.orders for each row execute function acme.f()",
      'trigger spy on globex.orders',
    ],
    [
      'a policy',
      "create function acme.f() returns boolean language sql as 'select true'; create policy spy on globex.orders using (acme.f())",
      'policy spy on globex.orders',
    ],
    [
      'a check',
      "create function acme.f(int) returns boolean language sql as 'select true'; alter table globex.orders add constraint spy check (acme.f(id))",
      'table constraint spy on globex.orders',
    ],
    [
      'an event trigger',
      "create function acme.f() returns event_trigger language plpgsql as 'begin end'; create event trigger spy on ddl_command_end when tag in ('CREATE COLLATION') execute function acme.f()",
      'event trigger spy',
    ],
    [
      'a type of an extension',
      'create extension hstore schema acme; create table globex.spy (id int, h acme.hstore)',
      'table column globex.spy.h',
    ],
  ]

  it('refuses, and drops nothing, while something elsewhere depends on it', async () => {
    const state = async () => Promise.all(['acme', 'globex', 'public'].map(relationsOf))
    for (const [what, sql, name] of DEPENDENTS) {
      for (const tenant of [acme, globex]) await createSchemaFromSql(central, tenant, SHOP)
      await db.query(sql)
      const before = await state()
      const error = await drop(acme).catch((reason: unknown) => reason)
      expect([what, error]).toMatchObject([
        what,
        {
          code: 'ERR_TENANCY_SCHEMA_REFERENCED',
          tenantId: 'acme',
          message: expect.stringContaining(name),
        },
      ])
      expect([what, await state()]).toEqual([what, before])
      // What depends can go by itself: there is no dependence the other way round.
      await db.query(
        'drop event trigger if exists spy; drop materialized view if exists public.spy',
      )
      expect(await drop(globex)).toBeGreaterThan(0)
      expect(await drop(acme)).toBeGreaterThan(0)
    }
    expect(await schemas()).toEqual([])
  })

  it('spares a view that is made while it runs', async () => {
    await createSchemaFromSql(central, acme, SHOP)
    await createSchemaFromSql(central, globex, SHOP)
    const other = await central.connect()
    await other.query('begin; create view globex.spy as select * from acme.orders')
    // The check sees no view yet; the drop waits for the table.
    const dropped = drop(acme)
    await expect
      .poll(
        async () =>
          (
            await db.query(
              "select from pg_locks where not granted and mode = 'AccessExclusiveLock'",
            )
          ).rowCount,
      )
      .toBe(1)
    await other.query('commit')
    other.release()
    await expect(dropped).rejects.toMatchObject({ code: 'ERR_TENANCY_SCHEMA_REFERENCED' })
    expect(await relationsOf('globex')).toContain('spy')
    expect(await relationsOf('acme')).toContain('orders')
    await db.query('drop view globex.spy')
    expect(await drop(acme)).toBeGreaterThan(0)
  })

  it('survives racers: each object is counted once', async () => {
    await createSchemaFromSql(central, globex, SHOP)
    await createSchemaFromSql(central, acme, SHOP)
    const counts = await Promise.all([drop(acme, 8), drop(acme, 8), drop(acme, 8)])
    expect(counts.reduce((sum, n) => sum + n, 0)).toBe(SHOP_RELATIONS.length)
    expect(await schemas()).toEqual(['globex'])
  })

  it('refuses schemas without the mark, public, and a wrong confirmation', async () => {
    await createSchemaFromSql(central, acme, SHOP)
    await db.query('create schema unmarked; create table unmarked.t (id int)')
    const at = (schema: string) => createTenant({ id: 'globex', placement: { schema } })
    for (const schema of ['acme', 'unmarked', 'public'])
      await expect(drop(at(schema))).rejects.toMatchObject(CONFLICT)
    for (const confirm of ['globex', '', undefined])
      await expect(
        dropTenantSchema(central, acme, { confirm: confirm as string }),
      ).rejects.toMatchObject({
        code: 'ERR_TENANCY_OPTION_INVALID',
      })
    for (const batchSize of [0, -1, 1.5, Number.NaN])
      await expect(drop(acme, batchSize)).rejects.toMatchObject({
        code: 'ERR_TENANCY_OPTION_INVALID',
      })
    expect(await relationsOf('acme')).toEqual(SHOP_RELATIONS)
    expect(await relationsOf('unmarked')).toEqual(['t'])
  })
})

describe('fleetOverview', () => {
  it('lists what is marked, with tables and sizes', async () => {
    const odd = createTenant({ id: 'a-b', placement: { schema: 'Odd $name' } })
    await createSchemaFromSql(central, acme, SHOP)
    await createSchemaFromSql(
      central,
      globex,
      `${SHOP} create table event (id int) partition by list (id); create table event_1 partition of event for values in (1)`,
    )
    await createTenantSchema(central, odd)
    await db.query(
      "create schema unmarked; create table unmarked.t (); create schema told; comment on schema told is 'partywall tenant '' or 1'",
    )
    expect(await fleetOverview(central)).toEqual([
      { tenantId: 'a-b', schema: 'Odd $name', tables: 0 },
      { tenantId: 'acme', schema: 'acme', tables: 2 },
      { tenantId: 'globex', schema: 'globex', tables: 4 },
    ])
    await db.query('insert into acme.orders select generate_series(1, 5000)')
    const [none, big, small] = await fleetOverview(central, { sizes: true })
    const { rows } = await db.query<{ bytes: number }>(
      "select (pg_total_relation_size('acme.orders') + pg_total_relation_size('acme.customers'))::int as bytes",
    )
    expect(none?.bytes).toBe(0)
    expect(big?.bytes).toBe(rows[0]?.bytes)
    expect(big?.bytes).toBeGreaterThan(small?.bytes ?? Number.NaN)
  })
})

/** Looks at the locks of a connection in front of each of its commits. */
async function watchLocks(pool: pg.Pool, most: { locks: number }): Promise<() => void> {
  const undo: (() => void)[] = []
  const clients = await Promise.all(Array.from({ length: 4 }, () => pool.connect()))
  for (const client of clients) {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown
    Object.assign(client, {
      query: async (...args: unknown[]) => {
        if (args[0] === 'commit') {
          const { rows } = (await query(
            'select count(*)::int as locks from pg_locks where pid = pg_backend_pid()',
          )) as pg.QueryResult
          most.locks = Math.max(most.locks, rows[0]?.locks ?? 0)
        }
        return query(...args)
      },
    })
    undo.push(() => Reflect.deleteProperty(client, 'query'))
    client.release()
  }
  return () => undo.forEach((restore) => restore())
}
