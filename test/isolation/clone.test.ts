import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createTenancy, createTenant, memoryTenantStore, type Tenant } from '@partywall/core'
import {
  cloneTenantSchema,
  createSchemaFromSql,
  createTenantSchema,
  doctor,
  fingerprintSchema,
  schemaOf,
} from '@partywall/postgres'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fixtureSql } from './clone-fixture.ts'

/** The source, two copies, and a bystander with the same ids. */
const acme = createTenant({ id: 'acme' })
const globex = createTenant({ id: 'globex' })
const hollow = createTenant({ id: 'hollow' })
const zeta = createTenant({ id: 'zeta' })

let db: TestDatabase
let central: pg.Pool
let version: number
/** Of every schema, before anything was cloned. */
const before = new Map<string, unknown>()

beforeAll(async () => {
  db = await createTestDatabase()
  central = new pg.Pool({ connectionString: db.url, max: 4 })
  const { rows } = await db.query<{ version: number }>(
    "select current_setting('server_version_num')::int as version",
  )
  version = rows[0]?.version ?? 0
  for (const tenant of [acme, zeta])
    await createSchemaFromSql(central, tenant, fixtureSql(tenant.id, version))
  for (const { id } of [acme, zeta]) before.set(id, await contents(id))
  await cloneTenantSchema(central, acme, globex, { data: 'all' })
  await cloneTenantSchema(central, acme, hollow)
}, 120_000)
afterAll(async () => {
  await central.end()
  await db[Symbol.asyncDispose]()
})

const relations = async (schema: string, kinds: string): Promise<string[]> =>
  (
    await db.query<{ name: string }>(
      'select c.relname as name from pg_class c where c.relnamespace = $1::text::regnamespace and c.relkind = any ($2::text[]) order by c.relname collate "C"',
      [`"${schema}"`, [...kinds]],
    )
  ).rows.map(({ name }) => name)

/** Every row of every table and materialized view, and the state of every sequence, as text. */
async function contents(schema: string): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {}
  for (const table of await relations(schema, 'rm')) {
    const name = `"${schema}"."${table.replaceAll('"', '""')}"`
    const { rows } = await db
      .query<{ row: string }>(`select format('%s', t) as row from only ${name} t order by 1`)
      .catch((error: unknown) => ({ rows: [{ row: String(error) }] }))
    found[table] = rows.map(({ row }) => row)
  }
  for (const sequence of await relations(schema, 'S')) {
    const { rows } = await db.query(
      `select last_value::text, is_called from "${schema}"."${sequence}"`,
    )
    found[sequence] = rows
  }
  return found
}

