import { randomBytes } from 'node:crypto'
import { canary, createTestDatabase, eventually, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { applyRowIsolation } from './row-isolation-apply.ts'
import { assertRowIsolation } from './row-isolation-assert.ts'
import { rowIsolationMigration } from './row-isolation-migration.ts'
import { planRowIsolation, type RowIsolationOptions } from './row-isolation-plan.ts'
import { fingerprintSchema } from './schema-fingerprint.ts'

const SHOP = `create table shop.country (code text primary key);
  create table shop.parent (id int primary key, email text unique, country text references shop.country);
  create table shop.child (id serial primary key, parent_id int not null constraint of_parent references shop.parent on delete cascade, note text);
  create view shop.notes as select note from shop.child;`
const SHARED = { sharedTables: ['country'] }
const FAILED = 'ERR_TENANCY_ROW_ISOLATION_FAILED'

const salt = randomBytes(4).toString('hex')
/** Owns the tables, and is nobody else: policies hold for it, too. */
const OWNER = `row_owner_${salt}`
const APP = `row_reader_${salt}`

let db: TestDatabase
/** As the owner. */
let central: pg.Pool

beforeEach(async () => {
  db = await createTestDatabase()
  await db.query(`create role ${OWNER} login password 'secret'; create role ${APP} login password 'secret';
    create schema shop authorization ${OWNER}; grant usage on schema shop to ${APP}`)
  const url = Object.assign(new URL(db.url), { username: OWNER, password: 'secret' })
  central = new pg.Pool({ connectionString: url.href, max: 4 })
  // end() does not wait for the sockets, and the database is dropped under them.
  central.on('connect', (client) => client.on('error', () => undefined))
  await central.query(SHOP)
})
afterEach(async () => {
  const lent = central.totalCount - central.idleCount
  // A client that a failed test kept would hold this up; the database is dropped under it.
  void central.end()
  await db.query(`drop owned by ${OWNER}, ${APP} cascade; drop role ${OWNER}, ${APP}`)
  await db[Symbol.asyncDispose]()
  expect(lent).toBe(0)
})

const options: RowIsolationOptions = { schema: 'shop', ...SHARED }
const plan = (more: Partial<RowIsolationOptions> = {}) =>
  planRowIsolation(central, { ...options, ...more })
const apply = (more: Partial<RowIsolationOptions> = {}) =>
  applyRowIsolation(central, { ...options, ...more })
const fingerprint = () => fingerprintSchema(central, 'shop')
/** What the next plan is about, and why. */
const reasons = async (): Promise<string[]> => [
  ...new Set((await plan()).statements.map(({ object, why }) => `${object}: ${why}`)),
]

async function fillTwoTenants(): Promise<void> {
  for (const id of ['acme', 'globex'])
    await db.query(`begin; select set_config('app.tenant_id', '${id}', true);
      insert into shop.parent values (1, 'a@b.c'); insert into shop.child (id, parent_id, note) values (1, 1, '${canary(id, 1)}'); commit`)
}

describe('applying', () => {
  it('is done once: what is repeated finds nothing to do, and locks nothing', async () => {
    const first = await apply()
    expect(first.statements.length).toBeGreaterThan(10)
    const before = await fingerprint()
    // A transaction that writes does not hold it up.
    const busy = await central.connect()
    await busy.query('begin; lock table shop.parent, shop.child in row exclusive mode')
    expect((await applyRowIsolation(central, first, { lockTimeoutMs: 1 })).statements).toEqual([])
    await busy.query('rollback')
    busy.release()
    expect(await fingerprint()).toBe(before)
  })

  it('may be raced', async () => {
    const outcomes = await Promise.all([apply(), apply(), apply({ role: 'none' })])
    expect(outcomes.filter(({ statements }) => statements.length > 0)).toHaveLength(1)
    expect(await reasons()).toEqual([])
  })

  it('may be raced by many who hold the same plan', async () => {
    const shared = await plan()
    const outcomes = await Promise.all([1, 2, 3].map(() => applyRowIsolation(central, shared)))
    expect(outcomes.map(({ statements }) => statements.length).sort((a, b) => a - b)).toEqual([
      0,
      0,
      shared.statements.length,
    ])
  })

  it('is all or nothing', async () => {
    await db.query('create table shop.own (id int)')
    const before = await fingerprint()
    // The last of the tables is not the owner's to alter.
    await expect(apply()).rejects.toMatchObject({
      code: FAILED,
      cause: expect.objectContaining({ code: '42501' }),
    })
    expect(await fingerprint()).toBe(before)
  })

  it('refuses a plan after the schema has changed', async () => {
    const old = await plan()
    await central.query('alter table shop.child add constraint once unique (note)')
    const before = await fingerprint()
    await expect(applyRowIsolation(central, old)).rejects.toMatchObject({
      code: FAILED,
      message: expect.stringContaining('changed since the plan'),
    })
    expect(await fingerprint()).toBe(before)
    await applyRowIsolation(central, await plan())
    expect(await reasons()).toEqual([])
  })

  it('gives up when a table stays locked, and waits for one that does not', async () => {
    const busy = await central.connect()
    await busy.query('begin; lock table shop.child in access share mode')
    const before = await fingerprint()
    await expect(applyRowIsolation(central, options, { lockTimeoutMs: 50 })).rejects.toMatchObject({
      code: FAILED,
      hint: expect.stringContaining('lockTimeoutMs'),
      cause: expect.objectContaining({ code: '55P03' }),
    })
    expect(await fingerprint()).toBe(before)
    const waiting = applyRowIsolation(central, options, { lockTimeoutMs: 10_000 })
    await eventually(
      async () =>
        (
          await db.query(
            "select from pg_locks where relation = 'shop.child'::regclass and not granted",
          )
        ).rowCount,
    )
    // What it waits behind changes the schema: it looks again, and covers the newcomer.
    await busy.query('create table shop.newcomer (id int primary key)')
    await busy.query('commit')
    busy.release()
    const { tables } = await waiting
    expect(tables).toEqual(['shop.child', 'shop.newcomer', 'shop.parent'])
    expect(await reasons()).toEqual([])
  })

  it('finds rows that refer to rows of another tenant, and leaves all as it was', async () => {
    await central.query(`alter table shop.parent add column tenant_id text; alter table shop.child add column tenant_id text;
      insert into shop.parent values (1, 'a', null, 'acme'), (2, 'b', null, 'globex');
      insert into shop.child values (1, 1, 'fine', 'acme'), (2, 2, 'stray', 'acme')`)
    const before = await fingerprint()
    await expect(apply()).rejects.toMatchObject({
      code: FAILED,
      cause: expect.objectContaining({ code: '23503' }),
      hint: expect.stringContaining('another tenant'),
    })
    expect(await fingerprint()).toBe(before)
    await central.query("update shop.child set tenant_id = 'globex' where id = 2")
    await apply()
    expect(await reasons()).toEqual([])
  })

  it('refuses a lockTimeoutMs that is none', async () => {
    for (const lockTimeoutMs of [0, -1, 1.5, Number.NaN])
      await expect(applyRowIsolation(central, options, { lockTimeoutMs })).rejects.toMatchObject({
        code: 'ERR_TENANCY_OPTION_INVALID',
      })
  })
})

describe('an owner for whom the policies hold', () => {
  it('adds a table with rows that refer to isolated ones', async () => {
    await apply()
    await fillTwoTenants()
    await central.query(`create table shop.remark (tenant_id text, id int primary key, child_id int);
      insert into shop.remark values ('acme', 1, 1), ('globex', 2, 1)`)
    // Widened by hand half way: the key leads to the key of the isolated table, and the table has no tenant yet that counts.
    await db.query(
      'alter table shop.remark add constraint of_child foreign key (tenant_id, child_id) references shop.child',
    )
    expect((await plan()).findings).toEqual([])
    await apply()
    expect(await reasons()).toEqual([])
    await central.query('drop table shop.remark')

    await central.query(
      `create table shop.remark (id int primary key, child_id int, self int references shop.remark)`,
    )
    await apply()
    expect(await reasons()).toEqual([])
  })

  it('does not declare a foreign key valid that it cannot see the rows of', async () => {
    await apply()
    await fillTwoTenants()
    // Somebody takes the tenant out of the key, and a row of one tenant refers to what only the other has.
    await db.query(`insert into shop.parent (tenant_id, id) values ('globex', 2);
      alter table shop.child drop constraint of_parent; insert into shop.child (tenant_id, id, parent_id) values ('acme', 2, 2);
      create unique index by_id on shop.parent (id) where false; drop index shop.by_id;
      update shop.parent set id = 7 where tenant_id = 'acme'; update shop.child set parent_id = 7 where tenant_id = 'acme' and id = 1;
      alter table shop.parent add constraint by_id unique (id)`)
    await db.query(
      'alter table shop.child add constraint of_parent foreign key (parent_id) references shop.parent (id)',
    )
    expect(await reasons()).toContain('shop.child: of_parent is without the tenant')
    await expect(apply()).rejects.toMatchObject({
      code: FAILED,
      cause: expect.objectContaining({ code: '23503' }),
    })
    await db.query('delete from shop.child where id = 2')
    await apply()
    expect(await reasons()).toEqual([])
    const { rows } = await db.query(
      "select relforcerowsecurity as forced from pg_class where relname in ('parent', 'child')",
    )
    expect(rows).toEqual([{ forced: true }, { forced: true }])
  })

  it('fills in rows of no tenant that somebody let in', async () => {
    await apply()
    await fillTwoTenants()
    await db.query(`alter table shop.child drop constraint partywall_tenant_id_check, drop constraint of_parent, drop constraint child_pkey; alter table shop.child alter column tenant_id drop not null;
      insert into shop.child (tenant_id, id, parent_id, note) values (null, 5, 1, 'x'), ('', 6, 1, 'y')`)
    // The owner cannot see whether there are any; NOT NULL finds out.
    await expect(apply()).rejects.toMatchObject({
      code: FAILED,
      cause: expect.objectContaining({ code: '23502' }),
    })
    await expect(applyRowIsolation(pool(db.url), options)).rejects.toMatchObject({
      code: FAILED,
      message: expect.stringContaining('PARTYWALL_ROW_EXISTING_ROWS'),
    })
    await apply({ tenantIdForExistingRows: 'acme' })
    expect(
      (await db.query('select tenant_id, count(*)::int from shop.child group by 1 order by 1'))
        .rows,
    ).toEqual([
      { tenant_id: 'acme', count: 3 },
      { tenant_id: 'globex', count: 1 },
    ])
    expect(await reasons()).toEqual([])
  })

  const opened: pg.Pool[] = []
  function pool(connectionString: string): pg.Pool {
    const made = new pg.Pool({ connectionString, max: 1 })
    opened.push(made)
    return made
  }
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((one) => one.end()))
  })
})

