import { randomBytes } from 'node:crypto'
import { createTenant, physicalName } from '@partywall/core'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import {
  type CloneTenantSchemaOptions,
  cloneTenantSchema,
  createSchemaFromSql,
  createTenantRole,
  createTenantSchema,
  dropTenantSchema,
  fingerprintSchema,
  fleetOverview,
  renameTenantSchema,
} from './index.ts'

const acme = createTenant({ id: 'acme' })
const globex = createTenant({ id: 'globex' })
const zeta = createTenant({ id: 'zeta' })
const SHOP = `create table customers (id serial primary key, owner text not null);
create table orders (id int primary key, customer_id int references customers (id), total int default 0);
create function double(n int) returns int language sql immutable as 'select n * 2';
insert into customers (owner) values ('canary:' || current_schema()), ('canary:2');
insert into orders values (1, 1), (2, 2);
create view open_orders as select * from orders;`
const CONFLICT = { code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT' }

let db: TestDatabase
let central: pg.Pool

beforeAll(async () => {
  db = await createTestDatabase()
  central = new pg.Pool({ connectionString: db.url, max: 4 })
})
afterAll(async () => {
  await central.end()
  await db[Symbol.asyncDispose]()
})
afterEach(async () => {
  // A new database for each test would take most of the time.
  await db.query(`do $$ declare r record; begin
      for r in select evtname from pg_event_trigger loop execute format('drop event trigger %I', r.evtname); end loop;
      for r in select pubname from pg_publication loop execute format('drop publication %I', r.pubname); end loop;
      for r in select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' loop execute format('drop schema %I cascade', r.nspname); end loop;
      drop foreign data wrapper if exists w cascade; create schema public; end $$`)
  // Whatever happened, no setting of a clone is left in a connection, and none is lent out.
  expect(central.totalCount - central.idleCount).toBe(0)
  const settings = await Promise.all(
    Array.from({ length: 4 }, () =>
      central.query(
        "select current_setting('search_path') || current_setting('check_function_bodies') || current_setting('row_security') as s",
      ),
    ),
  )
  expect(new Set(settings.flatMap(({ rows }) => rows.map(({ s }) => s)))).toEqual(
    new Set(['"$user", publiconon']),
  )
})

const shop = (sql = '') => createSchemaFromSql(central, acme, SHOP + sql)
const clone = (options: CloneTenantSchemaOptions = {}, target = globex) =>
  cloneTenantSchema(central, acme, target, options)
const schemas = async (): Promise<string[]> =>
  (await fleetOverview(central)).map(({ schema }) => schema)
const idsIn = async (table: string): Promise<unknown[]> =>
  (await db.query(`select id from ${table} order by 1`)).rows.map(({ id }) => id)
const alike = async (one: string, other: string): Promise<boolean> =>
  (await fingerprintSchema(central, one)) === (await fingerprintSchema(central, other))
/** A pool of a role of its own, which is dropped with the database. */
async function withRole<T>(
  attributes: string,
  fn: (role: string, pool: pg.Pool) => Promise<T>,
): Promise<T> {
  const role = `pw_clone_${randomBytes(5).toString('hex')}`
  await db.query(`create role ${role} ${attributes} password 'secret'`)
  const url = Object.assign(new URL(db.url), { username: role, password: 'secret' })
  const pool = new pg.Pool({ connectionString: url.href, max: 2 })
  const end = async (): Promise<void> => {
    await pool.end()
    await db.query(`drop owned by ${role} cascade; drop role ${role}`)
  }
  const result = await fn(role, pool).catch(async (error: unknown) => {
    // The error of the test is the one to see.
    await end().catch(() => undefined)
    throw error
  })
  await end()
  return result
}

describe('cloneTenantSchema', () => {
  it('makes the copy once, marked, with the rows that were asked for', async () => {
    await shop()
    expect(await clone({ data: 'all' })).toBe(true)
    expect(await clone({ data: 'none' })).toBe(false)
    expect(await clone({}, zeta)).toBe(true)
    expect(await schemas()).toEqual(['acme', 'globex', 'zeta'])
    expect(await idsIn('globex.orders')).toEqual([1, 2])
    expect(await idsIn('zeta.orders')).toEqual([])
    expect((await db.query('select owner from globex.customers order by id')).rows).toEqual([
      { owner: 'canary:acme' },
      { owner: 'canary:2' },
    ])
    for (const { id } of [globex, zeta]) expect(await alike('acme', id)).toBe(true)
    expect(await createTenantSchema(central, globex)).toBe(false)
  })

  it('copies rows of some tables, partitions included, and the numbers of their sequences', async () => {
    await shop(`create table event (id serial, at date) partition by range (at);
      create table event_a partition of event for values from ('2026-01-01') to ('2027-01-01') partition by range (id);
      create table event_a1 partition of event_a default;
      insert into event (at) values ('2026-02-02'), ('2026-03-03');`)
    expect(await clone({ data: ['event', 'customers'] })).toBe(true)
    expect(await idsIn('globex.event')).toEqual([1, 2])
    expect(await idsIn('globex.customers')).toEqual([1, 2])
    expect(await idsIn('globex.orders')).toEqual([])
    await db.query(
      "insert into globex.customers (owner) values ('canary:globex'); insert into globex.event (at) values ('2026-01-01')",
    )
    expect(await idsIn('globex.customers')).toEqual([1, 2, 3])
    expect(await idsIn('globex.event')).toEqual([1, 2, 3])
    // The next of the source is its own.
    await db.query("insert into acme.customers (owner) values ('canary:acme')")
    expect(await idsIn('acme.customers')).toEqual([1, 2, 3])
  })

  it('says which rows are missing, and keeps nothing', async () => {
    await shop()
    await expect(clone({ data: ['orders'] })).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
      message: expect.stringContaining('table orders (by its constraint orders_customer_id_fkey'),
      cause: { code: '23503' },
    })
    expect(await schemas()).toEqual(['acme'])
  })

  it('refuses what is not marked, not there, shared, public, or itself', async () => {
    await shop()
    await db.query('create schema unmarked')
    const at = (id: string, schema: string) => createTenant({ id, placement: { schema } })
    for (const [from, to] of [
      [at('thief', 'acme'), globex],
      [acme, at('thief', 'unmarked')],
      [at('thief', 'unmarked'), globex],
      [at('root', 'public'), globex],
      [acme, at('root', 'public')],
    ] as const)
      await expect(cloneTenantSchema(central, from, to)).rejects.toMatchObject(CONFLICT)
    await expect(clone({ sharedSchemas: ['globex'] })).rejects.toMatchObject(CONFLICT)
    await expect(clone({ sharedSchemas: ['acme'] })).rejects.toMatchObject(CONFLICT)
    await expect(cloneTenantSchema(central, zeta, globex)).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_MISSING',
    })
    expect(await schemas()).toEqual(['acme'])
  })

  it.each([
    ['a table that is none', { data: ['customers', 'nowhere'] }],
    ['no list', { data: 'some' }],
    ['an answer that is none', { namedInText: 'yes' }],
    ['no number', { maxLocks: 0 }],
    ['an option that is none', { dta: 'all' }],
  ])('refuses %s', async (_what, options) => {
    await shop()
    await expect(clone(options as CloneTenantSchemaOptions)).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
    })
    await expect(cloneTenantSchema(central, acme, acme)).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
    })
    expect(await schemas()).toEqual(['acme'])
  })

  it.each([
    ['an extension', 'create extension pg_trgm schema acme', 'extension pg_trgm'],
    [
      'a foreign table',
      'create foreign data wrapper w; create server s foreign data wrapper w; create foreign table acme.far (id int) server s',
      'foreign table acme.far',
    ],
    [
      'a publication of a table',
      'create publication p for table acme.orders',
      'table acme.orders (is in a publication)',
    ],
    [
      'a publication of the schema',
      'create publication p for tables in schema acme',
      'publication p',
    ],
    [
      'an event trigger',
      `create function acme.noticed() returns event_trigger language plpgsql as 'begin end'; create event trigger e on ddl_command_end execute function acme.noticed()`,
      'event trigger e',
    ],
    [
      'a foreign key to another tenant',
      'alter table acme.orders add constraint far foreign key (id) references zeta.customers (id)',
      'table constraint far on acme.orders (table zeta.customers)',
    ],
    [
      "a view over another tenant's table",
      'create view acme.peek as select * from zeta.customers',
      'rule "_RETURN" on acme.peek (table zeta.customers)',
    ],
    [
      "a default of another tenant's sequence",
      `alter table acme.orders alter column total set default nextval('zeta.customers_id_seq')`,
      'default value for acme.orders.total (sequence zeta.customers_id_seq)',
    ],
    [
      "a column of another tenant's type",
      `create type zeta.mood as enum ('happy'); alter table acme.orders add mood zeta.mood`,
      'table acme.orders (type zeta.mood)',
    ],
    [
      'a partition elsewhere',
      'create table acme.event (id int) partition by list (id); create table public.event_1 partition of acme.event default',
      'table acme.event (has relatives',
    ],
    [
      'a child of a table elsewhere',
      'create table public.base (id int); create table acme.child () inherits (public.base)',
      'table acme.child (has relatives',
    ],
    [
      'children whose columns stand in no order that they can all have got them in',
      `create table acme.p1 (a int); create table acme.p2 (b int); create table acme.c1 () inherits (acme.p1, acme.p2); create table acme.c2 () inherits (acme.p2, acme.p1);
       alter table acme.p1 add late int`,
      'table acme.c1 (the order of its columns',
    ],
    [
      'an invalid index',
      `insert into acme.orders values (3, 1, 7), (4, 1, 7)~create unique index concurrently broken on acme.orders (total)`,
      'index acme.broken (is not valid)',
    ],
    [
      'an operator class',
      'create operator class acme.mine for type int using btree as operator 1 <, function 1 btint4cmp(int, int)',
      'operator class acme.mine',
    ],
    ['a shell type', 'create type acme.shell', 'type acme.shell'],
    [
      'a foreign key that is switched off',
      'alter table acme.orders disable trigger all',
      'table constraint orders_customer_id_fkey on acme.orders (is not enabled',
    ],
    [
      'a circle',
      `create table acme.loop (id int); create function acme.loops() returns int language sql immutable begin atomic select max(id) from acme.loop; end;
       alter table acme.loop add n int generated always as (acme.loops()) stored`,
      'table loop (in a circle',
    ],
    [
      'an operator in the place of one that the server uses',
      `create function acme.evil(oid, oid) returns boolean language plpgsql as $$ begin raise exception 'canary: ran as somebody else'; end $$;
       create operator acme.= (leftarg = oid, rightarg = oid, function = acme.evil)`,
      'operator acme.=(',
    ],
  ])('refuses %s by name, and changes nothing', async (_what, sql, name) => {
    await shop()
    await createSchemaFromSql(central, zeta, SHOP)
    for (const statement of sql.split('~'))
      await db.query(statement).catch((error: unknown) => {
        if (!statement.includes('concurrently')) throw error
      })
    const before = await fingerprintSchema(central, 'acme')
    await expect(clone({ data: 'all' })).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
      message: expect.stringContaining(name),
    })
    expect(await schemas()).toEqual(['acme', 'zeta'])
    expect(await fingerprintSchema(central, 'acme')).toBe(before)
    const { rows } = await db.query("select nspname from pg_namespace where nspname = 'globex'")
    expect(rows).toEqual([])
  })

  it('says that an index is broken, and copies the others', async () => {
    await shop('create index fine on orders (total);')
    expect(await clone()).toBe(true)
    expect(await alike('acme', 'globex')).toBe(true)
  })
})

