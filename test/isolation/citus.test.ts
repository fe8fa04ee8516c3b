import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createTenant } from '@partywall/core'
import {
  cloneTenantSchema,
  createSchemaFromSql,
  createTenantSchema,
  doctor,
  dropTenantSchema,
  fingerprintSchema,
  renameTenantSchema,
} from '@partywall/postgres'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

/** Not a live Citus, but what its documentation and its own tests promise: citus-contract.sql says where each line is from. */
async function installCitus(version = '12.1-1'): Promise<void> {
  const sql = await readFile(new URL('./citus-contract.sql', import.meta.url), 'utf8')
  const client = new pg.Client({ connectionString: db.url })
  await client.connect()
  await client.query(sql.replaceAll(':version', version))
  await client.end()
}

const acme = createTenant({ id: 'acme' })
const globex = createTenant({ id: 'globex' })
const SHOP = `create table customers (id bigserial primary key, owner text not null);
create table orders (id int primary key, customer_id bigint references customers (id));
insert into customers (owner) values ('canary:' || current_schema()), ('canary:2'); insert into orders values (1, 1), (2, 2);
create view open_orders as select * from orders;`
const UNSUPPORTED = { code: 'ERR_TENANCY_ENGINE_UNSUPPORTED' }
const engine = 'citus'

let db: TestDatabase
let central: pg.Pool

beforeEach(async () => {
  db = await createTestDatabase()
  central = new pg.Pool({ connectionString: db.url, max: 2 })
})
afterEach(async () => {
  // The setting ends with each transaction.
  const settings = await Promise.all(
    [1, 2].map(() =>
      central.query("select current_setting('citus.enable_schema_based_sharding', true) as s"),
    ),
  )
  for (const { rows } of settings) expect([null, '']).toContain(rows[0]?.s)
  await central.end()
  await db[Symbol.asyncDispose]()
})

const distributed = async (): Promise<unknown[]> =>
  (
    await db.query(
      'select schemaid::regnamespace::text as schema, (select count(*)::int from pg_dist_partition p join pg_class c on c.oid = p.logicalrelid where c.relnamespace = schemaid) as tables from pg_dist_schema order by 1',
    )
  ).rows
const schemas = async (): Promise<unknown[]> =>
  (
    await db.query(
      "select nspname from pg_namespace where nspname in ('acme', 'globex') order by 1",
    )
  ).rows.map(({ nspname }) => nspname)