describe('a clone with rows', () => {
  it('has the structure of the source, the rows and the numbers', async () => {
    const copy = await contents('globex')
    expect(await fingerprintSchema(central, 'globex')).toBe(
      await fingerprintSchema(central, 'acme'),
    )
    expect(copy).toEqual(before.get('acme'))
    // There is something to compare.
    expect(Object.values(copy).flat().length).toBeGreaterThan(600)
    expect(JSON.stringify(copy['customer'])).toContain('canary:acme')
    expect(JSON.stringify(copy['item'])).toContain('NaN')
  })

  it('left the source and the bystander alone', async () => {
    for (const { id } of [acme, zeta]) expect(await contents(id)).toEqual(before.get(id))
  })

  it('is told by nothing in the catalogue that is not in the fingerprint', async () => {
    const described = async (schema: string) =>
      (
        await db.query(
          `select d.classoid::regclass::text as kind, replace(o.identity, $1 || '.', '') as identity, d.description from pg_description d
           cross join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) o
           where (o.schema = $1 or o.identity ~ ('(^|[( ])' || $1 || '\\.')) order by 1, 2`,
          [schema],
        )
      ).rows
    expect(await described('globex')).toEqual(await described('acme'))
    expect(await described('acme')).not.toHaveLength(0)
    const settings = async (schema: string) =>
      (
        await db.query(
          `select c.relname, c.relpersistence, c.relispopulated, c.reloptions, r.rolname, a.attname, a.attstattarget, a.attislocal, a.attinhcount, a.attstorage
           from pg_class c join pg_roles r on r.oid = c.relowner left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           where c.relnamespace = $1::text::regnamespace order by c.relname collate "C", a.attname collate "C"`,
          [schema],
        )
      ).rows
    expect(await settings('globex')).toEqual(await settings('acme'))
  })

  it('has not one reference to the source, in either direction', async () => {
    const { rows } = await db.query<{ from: string; to: string }>(
      `select pg_describe_object(d.classid, d.objid, d.objsubid) as from, pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) as to
       from pg_depend d
       cross join lateral pg_identify_object_as_address(d.classid, d.objid, d.objsubid) a
       cross join lateral pg_identify_object_as_address(d.refclassid, d.refobjid, d.refobjsubid) b
       where d.refobjid >= 16384 and (a.object_names[1] in ('acme', 'globex', 'hollow', 'zeta') and b.object_names[1] in ('acme', 'globex', 'hollow', 'zeta') and a.object_names[1] <> b.object_names[1])`,
    )
    expect(rows).toEqual([])
    const tenants = [acme, globex, hollow, zeta].map(({ id }) => ({ id }))
    const report = await doctor(central, {
      tenancy: createTenancy({ store: memoryTenantStore(tenants) }),
    })
    expect(
      report.findings.map(({ code }) => code).filter((code) => code.includes('CROSS')),
    ).toEqual([])
  })

  it('goes its own way: sequences, keys, triggers, rules, views and functions stay inside', async () => {
    const source = await contents('acme')
    const client = await central.connect()
    const last = async (table: string): Promise<unknown> =>
      (await client.query(`select max(id)::int as id from ${table}`)).rows[0]?.id
    try {
      await client.query('begin')
      await client.query('set local search_path = globex, public, pg_temp')
      const [customer, item] = [await last('customer'), await last('item')]
      await client.query(
        `insert into customer (email, mood) values ('new@globex', 'happy'); insert into item (price, name, customer_id) values (2, 'canary:globex', (select max(id) from customer));
         insert into draft (body) values ('canary:globex'); insert into event (id, at, note) values (77, '2025-03-03', 'canary:globex'), (1, '2031-01-01', null);
         insert into log (what) values ('canary:globex'); select nextval('numbers'), nextval('scratch')`,
      )
      // One number on from where the source stands, from a sequence of its own.
      expect(await last('customer')).toBe(Number(customer) + 1)
      expect(await last('item')).toBe(Number(item) + 1)
      const { rows: logged } = await client.query(
        "select what from log where what like '%globex%' order by id",
      )
      expect(logged.map(({ what }) => what)).toEqual(
        expect.arrayContaining(['customer in globex', 'event in globex', 'canary:globex']),
      )
      await client.query('rollback; begin; set local search_path = globex, public, pg_temp')
      await client.query(
        `insert into customer (id, email) values (8001, 'a'), (8002, 'b'); insert into item (price, name, customer_id) values (1, 'k1', 8001), (1, 'k2', 8002);
         delete from customer where id = 8001; update customer set id = 8003 where id = 8002`,
      )
      expect(
        (await client.query("select name, customer_id from item where name ~ '^k' order by 1"))
          .rows,
      ).toEqual([
        { name: 'k1', customer_id: null },
        { name: 'k2', customer_id: 8003 },
      ])
      await client.query(
        'refresh materialized view item_count; select * from top; select standard(); select * from of_view()',
      )
      await client.query('commit')
    } finally {
      client.release(true)
    }
    expect(await contents('acme')).toEqual(source)
    expect(await contents('zeta')).toEqual(before.get('zeta'))
  })
})

describe('a clone without rows', () => {
  it('has the structure, no row, and sequences that begin anew', async () => {
    expect(await fingerprintSchema(central, 'hollow')).toBe(
      await fingerprintSchema(central, 'acme'),
    )
    const copy = await contents('hollow')
    for (const table of await relations('hollow', 'r'))
      expect([table, copy[table]]).toEqual([table, []])
    expect(copy['item_ids']).toEqual([{ last_value: '10', is_called: false }])
    expect(copy['numbers']).toEqual([{ last_value: '3', is_called: false }])
    expect(JSON.stringify(copy)).not.toContain('canary')
    await db.query(
      "set local search_path = hollow, public; insert into customer (email) values ('first')",
    )
    expect((await db.query('select id from hollow.customer')).rows).toEqual([{ id: 1 }])
  })
})