describe('texts that name the source', () => {
  it.each([
    [
      'a body',
      `create function f() returns int language sql as 'select count(*)::int from acme.orders'`,
    ],
    [
      'a body, quoted and spaced',
      `create function f() returns int language sql as 'select 1 from "acme" . "orders"'`,
    ],
    [
      'a body in capitals',
      `create function f() returns int language sql as 'select 1 from ACME.Orders'`,
    ],
    [
      'a body with a search_path',
      `create function f() returns void language plpgsql as $$ begin set local search_path = public, acme; end $$`,
    ],
    [
      'a body that is put together',
      `create function f() returns void language plpgsql as $$ begin execute 'select from acme.' || 'orders'; end $$`,
    ],
    [
      'a body with the name as a value',
      `create function f() returns boolean language plpgsql as $$ begin return to_regclass(format('%I.orders', 'acme')) is null; end $$`,
    ],
    [
      'a default by name',
      `alter table orders alter column total set default nextval(('acme.customers_id_seq'::text)::regclass)`,
    ],
    ['a check', `alter table orders add constraint named check (total::text <> 'acme')`],
    ['a view', `create view named as select 'acme.orders'::text as name`],
    [
      "a trigger's argument",
      `create function t() returns trigger language plpgsql as 'begin return new; end'; create trigger t before insert on orders for each row execute function t('acme')`,
    ],
    ['a policy', `create policy p on orders using (to_regclass('acme.orders') is not null)`],
    [
      'a setting',
      `create function f() returns int language sql set app.home = 'acme' as 'select 1'`,
    ],
    [
      'an overloaded function as a value',
      `create function double(bigint) returns bigint language sql as 'select $1'; create view named as select 'double(int)'::regprocedure as a, 'acme.double'::text as b`,
    ],
  ])('%s is refused, and kept if that is said', async (_what, sql) => {
    await shop(sql)
    await expect(clone()).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
      message: expect.stringContaining('names the schema in its text'),
      hint: expect.stringContaining("namedInText: 'keep'"),
    })
    expect(await schemas()).toEqual(['acme'])
    expect(await clone({ namedInText: 'keep' })).toBe(true)
  })

  it.each([
    [
      'a table of that name',
      `create table acme (total int, "a.b" int); create function f() returns int language sql as 'select acme.total from acme'; create view v as select acme.total, acme."a.b" from acme`,
    ],
    [
      'longer names',
      `create function f() returns text language sql as $$ select 'acme_old.orders, old_acme.orders, acme-2.orders, my$acme.orders' $$`,
    ],
    [
      'words in a sentence',
      `create function f() returns text language sql as $$ select 'welcome to acme: it is "acme"' $$; comment on table orders is 'acme.orders'`,
    ],
    [
      'the path of a function',
      `create function f() returns int language sql set search_path = acme, public as 'select 1'`,
    ],
  ])('%s is no such name', async (_what, sql) => {
    await shop(sql)
    expect(await clone()).toBe(true)
    expect(await alike('acme', 'globex')).toBe(_what !== 'no')
  })

  it('gives functions the path of the copy', async () => {
    await shop(
      `create function f() returns text language plpgsql set search_path = "acme", public, "$user" as $$ begin return (select owner from customers where id = 1) || current_schema(); end $$`,
    )
    expect(await clone({ data: 'all' })).toBe(true)
    await db.query("update globex.customers set owner = 'canary:globex' where id = 1")
    expect((await db.query('select acme.f() as a, globex.f() as b')).rows).toEqual([
      { a: 'canary:acmeacme', b: 'canary:globexglobex' },
    ])
  })
})