describe('what somebody changed by hand', () => {
  const POLICY = 'its policy is not the one of its tenant'
  const SETTING = "nullif(current_setting('app.tenant_id', true), '')"

  it.each([
    [
      'FORCE',
      'alter table shop.child no force row level security',
      ['row security does not hold for the owner'],
    ],
    ['row security', 'alter table shop.child disable row level security', ['row security is off']],
    ['the policy', 'drop policy partywall_tenant on shop.child', ['no policy']],
    [
      'its name',
      'alter policy partywall_tenant on shop.child rename to mine',
      ['PARTYWALL_ROW_POLICY_BESIDE', 'no policy'],
    ],
    ['its condition', 'alter policy partywall_tenant on shop.child using (true)', [POLICY]],
    ['its check', 'alter policy partywall_tenant on shop.child with check (true)', [POLICY]],
    ['its roles', `alter policy partywall_tenant on shop.child to ${APP}`, [POLICY]],
    [
      'WITH CHECK',
      `drop policy partywall_tenant on shop.child; create policy partywall_tenant on shop.child using (tenant_id = ${SETTING})`,
      [POLICY],
    ],
    [
      'its command',
      `drop policy partywall_tenant on shop.child; create policy partywall_tenant on shop.child for select using (tenant_id = ${SETTING})`,
      [POLICY],
    ],
    [
      'its kind',
      `drop policy partywall_tenant on shop.child; create policy partywall_tenant on shop.child as restrictive using (tenant_id = ${SETTING}) with check (tenant_id = ${SETTING})`,
      [POLICY],
    ],
    [
      'the empty string',
      "drop policy partywall_tenant on shop.child; create policy partywall_tenant on shop.child using (tenant_id = current_setting('app.tenant_id', true)) with check (tenant_id = current_setting('app.tenant_id', true))",
      [POLICY],
    ],
    [
      'the default',
      'alter table shop.child alter column tenant_id drop default',
      ['the tenant is not filled in'],
    ],
    [
      'a default of its own',
      "alter table shop.child alter column tenant_id set default 'acme'",
      ['the tenant is not filled in'],
    ],
    [
      'NOT NULL',
      'alter table shop.child drop constraint child_pkey, drop constraint of_parent, alter column tenant_id drop not null; alter table shop.child add constraint of_parent foreign key (tenant_id, parent_id) references shop.parent on delete cascade',
      ['rows may have no tenant'],
    ],
    [
      'the check',
      'alter table shop.child drop constraint partywall_tenant_id_check',
      ['rows may be of an empty tenant'],
    ],
    [
      'what the check says',
      "alter table shop.child drop constraint partywall_tenant_id_check, add constraint partywall_tenant_id_check check (tenant_id <> 'x')",
      ['rows may be of an empty tenant'],
    ],
    [
      'a check that is not valid',
      "alter table shop.child drop constraint partywall_tenant_id_check, add constraint partywall_tenant_id_check check (tenant_id <> '') not valid",
      ['rows may be of an empty tenant'],
    ],
    [
      'a key',
      'alter table shop.child add constraint once unique (note)',
      ['once is without the tenant'],
    ],
    [
      'a unique index',
      'create unique index once on shop.child (lower(note))',
      ['once is without the tenant'],
    ],
    [
      'TRUNCATE',
      `grant truncate on shop.child to ${APP}`,
      [`${APP} may truncate, which no policy bounds`],
    ],
    [
      'TRIGGER for all',
      'grant trigger on shop.child to public',
      ['public may trigger, which no policy bounds'],
    ],
    [
      'CREATE',
      'grant create on schema shop to public',
      ['anybody may create objects in the schema'],
    ],
    [
      'the view',
      'alter view shop.notes reset (security_invoker)',
      ['the view reads with the rights of its owner'],
    ],
  ])('%s is found, refused at the start, and put right', async (_, sql, whys) => {
    await apply()
    await assertRowIsolation(central, options)
    const before = await fingerprint()
    await db.query(sql)
    const error = await assertRowIsolation(central, options).then(
      () => expect.fail('nothing was found'),
      (thrown: Error) => thrown,
    )
    expect(error).toMatchObject({ code: 'ERR_TENANCY_ROW_ISOLATION_MISSING' })
    for (const why of whys) expect(error.message).toContain(why)
    if (whys.some((why) => why.startsWith('PARTYWALL'))) {
      await expect(apply()).rejects.toMatchObject({ code: FAILED })
      await db.query('drop policy mine on shop.child')
    }
    await apply()
    await assertRowIsolation(central, options)
    if (!/unique|child_pkey/.test(sql)) expect(await fingerprint()).toBe(before)
  })

  it('and a new table, are all that the next plan is about', async () => {
    await apply()
    await central.query('create table shop.extra (id int primary key, child_id int)')
    const { statements, tables } = await apply()
    expect(tables).toContain('shop.extra')
    expect(new Set(statements.map(({ object }) => object))).toEqual(new Set(['shop.extra']))
  })

  it('an index that is missing makes it slower, and is no reason not to start', async () => {
    await central.query('create table shop.log (note text)')
    await apply()
    await central.query('drop index shop.log_tenant_id_idx')
    await assertRowIsolation(central, options)
    expect(await reasons()).toEqual(['shop.log: no index begins with the tenant'])
  })
})