describe('names', () => {
  it('of schemas are names, whatever they hold and whatever else is called so', async () => {
    const odd = ['item', 'a-b', 'pg-class', 'Ärger 50% $& na.me $schema', 'select'].map(
      (schema, n) => createTenant({ id: `odd-${n}`, placement: { schema } }),
    )
    const [first] = odd
    if (first === undefined) throw new Error('No tenants.')
    await createSchemaFromSql(central, first, fixtureSql('item', version))
    // One after the other, so that each is a source too.
    for (let n = 1; n < odd.length; n++)
      expect(
        await cloneTenantSchema(central, odd[n - 1] as Tenant, odd[n] as Tenant, {
          data: 'all',
          namedInText: 'keep',
        }),
      ).toBe(true)
    const last = schemaOf(odd.at(-1) as Tenant)
    expect(await fingerprintSchema(central, last)).toBe(await fingerprintSchema(central, 'item'))
    expect(await contents(last)).toEqual(await contents('item'))
  })
})

/** pg_dump, if there is one that takes this server: another opinion on what a schema is made of. */
function findPgDump(): string | undefined {
  const root = '/usr/lib/postgresql'
  const versions = existsSync(root) ? readdirSync(root).map(Number) : []
  const [newest] = versions.sort((a, b) => b - a)
  const path = `${root}/${newest}/bin/pg_dump`
  return newest !== undefined && newest * 10_000 + 9_999 >= version && existsSync(path)
    ? path
    : undefined
}

describe('pg_dump', () => {
  it('writes the same of both', (context) => {
    const command = findPgDump()
    if (command === undefined) return context.skip('there is no pg_dump for this server')
    const dump = (schema: string): string[] =>
      execFileSync(command, ['--schema-only', '--schema', schema, '--dbname', db.url], {
        encoding: 'utf8',
      })
        .replaceAll(schema, 'tenant')
        .split('\n')
        .filter((line) => !/^(?:--|\\(?:un)?restrict )/.test(line))
        .sort()
    const source = dump('acme')
    expect(source.length).toBeGreaterThan(1_300)
    for (const { id } of [globex, hollow]) expect(dump(id)).toEqual(source)
  })
})

/** The Chinook sample database is not part of this repository; it lies beside it, or where the variable says. */
const folder =
  process.env['PARTYWALL_CHINOOK'] ??
  new URL('../../../shared/data/chinook', import.meta.url).pathname
const CHINOOK = `${folder}/chinook.sql`

describe.skipIf(!existsSync(CHINOOK))('Chinook', () => {
  it('is cloned as it is, and again from the clone', async () => {
    const [music, copy, again] = ['music', 'copy', 'again'].map((id) => createTenant({ id })) as [
      Tenant,
      Tenant,
      Tenant,
    ]
    await createSchemaFromSql(central, music, readFileSync(CHINOOK, 'utf8'))
    expect(await cloneTenantSchema(central, music, copy, { data: 'all' })).toBe(true)
    await db.query("update copy.artist set name = 'canary:copy' where artist_id = 1")
    expect(await cloneTenantSchema(central, copy, again, { data: 'all' })).toBe(true)
    expect(await contents('again')).toEqual(await contents('copy'))
    expect(await contents('music')).toEqual({
      ...(await contents('copy')),
      artist: (await contents('music'))['artist'],
    })
    expect((await db.query('select count(*)::int as n from again.track')).rows).toEqual([
      { n: 3503 },
    ])
    expect(
      new Set([
        await fingerprintSchema(central, 'music'),
        await fingerprintSchema(central, 'again'),
      ]).size,
    ).toBe(1)
    expect(await createTenantSchema(central, again)).toBe(false)
  })
})