describe('races', () => {
  it('survives racers: one copy each, everybody happy', async () => {
    await shop()
    const made = await Promise.all(
      Array.from({ length: 12 }, (_, n) => clone({ data: 'all' }, n % 2 ? globex : zeta)),
    )
    expect(made.filter(Boolean)).toHaveLength(2)
    for (const { id } of [globex, zeta]) expect(await idsIn(`${id}.customers`)).toEqual([1, 2])
  })

  it('lets copies of one source be made side by side', async () => {
    await shop()
    const blocker = await central.connect()
    try {
      // What a clone of the same source holds until its end.
      await blocker.query(
        "begin; select pg_advisory_xact_lock_shared(hashtextextended('partywall:schema:acme', 0)); lock table acme.orders in access share mode",
      )
      expect(await clone()).toBe(true)
    } finally {
      await blocker.query('rollback')
      blocker.release()
    }
  })

  it('crosses creations, renames and drops without a deadlock', async () => {
    await shop()
    await createSchemaFromSql(central, zeta, SHOP)
    const results = await Promise.allSettled([
      clone({ data: 'all' }),
      cloneTenantSchema(central, zeta, globex),
      cloneTenantSchema(central, globex, createTenant({ id: 'initech' })),
      createTenantSchema(central, globex),
      renameTenantSchema(central, zeta, createTenant({ id: 'hooli' })),
      dropTenantSchema(central, zeta, { confirm: 'zeta', batchSize: 5 }),
      clone({ data: 'all' }),
    ])
    const codes = results.flatMap((result) =>
      result.status === 'rejected' ? [(result.reason as { code: string }).code] : [],
    )
    for (const code of codes)
      expect(['ERR_TENANCY_SCHEMA_MISSING', 'ERR_TENANCY_TENANT_CHANGED']).toContain(code)
    expect(await schemas()).toEqual(expect.arrayContaining(['acme', 'globex']))
  })

  it('waits for a table that somebody has for himself, without holding what he waits for', async () => {
    await shop()
    const migration = await central.connect()
    try {
      await migration.query('begin; alter table acme.orders add column late int')
      const cloned = clone()
      await waiting('acme')
      // Who holds one table and wants the next one gets it.
      await migration.query('alter table acme.customers add column late int; commit')
      expect(await cloned).toBe(true)
    } finally {
      migration.release()
    }
    expect(await alike('acme', 'globex')).toBe(true)
    expect((await db.query('select late from globex.customers')).fields).toHaveLength(1)
  })

  it('waits for a schema that is being made, and finds it', async () => {
    await shop()
    const maker = await central.connect()
    try {
      await maker.query(
        "begin; select pg_advisory_xact_lock(hashtextextended('partywall:schema:globex', 0)); create schema globex; comment on schema globex is 'partywall tenant globex'",
      )
      const cloned = clone()
      await waiting('partywall:schema')
      await maker.query('commit')
      expect(await cloned).toBe(false)
    } finally {
      maker.release()
    }
  })

  it('is one snapshot: what moves from table to table is there once', async () => {
    // The copy of the first table waits in the middle.
    await shop(`create function wait(n int) returns int immutable language plpgsql as $$ begin
        if current_schema() = 'globex' then perform pg_advisory_xact_lock(77); end if; return n; end $$;
      create table purse (coins int not null, same int generated always as (wait(coins)) stored); create table safe (coins int not null, same int generated always as (wait(coins)) stored);
      insert into purse values (10); insert into safe values (0);`)
    const gate = await central.connect()
    try {
      await gate.query('select pg_advisory_lock(77)')
      const cloned = clone({ data: 'all' })
      await waiting('check_function_bodies')
      await db.query('update acme.purse set coins = 3; update acme.safe set coins = 7')
      await gate.query('select pg_advisory_unlock(77)')
      expect(await cloned).toBe(true)
    } finally {
      gate.release(true)
    }
    const coins = async (schema: string) =>
      (
        await db.query(
          `select purse.coins as purse, safe.coins as safe from ${schema}.purse, ${schema}.safe`,
        )
      ).rows
    expect(await coins('globex')).toEqual([{ purse: 10, safe: 0 }])
    expect(await coins('acme')).toEqual([{ purse: 3, safe: 7 }])
  })

  it('is never half of a migration that runs meanwhile', async () => {
    await shop()
    const stop = new AbortController()
    const migrate = async (): Promise<void> => {
      for (let n = 0; !stop.signal.aborted; n++)
        await db.query(
          n % 2
            ? 'begin; alter table acme.orders drop column extra; drop table acme.extra; commit'
            : 'begin; create table acme.extra (id int primary key); alter table acme.orders add column extra int references acme.extra (id); commit',
        )
    }
    const migrating = migrate()
    try {
      for (let n = 0; n < 6; n++) {
        const id = `copy-${n}`
        await clone({}, createTenant({ id }))
        const { rows } = await db.query(
          `select to_regclass('"${id}".extra') is not null as "table", exists (select from pg_attribute where attrelid = '"${id}".orders'::regclass and attname = 'extra') as "column"`,
        )
        expect(rows[0]?.['table']).toBe(rows[0]?.['column'])
      }
    } finally {
      stop.abort()
      await migrating
    }
  })

  it('keeps migrations of the source away until the end, and lets everybody read and write', async () => {
    await shop()
    // Stops a clone behind its snapshot.
    await db.query(`create function public.wait() returns event_trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(77); end $$;
      create event trigger wait on ddl_command_end when tag in ('CREATE VIEW') execute function public.wait()`)
    const gate = await central.connect()
    const migration = await central.connect()
    try {
      await gate.query('select pg_advisory_lock(77)')
      const cloned = clone()
      await waiting('check_function_bodies')
      await db.query(
        "insert into acme.customers (owner) values ('canary:later'); update acme.customers set owner = 'canary:late' where id = 1; delete from acme.customers where id = 3",
      )
      await migration.query("set lock_timeout = '100ms'")
      for (const sql of [
        'alter table acme.customers drop column owner',
        'drop table acme.customers cascade',
      ])
        await expect(migration.query(sql)).rejects.toMatchObject({ code: '55P03' })
      await gate.query('select pg_advisory_unlock(77)')
      expect(await cloned).toBe(true)
    } finally {
      gate.release(true)
      migration.release(true)
    }
    expect(await alike('acme', 'globex')).toBe(true)
  })

  /** Until somebody waits for a lock while a statement about `text` runs. */
  async function waiting(text: string): Promise<void> {
    for (let n = 0; n < 500; n++) {
      const { rows } = await db.query(
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database() and strpos(query, $1) > 0",
        [text],
      )
      if (rows.length > 0) return
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    throw new Error(`Nobody waits: ${text}`)
  }
})

describe('locks', () => {
  it('counts no fewer than it takes', async () => {
    await shop(
      Array.from(
        { length: 60 },
        (_, n) =>
          `create type mood${n} as enum ('a'); create table t${n} (id serial, body text, n mood${n}); create index on t${n} (n); comment on table t${n} is 'x'; comment on type mood${n} is 'x'; create view v${n} as select * from t${n} where n = 'a'; create function f${n}(mood${n}) returns int language sql as 'select 1';`,
      ).join('\n'),
    )
    const limit = await refusedLocks({ data: 'all', maxLocks: 1 })
    let taken = 0
    const watched = new pg.Pool({ connectionString: db.url, max: 1 })
    watched.on('connect', (client) => {
      const query = client.query.bind(client) as (...args: unknown[]) => unknown
      Object.assign(client, {
        query: async (...args: unknown[]) => {
          if (args[0] === 'commit') {
            const { rows } = (await query(
              'select count(distinct (locktype, relation, classid, objid, transactionid::text))::int as n from pg_locks where pid = pg_backend_pid()',
            )) as pg.QueryResult<{ n: number }>
            taken = rows[0]?.n ?? 0
          }
          return query(...args)
        },
      })
    })
    try {
      await cloneTenantSchema(watched, acme, globex, { data: 'all', maxLocks: limit })
    } finally {
      await watched.end()
    }
    expect(taken).toBeGreaterThan(700)
    expect(limit).toBeGreaterThanOrEqual(taken)
    // Not by far, or schemas would be refused for nothing.
    expect(limit).toBeLessThan(taken * 1.6)
  })

  it('refuses a schema that the lock table does not take, before it is filled', async () => {
    await createTenantSchema(central, acme)
    await db.query(
      `begin; set local search_path = acme; ${Array.from({ length: 200 }, (_, n) => `create table t${n} (id int)`).join(';')}; commit`,
    )
    await expect(clone({ maxLocks: 399 })).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
      message: expect.stringContaining('it takes up to 400 locks at once, and may take 399'),
    })
    await expect(clone({ maxLocks: 400 })).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
      message: expect.stringMatching(/it takes up to \d+ locks at once, and may take 400/),
    })
    expect(await schemas()).toEqual(['acme'])
  })

  async function refusedLocks(options: CloneTenantSchemaOptions): Promise<number> {
    await expect(clone(options)).rejects.toMatchObject({ code: 'ERR_TENANCY_SCHEMA_UNCLONABLE' })
    // The first bound is that of the tables alone; the second one is the real one.
    const second = await clone({ ...options, maxLocks: 200 }).catch((error: unknown) => error)
    return Number(/up to (\d+) locks/.exec(String(second))?.[1])
  }
})