describe('asserting', () => {
  it('names the tables, in one question, with no right on them', async () => {
    const url = Object.assign(new URL(db.url), { username: APP, password: 'secret' })
    const reader = new pg.Pool({ connectionString: url.href, max: 1 })
    reader.on('connect', (client) => client.on('error', () => undefined))
    try {
      await expect(assertRowIsolation(reader, options)).rejects.toMatchObject({
        code: 'ERR_TENANCY_ROW_ISOLATION_MISSING',
        message: expect.stringMatching(
          /shop\.child \(.*no policy.*\); shop\.parent \(|shop\.parent \(.*\); shop\.child \(/,
        ),
      })
      await apply()
      await assertRowIsolation(reader, options)
      await expect(assertRowIsolation(reader, { schema: 'shop' })).rejects.toMatchObject({
        message: expect.stringContaining('shop.country'),
      })
    } finally {
      await reader.end()
    }
  })

  it('takes policies of either kind, unless it is told which the pool needs', async () => {
    for (const [role, other] of [
      ['none', 'per-tenant'],
      ['per-tenant', 'none'],
    ] as const) {
      await apply({ role })
      await assertRowIsolation(central, options)
      await assertRowIsolation(central, { ...options, role })
      await expect(assertRowIsolation(central, { ...options, role: other })).rejects.toMatchObject({
        code: 'ERR_TENANCY_ROW_ISOLATION_MISSING',
      })
    }
  })

  it('does not mind a shared table that is not there yet, and knows its options', async () => {
    await apply()
    await assertRowIsolation(central, { schema: 'shop', sharedTables: ['country', 'currency'] })
    await expect(assertRowIsolation(central, { schema: 'nowhere' })).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_MISSING',
    })
    await expect(
      assertRowIsolation(central, { schema: 'shop', shared: [] } as never),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_OPTION_INVALID' })
  })
})

describe('the migration', () => {
  it('makes of one database what applying makes of another, whatever its path is', async () => {
    await central.query(
      `create table shop."it's; -- $$ $revoke$" (id int primary key, tenant_id text); comment on constraint parent_pkey on shop.parent is 'a ; b \\ ''c'''`,
    )
    await db.query(`grant all on all tables in schema shop to ${APP}`)
    const { sql, id, checksum } = rowIsolationMigration(await plan(), '042-rows')
    expect(id).toBe('042-rows')
    expect(checksum).toHaveLength(64)
    expect(sql).not.toContain(APP)
    const client = await central.connect()
    await client.query('begin; set local search_path to shop, public')
    await client.query(sql)
    expect((await client.query("select current_setting('search_path') as path")).rows).toEqual([
      { path: 'shop, public' },
    ])
    const made = await fingerprintSchema(client, 'shop')
    await client.query('rollback')
    client.release()
    await apply()
    expect(await fingerprint()).toBe(made)
    await assertRowIsolation(central, options)
  })

  it('fails where rows are nobody’s, and fills them where it was told whose they are', async () => {
    const empty = rowIsolationMigration(await plan(), '1')
    const filling = rowIsolationMigration(await plan({ tenantIdForExistingRows: 'acme' }), '2')
    await central.query("insert into shop.parent values (1, 'a')")
    await expect(central.query(empty.sql)).rejects.toMatchObject({ code: '23502' })
    await central.query(filling.sql)
    await assertRowIsolation(central, options)
    expect((await db.query('select tenant_id from shop.parent')).rows).toEqual([
      { tenant_id: 'acme' },
    ])
  })

  it('is not made of a plan with errors', async () => {
    await central.query('create materialized view shop.copy as select * from shop.child')
    const refused = await plan()
    expect(() => rowIsolationMigration(refused, '1')).toThrow(
      expect.objectContaining({ code: FAILED }),
    )
  })
})