describe('engine: citus', () => {
  it('distributes schemas and their tables, whichever way they are made', async () => {
    await installCitus()
    const [zeta, initech] = [createTenant({ id: 'zeta' }), createTenant({ id: 'initech' })]
    expect(await createTenantSchema(central, acme, { engine })).toBe(true)
    expect(await createTenantSchema(central, acme, { engine })).toBe(false)
    expect(await createSchemaFromSql(central, globex, SHOP, { engine })).toBe(true)
    expect(await createSchemaFromSql(central, globex, SHOP, { engine })).toBe(false)
    expect(await cloneTenantSchema(central, globex, zeta, { engine, data: 'all' })).toBe(true)
    expect(await cloneTenantSchema(central, globex, zeta, { engine, data: 'all' })).toBe(false)
    // Without a word, a schema is a plain one.
    expect(await createSchemaFromSql(central, initech, SHOP)).toBe(true)
    expect(await distributed()).toEqual([
      { schema: 'acme', tables: 0 },
      { schema: 'globex', tables: 2 },
      { schema: 'zeta', tables: 2 },
    ])
    expect(await fingerprintSchema(central, 'zeta')).toBe(
      await fingerprintSchema(central, 'globex'),
    )
    expect((await db.query('select owner from zeta.customers order by id')).rows).toEqual([
      { owner: 'canary:globex' },
      { owner: 'canary:2' },
    ])
  })

  it('keeps the rest of the schema tools working', async () => {
    await installCitus()
    await createSchemaFromSql(central, acme, SHOP, { engine })
    expect(await renameTenantSchema(central, acme, globex)).toBe(true)
    expect(await distributed()).toEqual([{ schema: 'globex', tables: 2 }])
    expect(await dropTenantSchema(central, globex, { confirm: 'globex' })).toBeGreaterThan(0)
    expect(await distributed()).toEqual([])
  })

  it.each([
    ['is not installed', () => Promise.resolve(), /not installed/],
    ['is too old', () => installCitus('11.3-2'), /version 11\.3-2/],
    [
      'is that of a worker',
      async () => {
        await installCitus()
        await db.query('update pg_dist_local_group set groupid = 3')
      },
      /worker/,
    ],
  ])(
    'refuses, before anything is changed, where the extension %s',
    async (_what, prepare, message) => {
      await prepare()
      await createSchemaFromSql(central, acme, SHOP)
      for (const attempt of [
        () => createTenantSchema(central, globex, { engine }),
        () => createSchemaFromSql(central, globex, SHOP, { engine }),
        () => cloneTenantSchema(central, acme, globex, { engine }),
      ])
        await expect(attempt()).rejects.toMatchObject({
          ...UNSUPPORTED,
          message: expect.stringMatching(message),
        })
      expect(await schemas()).toEqual(['acme'])
      const { findings } = await doctor(central, { engine })
      expect(findings.map(({ code }) => code)).toContain('PARTYWALL_CITUS_UNUSABLE')
      await expect(
        createTenantSchema(central, globex, { engine: 'cockroach' as 'citus' }),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_OPTION_INVALID' })
    },
  )

  it('keeps no plain schema if Citus did not do what it was asked', async () => {
    await installCitus()
    await createSchemaFromSql(central, acme, SHOP)
    await db.query('drop event trigger citus_contract_create')
    await db.query(
      'create or replace function pg_catalog.citus_schema_distribute(schemaname regnamespace) returns void language sql as $$ select $$',
    )
    for (const attempt of [
      () => createTenantSchema(central, globex, { engine }),
      () => createSchemaFromSql(central, globex, SHOP, { engine }),
      () => cloneTenantSchema(central, acme, globex, { engine, data: 'all' }),
    ])
      await expect(attempt()).rejects.toMatchObject({ ...UNSUPPORTED, cause: { code: 'PW001' } })
    expect(await schemas()).toEqual(['acme'])
  })

  it('holds the rows of the source still while they are copied, because there is no snapshot of the whole cluster', async () => {
    await installCitus()
    await createSchemaFromSql(central, acme, SHOP, { engine })
    await db.query(
      `create function public.wait() returns event_trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(77); end $$;
       create event trigger wait on ddl_command_end when tag in ('CREATE VIEW') execute function public.wait()`,
    )
    const gate = new pg.Client({ connectionString: db.url })
    const writer = new pg.Client({ connectionString: db.url })
    await Promise.all([gate.connect(), writer.connect()])
    try {
      await gate.query('select pg_advisory_lock(77)')
      const cloned = cloneTenantSchema(central, acme, globex, { engine, data: 'all' })
      for (let waits = 0; waits === 0; ) {
        const { rows } = await gate.query(
          "select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
        )
        waits = rows[0]?.n
      }
      await writer.query("set lock_timeout = '100ms'")
      await expect(
        writer.query('update acme.orders set id = 3 where id = 1'),
      ).rejects.toMatchObject({
        code: '55P03',
      })
      expect((await writer.query('select from acme.orders')).rowCount).toBe(2)
      await gate.query('select pg_advisory_unlock(77)')
      expect(await cloned).toBe(true)
    } finally {
      await Promise.all([gate.end(), writer.end()])
    }
  })

  it.each([
    ['a child', 'create table child () inherits (customers);', 'table acme.child (inherits'],
    [
      'partitions in partitions',
      'create table e (id int) partition by list (id); create table e1 partition of e default partition by list (id);',
      'table acme.e1 (partitions in partitions',
    ],
    [
      'a trigger',
      `create function t() returns trigger language plpgsql as 'begin return new; end'; create trigger t before insert on orders for each row execute function t();`,
      'trigger t on acme.orders',
    ],
    ['a rule', 'create rule r as on delete to orders do instead nothing;', 'rule r on acme.orders'],
  ])('refuses a copy of what Citus does not take: %s', async (_what, sql, name) => {
    await installCitus()
    await createSchemaFromSql(central, acme, SHOP + sql)
    await expect(cloneTenantSchema(central, acme, globex, { engine })).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_UNCLONABLE',
      message: expect.stringContaining(name),
    })
    expect(await schemas()).toEqual(['acme'])
    expect(await cloneTenantSchema(central, acme, globex)).toBe(true)
  })
})