describe('roles and rights', () => {
  it("puts the target's own role in the place of the source's", async () => {
    await withRole('nologin noinherit', async (gate) => {
      const suffix = randomBytes(4).toString('hex')
      const [one, two] = [`one-${suffix}`, `two-${suffix}`]
      const [source, target] = [createTenant({ id: one }), createTenant({ id: two })]
      const [own, other] = [physicalName('role', one), physicalName('role', two)]
      try {
        await createSchemaFromSql(central, source, SHOP)
        await createTenantRole(central, source, { gate, ownership: 'tenant' })
        await db.query(
          `alter table "${one}".orders enable row level security; create policy mine on "${one}".orders to "${own}" using (total < 10); revoke all on "${one}".customers from "${own}"; grant select (owner) on "${one}".customers to "${own}"`,
        )
        expect(await cloneTenantSchema(central, source, target, { data: 'all' })).toBe(true)
        expect(await alike(one, two)).toBe(true)
        const { rows } = await db.query(
          `select c.relname, pg_get_userbyid(c.relowner) as owner, c.relacl::text as acl from pg_class c where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'v', 'S') order by 1`,
          [`"${two}"`],
        )
        expect(rows.map(({ owner }) => owner)).toEqual(rows.map(() => other))
        expect(JSON.stringify(rows)).not.toContain(own)
        // The clone is complete: nothing is left for this call but the gate.
        const before = await fingerprintSchema(central, two)
        expect(await createTenantRole(central, target, { gate, ownership: 'tenant' })).toBe(false)
        await db.query(
          `revoke all on "${two}".customers from "${other}"; grant select (owner) on "${two}".customers to "${other}"`,
        )
        expect(await fingerprintSchema(central, two)).toBe(before)
        const { rows: foreign } = await db.query(
          `select has_schema_privilege($1, $3::text, 'usage') as a, has_schema_privilege($2, $4::text, 'usage') as b, has_schema_privilege($2, $3::text, 'usage') as own`,
          [own, other, two, one],
        )
        expect(foreign).toEqual([{ a: false, b: false, own: true }])
      } finally {
        await db.query(`drop schema if exists "${one}", "${two}" cascade`)
        for (const role of [own, other])
          if ((await db.query('select from pg_roles where rolname = $1', [role])).rowCount === 1)
            await db.query(`drop owned by "${role}"; drop role "${role}"`)
      }
    })
  })

  it('copies grants of every kind as they are: passed on, taken away, and those that new objects get', async () => {
    await withRole('nologin', (owner) =>
      withRole('nologin', (reader) =>
        withRole('nologin', async (other) => {
          await shop(
            `grant usage on schema acme to ${reader} with grant option; grant usage, create on schema acme to ${owner};
             grant select, insert on orders to ${reader} with grant option; set local role ${reader}; grant select on orders to ${other}; reset role;
             revoke all on customers from current_user; grant update (owner) on customers to ${reader} with grant option;
             create type mood as enum ('happy'); revoke usage on type mood from public; grant usage on type mood to ${reader};
             revoke execute on function double(int) from public; grant execute on function double(int) to ${reader};
             grant usage on sequence customers_id_seq to ${reader}; alter view open_orders owner to ${owner}; alter type mood owner to ${owner};
             alter default privileges in schema acme grant select on tables to ${reader} with grant option; alter default privileges for role ${owner} in schema acme grant execute on functions to ${reader};`,
          )
          // What whoever clones would give to new objects by itself.
          await db.query(
            `alter default privileges grant delete on tables to ${other}; alter default privileges revoke execute on functions from public; alter default privileges grant usage on schemas to ${other}`,
          )
          expect(await clone({ data: 'none' })).toBe(true)
          expect(await alike('acme', 'globex')).toBe(true)
          const acls = async (schema: string) =>
            (
              await db.query(
                // What is built in is the same, said or not.
                `select relname as name, array(select unnest(coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner)))::text order by 1) as acl, pg_get_userbyid(relowner) as owner
                 from pg_class where relnamespace = $1::text::regnamespace and relkind in ('r', 'v', 'S')
                 union all select a.attname, a.attacl::text[], c.relname from pg_attribute a join pg_class c on c.oid = a.attrelid where c.relnamespace = $1::text::regnamespace and attacl is not null
                 union all select 'schema', array(select unnest(nspacl)::text order by 1), pg_get_userbyid(nspowner) from pg_namespace where nspname = $1
                 union all select typname, typacl::text[], pg_get_userbyid(typowner) from pg_type where typnamespace = $1::text::regnamespace and typacl is not null
                 union all select proname, array(select unnest(proacl)::text order by 1), pg_get_userbyid(proowner) from pg_proc where pronamespace = $1::text::regnamespace
                 union all select defaclobjtype::text, defaclacl::text[], pg_get_userbyid(defaclrole) from pg_default_acl where defaclnamespace = $1::text::regnamespace order by 1, 3`,
                [schema],
              )
            ).rows
          const copied = await acls('globex')
          expect(copied).toEqual(await acls('acme'))
          expect(JSON.stringify(copied)).toContain(`${other}=r/${reader}`)
          await db.query(
            `alter default privileges revoke delete on tables from ${other}; alter default privileges grant execute on functions to public; alter default privileges revoke usage on schemas from ${other}; drop schema acme, globex cascade`,
          )
        }),
      ),
    )
  })

  it('works for an owner who is no superuser, and refuses what that one may not give away', async () => {
    await withRole('login createrole', (owner, pool) =>
      withRole('nologin', async (stranger) => {
        await db.query(
          `grant create on database ${db.name} to ${owner}; grant create on schema public to ${owner}`,
        )
        await createSchemaFromSql(pool, acme, SHOP)
        expect(await cloneTenantSchema(pool, acme, globex, { data: 'all' })).toBe(true)
        expect(await alike('acme', 'globex')).toBe(true)
        await db.query(`alter view acme.open_orders owner to ${stranger}`)
        await expect(cloneTenantSchema(pool, acme, zeta)).rejects.toMatchObject({
          code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
          message: expect.stringContaining(`the role ${stranger}`),
        })
        await db.query('drop schema acme cascade; drop schema globex cascade')
      }),
    )
  })

  it('refuses rows that a policy hides from whoever clones', async () => {
    await withRole('login', async (owner, pool) => {
      await db.query(`grant create on database ${db.name} to ${owner}`)
      await createSchemaFromSql(
        pool,
        acme,
        `${SHOP} alter table orders enable row level security, force row level security; create policy few on orders using (id = 1);`,
      )
      await expect(cloneTenantSchema(pool, acme, globex, { data: 'all' })).rejects.toMatchObject({
        code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
        message: expect.stringContaining('table acme.orders (its row policies hide rows'),
      })
      // Without its rows, and by somebody who sees them, it is fine.
      expect(await cloneTenantSchema(pool, acme, zeta, { data: ['customers'] })).toBe(true)
      expect(await clone({ data: 'all' })).toBe(true)
      expect(await idsIn('globex.orders')).toEqual([1, 2])
      await db.query('drop schema acme, globex, zeta cascade')
    })
  })

  it("runs nothing of the schema's that stands in the place of the server's own", async () => {
    // Operators and casts that the statements of a clone could mean if they were found by name.
    const evil = `create function evil() returns text language plpgsql as $$ begin raise exception 'canary: ran as somebody else'; end $$;
      create function evil(int, int) returns boolean language plpgsql as $$ begin raise exception 'canary: ran as somebody else'; end $$;
      create function evil(text, text) returns text language plpgsql as $$ begin raise exception 'canary: ran as somebody else'; end $$;
      create operator = (leftarg = int, rightarg = int, function = evil);
      create operator || (leftarg = text, rightarg = text, function = evil);
      create function format(text, variadic "any") returns text language internal as 'text_format';
      create function setval(regclass, bigint, boolean) returns bigint language plpgsql as $$ begin raise exception 'canary: ran as somebody else'; end $$;
      create function num_nulls(variadic "any") returns int language internal as 'pg_num_nulls';
      create type mood as enum ('happy'); create function evil(mood) returns text language plpgsql as $$ begin raise exception 'canary: ran as somebody else'; end $$;
      create cast (mood as text) with function evil(mood); create table moods (id int, mood mood); insert into moods values (1, 'happy');
      create view compared as select id operator(pg_catalog.=) 1 as same from orders;`
    await shop(evil)
    expect(await clone({ data: 'all' })).toBe(true)
    expect(await alike('acme', 'globex')).toBe(true)
    expect((await db.query('select same from globex.compared order by 1')).rows).toEqual([
      { same: false },
      { same: true },
    ])
  })
})