describe('doctor', () => {
  // Roles belong to the whole server.
  const ROLE = `pw_citus_${randomBytes(5).toString('hex')}`
  const PLANTED: readonly (readonly [code: string, sql: string, evidence: string])[] = [
    [
      'SCHEMA_LOCAL',
      `create schema plain; comment on schema plain is 'partywall tenant plain'`,
      'schema "plain"',
    ],
    [
      'TABLE_LOCAL',
      `delete from pg_dist_partition where logicalrelid = 'acme.orders'::regclass`,
      'acme.orders',
    ],
    ['SHARED_TABLE_LOCAL', 'create table public.rates (id int primary key)', 'public.rates'],
    [
      'ROLE_NOLOGIN',
      `create role ${ROLE}; grant usage on schema acme to ${ROLE}; alter table acme.orders owner to ${ROLE}`,
      `role "${ROLE}" in schema "acme"`,
    ],
    [
      'ROW_POLICY',
      `alter table acme.orders enable row level security; create policy mine on acme.orders using (customer_id::text = current_setting('app.tenant_id', true))`,
      'acme.orders: policy "mine"',
    ],
    [
      'NODES_POOLED',
      `insert into pg_dist_poolinfo values (2, 'host=bouncer port=6432')`,
      'node 2: host=bouncer port=6432',
    ],
  ]
  const codesOf = ({ findings }: Awaited<ReturnType<typeof doctor>>) =>
    findings.map(({ code }) => code).filter((code) => code.startsWith('PARTYWALL_CITUS_'))

  it('says nothing of Citus where there is none, or where no tenant is on it', async () => {
    await createSchemaFromSql(central, acme, SHOP)
    expect(codesOf(await doctor(central))).toEqual([])
    await installCitus()
    expect(codesOf(await doctor(central))).toEqual([])
    // Unless tenants are to be on it.
    expect(codesOf(await doctor(central, { engine }))).toEqual(['PARTYWALL_CITUS_SCHEMA_LOCAL'])
  })

  it.each(PLANTED)(
    'finds PARTYWALL_CITUS_%s, and nothing else of Citus',
    async (code, sql, evidence) => {
      await installCitus()
      await createSchemaFromSql(central, acme, SHOP, { engine })
      await db.query(
        "create table public.countries (code text primary key); select create_reference_table('public.countries')",
      )
      expect(codesOf(await doctor(central))).toEqual([])
      try {
        await db.query(sql)
        const report = await doctor(central)
        expect(codesOf(report)).toEqual([`PARTYWALL_CITUS_${code}`])
        expect(
          report.findings.find((found) => found.code === `PARTYWALL_CITUS_${code}`)?.evidence,
        ).toEqual([evidence])
        expect(report.findings.map((found) => found.code)).not.toContain('PARTYWALL_LINT_FAILED')
      } finally {
        if (code === 'ROLE_NOLOGIN')
          await db.query(`drop owned by ${ROLE} cascade; drop role ${ROLE}`)
      }
    },
  )

  it('has a planted fact for every lint about Citus', async () => {
    const { checked } = await doctor(central)
    expect(checked.filter((code) => code.startsWith('PARTYWALL_CITUS_')).sort()).toEqual(
      ['UNUSABLE', ...PLANTED.map(([code]) => code)]
        .map((code) => `PARTYWALL_CITUS_${code}`)
        .sort(),
    )
  })
})