describe('the end', () => {
  it('is the comparison of both: what came out otherwise is not kept', async () => {
    await shop()
    // Somebody changes what is made, as no statement of a clone would.
    await db.query(`create function public.meddle() returns event_trigger language plpgsql as $$ begin
        if tg_tag = 'CREATE VIEW' then execute 'create index meddled on globex.orders (total)'; end if; end $$;
      create event trigger meddle on ddl_command_end execute function public.meddle()`)
    await expect(clone()).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
      message: expect.stringContaining('index orders.meddled (would not be the same)'),
    })
    expect(await schemas()).toEqual(['acme'])
  })

  it('leaves nothing of a clone that the server refused', async () => {
    await shop('create table twice (id int);')
    await db.query('create schema globex_old')
    await db.query(`create function public.refuse() returns event_trigger language plpgsql as $$ begin raise exception 'refused'; end $$;
      create event trigger refuse on ddl_command_end when tag in ('CREATE VIEW') execute function public.refuse()`)
    await expect(clone({ data: 'all' })).rejects.toMatchObject({ code: 'P0001' })
    expect(await schemas()).toEqual(['acme'])
  })

  it('needs no second connection', async () => {
    await shop()
    const one = new pg.Pool({ connectionString: db.url, max: 1 })
    try {
      expect(await cloneTenantSchema(one, acme, globex, { data: 'all' })).toBe(true)
    } finally {
      await one.end()
    }
  })
})
