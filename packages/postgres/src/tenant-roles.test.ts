import { randomBytes } from 'node:crypto'
import { createTenant, physicalName } from '@partywall/core'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { matchesVerifier, scramVerifier } from './internal/scram-verifier.ts'
import { tenantGroup } from './internal/tenant-groups.ts'
import { applyRowIsolation } from './row-isolation-apply.ts'
import {
  createGateRole,
  createTenantRole,
  dropTenantRole,
  type TenantRoleOptions,
} from './tenant-roles.ts'
import { createTenantSchema } from './tenant-schema.ts'

const CONFLICT = { code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT' }
const INVALID = { code: 'ERR_TENANCY_OPTION_INVALID' }

// Roles belong to the whole server, which other test files share.
const salt = randomBytes(4).toString('hex')
const ACME = `acme-${salt}`
const GLOBEX = `globex-${salt}`
const GATE = `roles_gate_${salt}`
const ADMIN = `roles_admin_${salt}`
const byRow = (id: string) => createTenant({ id, isolation: 'row' })
const bySchema = (id: string) => createTenant({ id })
const roleOf = (id: string) => physicalName('role', id)

let db: TestDatabase
/** A superuser. */
let central: pg.Pool
const opened: pg.Pool[] = []

function open(user: string, password = 'secret'): pg.Pool {
  const url = Object.assign(new URL(db.url), { username: user, password })
  const pool = new pg.Pool({ connectionString: url.href, max: 3 })
  pool.on('connect', (client) => client.on('error', () => undefined))
  opened.push(pool)
  return pool
}

beforeEach(async () => {
  db = await createTestDatabase()
  central = open(new URL(db.url).username, new URL(db.url).password)
  await db.query(`create role ${ADMIN} login createrole password 'secret'`)
  await createGateRole(central, { name: GATE, password: 'secret' })
  await db.query(`create schema pool; create table pool.item (id serial primary key, note text); create table pool.rate (code text);
    create table public.country (code text); insert into public.country values ('nl'); insert into pool.rate values ('eur')`)
  await applyRowIsolation(central, { schema: 'pool', sharedTables: ['rate'], role: 'per-tenant' })
})
afterEach(async () => {
  for (const id of [ACME, GLOBEX]) await dropTenantRole(central, byRow(id), { rowSchema: 'pool' })
  await Promise.all(opened.splice(0).map((pool) => pool.end()))
  await db.query(`drop owned by ${GATE}, ${ADMIN}; drop role ${GATE}, ${ADMIN}`)
  const { rows } = await db.query('select rolname from pg_roles where rolname like $1', [
    `tenant%${salt}%`,
  ])
  const groups = await db.query(
    "select rolname from pg_roles where rolname like 'tenants:' || current_database() || '%'",
  )
  await db[Symbol.asyncDispose]()
  expect([...rows, ...groups.rows]).toEqual([])
})

const create = (id: string, options: TenantRoleOptions = { gate: GATE }) =>
  createTenantRole(central, byRow(id), { rowSchema: 'pool', sharedTables: ['rate'], ...options })

/** Everything that roles are, have and may do, with the versions of the rows that say so. */
async function rolesAndGrants(): Promise<unknown[]> {
  const { rows } =
    await db.query(`select 'role' as what, rolname::text as name, xmin::text as version from pg_authid where rolname like '%${salt}%' or rolname like 'tenants:%'
    union all select 'member', roleid::regrole || ' ' || member::regrole, xmin::text from pg_auth_members
    union all select 'relation', oid::regclass::text || coalesce(relacl::text, ''), xmin::text from pg_class where relnamespace in ('pool'::regnamespace, 'public'::regnamespace)
    union all select 'schema', nspname || coalesce(nspacl::text, ''), xmin::text from pg_namespace
    union all select 'routine', proname || coalesce(proacl::text, ''), xmin::text from pg_proc where pronamespace = 'public'::regnamespace
    union all select 'default', defaclacl::text, xmin::text from pg_default_acl union all select 'database', coalesce(datacl::text, ''), xmin::text from pg_database where datname = current_database()
    order by 1, 2`)
  return rows
}

describe('the role of a tenant that shares tables', () => {
  it('may read and write rows of isolated tables, and nothing else', async () => {
    await db.query(
      `create table pool.fresh (id int); create view pool.notes as select note from pool.item; create materialized view pool.copy as select code from pool.rate`,
    )
    expect(await create(ACME)).toBe(true)
    const { rows } = await db.query(
      `select c.relname, array(select p from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p where has_table_privilege($1, c.oid, p)) as rights
      from pg_class c where c.relnamespace = 'pool'::regnamespace and c.relkind in ('r', 'v', 'm') order by 1`,
      [roleOf(ACME)],
    )
    expect(rows).toEqual([
      { relname: 'copy', rights: [] },
      { relname: 'fresh', rights: [] },
      { relname: 'item', rights: ['select', 'insert', 'update', 'delete'] },
      { relname: 'notes', rights: [] },
      { relname: 'rate', rights: ['select'] },
    ])
    expect(
      (
        await db.query(
          `select has_schema_privilege($1, 'pool', 'usage') as usage, has_schema_privilege($1, 'pool', 'create') as create,
          has_sequence_privilege($1, 'pool.item_id_seq', 'usage') as nextval, has_sequence_privilege($1, 'pool.item_id_seq', 'update') as setval,
          has_sequence_privilege($1, 'pool.item_id_seq', 'select') as last_value, has_table_privilege($1, 'public.country', 'select') as shared, has_table_privilege($1, 'public.country', 'insert') as writes`,
          [roleOf(ACME)],
        )
      ).rows,
    ).toEqual([
      {
        usage: true,
        create: false,
        nextval: true,
        setval: false,
        last_value: false,
        shared: true,
        writes: false,
      },
    ])
  })

  it('gets what is isolated, and made to read as whoever asks, when it is run again', async () => {
    await create(ACME)
    await db.query(
      'create table pool.fresh (id int primary key); create view pool.notes as select note from pool.item; create table public.later (id int)',
    )
    expect(await create(ACME)).toBe(false)
    const rights = async () =>
      (
        await db.query(
          "select has_table_privilege($1, 'pool.fresh', 'select, insert') as fresh, has_table_privilege($1, 'pool.notes', 'select') as notes, has_table_privilege($1, 'public.later', 'select') as later",
          [roleOf(ACME)],
        )
      ).rows
    expect(await rights()).toEqual([{ fresh: false, notes: false, later: true }])
    await applyRowIsolation(central, { schema: 'pool', sharedTables: ['rate'], role: 'per-tenant' })
    expect(await create(ACME)).toBe(false)
    expect(await rights()).toEqual([{ fresh: true, notes: true, later: true }])
  })

  it('works through the gate, with identical ids, and the gate by itself may nothing', async () => {
    for (const id of [ACME, GLOBEX]) await create(id)
    const gate = open(GATE)
    for (const id of [ACME, GLOBEX]) {
      const client = await gate.connect()
      await client.query('begin')
      await client.query(
        "select set_config('role', $1, true), set_config('app.tenant_id', $2, true)",
        [roleOf(id), id],
      )
      await client.query('insert into pool.item (id, note) values (1, $1)', [canary(id, 1)])
      expect((await client.query('select note from pool.item')).rows).toEqual([
        { note: canary(id, 1) },
      ])
      expect((await client.query('select code from pool.rate')).rows).toEqual([{ code: 'eur' }])
      await client.query('commit')
      client.release()
    }
    for (const sql of ['select from pool.item', 'select from public.country'])
      await expect(gate.query(sql)).rejects.toMatchObject({ code: '42501' })
  })

  it('changes its kind with its tenant, and leaves the rights of the other kind', async () => {
    await createTenantSchema(central, bySchema(ACME))
    expect(await createTenantRole(central, bySchema(ACME), { gate: GATE, rowSchema: 'pool' })).toBe(
      true,
    )
    const rights = async () =>
      (
        await db.query(
          "select has_table_privilege($1, 'pool.item', 'select') as rows, has_table_privilege($1, 'public.country', 'select') as shared",
          [roleOf(ACME)],
        )
      ).rows
    expect(await rights()).toEqual([{ rows: false, shared: true }])
    await create(ACME)
    expect(await rights()).toEqual([{ rows: true, shared: true }])
    await createTenantRole(central, bySchema(ACME), { gate: GATE, rowSchema: 'pool' })
    expect(await rights()).toEqual([{ rows: false, shared: true }])
    await db.query(`drop schema "${ACME}"`)
  })
})

describe.each(['row', 'schema'] as const)('repeating, with isolation %s', (isolation) => {
  const tenant = createTenant({ id: ACME, isolation })
  const options: TenantRoleOptions = {
    gate: GATE,
    rowSchema: 'pool',
    sharedTables: ['rate'],
    ownership: 'tenant',
    login: { password: 'secret' },
  }

  beforeEach(async () => {
    if (isolation === 'row') return
    await createTenantSchema(central, tenant)
    await db.query(
      `create table "${ACME}".orders (id serial primary key); create view "${ACME}".v as select 1 as one; create function "${ACME}".f() returns int language sql as 'select 1'`,
    )
  })
  afterEach(async () => {
    await db.query(`drop schema if exists "${ACME}" cascade`)
  })

  it('reads, and writes or locks nothing where nothing is missing', async () => {
    expect(await createTenantRole(central, tenant, options)).toBe(true)
    // The rights on what it now owns.
    await createTenantRole(central, tenant, options)
    const before = await rolesAndGrants()
    const busy = await central.connect()
    await busy.query("begin; select pg_advisory_xact_lock(hashtextextended('partywall:roles', 0))")
    expect(await createTenantRole(central, tenant, options)).toBe(false)
    await busy.query('rollback')
    busy.release()
    expect(await rolesAndGrants()).toEqual(before)
  })

  it('is safe to race, and puts back what was taken', async () => {
    const outcomes = await Promise.all(
      [1, 2, 3, 4].map(() => createTenantRole(central, tenant, options)),
    )
    expect(outcomes.filter(Boolean)).toHaveLength(1)
    await createTenantRole(central, tenant, options)
    // What roles of tenants have; without the versions of the rows, and those that say nothing of them.
    const acls = async () =>
      (await rolesAndGrants())
        .map((row) =>
          Object.values(row as object)
            .slice(0, 2)
            .join(' '),
        )
        .filter((row) => row.includes('tenant'))
        .sort()
    const before = await acls()
    const group = isolation === 'row' ? tenantGroup(db.name, 'pool') : tenantGroup(db.name)
    await db.query(`revoke "${roleOf(ACME)}" from ${GATE}; revoke "${group}" from "${roleOf(ACME)}"; alter role "${roleOf(ACME)}" noinherit nologin;
      revoke all on all tables in schema pool, public from "${group}"; revoke usage on schema pool, public from "${group}"; revoke usage on all sequences in schema pool from "${group}"`)
    expect(await acls()).not.toEqual(before)
    expect(await createTenantRole(central, tenant, options)).toBe(false)
    const { rows } = await db.query(
      `select rolinherit and rolcanlogin as usable, pg_has_role('${GATE}', rolname, 'member') as gated, has_table_privilege(rolname, 'public.country', 'select') as shared from pg_roles where rolname = $1`,
      [roleOf(ACME)],
    )
    expect(rows).toEqual([{ usable: true, gated: true, shared: true }])
    expect(await acls()).toEqual(before)
  })
})

describe('what tenants have in common', () => {
  it('is held once, however many tenants there are', async () => {
    const entries = async () =>
      (
        await db.query(
          "select relname, cardinality(relacl) as grants from pg_class where oid in ('pool.item'::regclass, 'pool.rate'::regclass, 'public.country'::regclass) order by 1",
        )
      ).rows
    await create(ACME)
    const one = await entries()
    await create(GLOBEX)
    await createTenantSchema(central, bySchema(GLOBEX))
    expect(await entries()).toEqual(one)
    await db.query(`drop schema "${GLOBEX}"`)
  })

  it('is called by the database and the schema, in at most 63 bytes, and no two alike', () => {
    const long = 'd'.repeat(63)
    const names = [
      tenantGroup('shop'),
      tenantGroup('shop', 'public'),
      tenantGroup('shop:public'),
      tenantGroup('shop', 'pub:lic'),
      tenantGroup('shop:pub', 'lic'),
      tenantGroup(long),
      tenantGroup(long, 'a'),
      tenantGroup(long, 'b'),
      tenantGroup(`${long.slice(1)}ü`),
      tenantGroup('ü'.repeat(31)),
    ]
    expect(names.slice(0, 2)).toEqual(['tenants:shop', 'tenants:shop:public'])
    expect(new Set(names).size).toBe(names.length)
    for (const name of names) expect(Buffer.byteLength(name)).toBeLessThanOrEqual(63)
  })
})

describe('a login of its own', () => {
  const login = (password: string): TenantRoleOptions => ({ login: { password } })

  it('is a member of nothing but what tenants have in common, and enters its tenant alone', async () => {
    for (const id of [ACME, GLOBEX]) {
      expect(await create(id, login('secret'))).toBe(true)
      const own = open(roleOf(id))
      const client = await own.connect()
      await client.query(`select set_config('app.tenant_id', '${id}', false)`)
      await client.query('insert into pool.item (id, note) values (1, $1)', [canary(id, 1)])
      expect((await client.query('select note from pool.item')).rows).toEqual([
        { note: canary(id, 1) },
      ])
      client.release()
      const { rows } = await db.query(
        'select g.rolname from pg_auth_members m join pg_roles r on r.oid = m.member join pg_roles g on g.oid = m.roleid where r.rolname = $1',
        [roleOf(id)],
      )
      expect(rows).toEqual([{ rolname: tenantGroup(db.name, 'pool') }])
    }
    await expect(open(roleOf(ACME)).query(`set role "${roleOf(GLOBEX)}"`)).rejects.toMatchObject({
      code: '42501',
    })
  })

  it('gets another password only when it is another one, and the password itself is never sent', async () => {
    const kept = async () =>
      (
        await db.query('select rolpassword as kept from pg_authid where rolname = $1', [
          roleOf(ACME),
        ])
      ).rows[0]?.['kept']
    await create(ACME, login('first secret'))
    const first = await kept()
    expect(await matchesVerifier('first secret', first as string)).toBe(true)
    await create(ACME, login('first secret'))
    expect(await kept()).toBe(first)
    await create(ACME, login('second secret'))
    expect(await matchesVerifier('second secret', (await kept()) as string)).toBe(true)
    // Without a login the role stays as it is.
    await create(ACME)
    expect(
      (await db.query('select rolcanlogin from pg_roles where rolname = $1', [roleOf(ACME)])).rows,
    ).toEqual([{ rolcanlogin: true }])

    const sent: string[] = []
    class Watched extends pg.Client {
      override query(...args: any[]): any {
        sent.push(JSON.stringify(args))
        return super.query(...(args as [string]))
      }
    }
    const watched = new pg.Pool({ connectionString: db.url, max: 1, Client: Watched })
    await createTenantRole(watched, byRow(ACME), {
      rowSchema: 'pool',
      sharedTables: ['rate'],
      login: { password: 'third secret' },
    })
    await watched.end()
    expect(sent.filter((text) => text.includes('SCRAM-SHA-256'))).toHaveLength(1)
    expect(sent.filter((text) => text.includes('third secret'))).toEqual([])
  })

  it('may connect, where that is not everybody’s right', async () => {
    await db.query(`revoke connect on database ${db.name} from public`)
    await create(ACME, login('secret'))
    await open(roleOf(ACME)).query('select 1')
    await create(GLOBEX)
    await expect(open(roleOf(GLOBEX)).query('select 1')).rejects.toMatchObject({
      code: /^(?:28000|42501)$/,
    })
  })

  it('is refused to a role that is more than a tenant’s', async () => {
    await create(ACME)
    await db.query(`grant ${ADMIN} to "${roleOf(ACME)}"`)
    await expect(create(ACME, login('secret'))).rejects.toMatchObject({
      ...CONFLICT,
      message: expect.stringContaining(ADMIN),
    })
    await db.query(`revoke ${ADMIN} from "${roleOf(ACME)}"`)
    for (const attribute of ['superuser', 'bypassrls', 'createrole', 'createdb', 'replication']) {
      await db.query(`alter role "${roleOf(ACME)}" ${attribute}`)
      await expect(create(ACME), attribute).rejects.toMatchObject(CONFLICT)
      await expect(
        dropTenantRole(central, byRow(ACME), { rowSchema: 'pool' }),
      ).rejects.toMatchObject(CONFLICT)
      await db.query(`alter role "${roleOf(ACME)}" no${attribute}`)
    }
    expect(await create(ACME, login('secret'))).toBe(false)
  })

  it('is made by a user who may create roles and may not read passwords', async () => {
    await db.query(`create schema owned authorization ${ADMIN}`)
    const admin = open(ADMIN)
    await admin.query('create table owned.item (id int primary key)')
    await applyRowIsolation(admin, { schema: 'owned' })
    const options = { rowSchema: 'owned', sharedSchemas: [], login: { password: 'secret' } }
    expect(await createTenantRole(admin, byRow(ACME), options)).toBe(true)
    expect(await createTenantRole(admin, byRow(ACME), options)).toBe(false)
    await open(roleOf(ACME)).query('select from owned.item')
    expect(await dropTenantRole(admin, byRow(ACME), { rowSchema: 'owned' })).toBe(true)
    await db.query('drop schema owned cascade')
  })
})

describe('passwords', () => {
  it('are verified as the server verifies them', async () => {
    await db.query(`create role "tenant-v-${salt}" password 'it''s a secret'`)
    const { rows } = await db.query<{ kept: string }>(
      'select rolpassword as kept from pg_authid where rolname = $1',
      [`tenant-v-${salt}`],
    )
    await db.query(`drop role "tenant-v-${salt}"`)
    const kept = rows[0]?.kept ?? ''
    expect(kept).toMatch(/^SCRAM-SHA-256\$/)
    expect(await matchesVerifier("it's a secret", kept)).toBe(true)
    expect(await matchesVerifier("it's a secret ", kept)).toBe(false)
    expect(await matchesVerifier('secret', `${await scramVerifier('secret')} `)).toBe(false)
    for (const other of [null, '', 'md5c4ca4238a0b923820dcc509a6f75849b', 'SCRAM-SHA-256$4096:'])
      expect(await matchesVerifier('secret', other)).toBe(false)
    expect(await scramVerifier('secret')).not.toBe(await scramVerifier('secret'))
  })

  it.each(['', 'smile ☺', 'a\nb', 'x'.repeat(1_025), 7])('%j is refused', async (password) => {
    await expect(create(ACME, { login: { password: password as string } })).rejects.toMatchObject(
      INVALID,
    )
  })
})

describe('dropping', () => {
  it('is safe to repeat, keeps tables, and takes with the last tenant what they had in common', async () => {
    await createTenantSchema(central, bySchema(ACME))
    await db.query(
      `create table "${ACME}".orders (note text); insert into "${ACME}".orders values ('${canary(ACME, 1)}')`,
    )
    await createTenantRole(central, bySchema(ACME), {
      gate: GATE,
      ownership: 'tenant',
      rowSchema: 'pool',
    })
    await create(GLOBEX)
    const groups = async () =>
      (
        await db.query<{ rolname: string }>(
          "select rolname from pg_roles where rolname like 'tenants:' || current_database() || '%' order by 1",
        )
      ).rows.map(({ rolname }) => rolname)
    expect(await groups()).toEqual([tenantGroup(db.name), tenantGroup(db.name, 'pool')])
    expect(await dropTenantRole(central, bySchema(ACME), { rowSchema: 'pool' })).toBe(true)
    expect(await dropTenantRole(central, bySchema(ACME), { rowSchema: 'pool' })).toBe(false)
    expect((await db.query(`select note from "${ACME}".orders`)).rows).toEqual([
      { note: canary(ACME, 1) },
    ])
    expect(await groups()).toEqual([tenantGroup(db.name, 'pool')])
    expect(await dropTenantRole(central, byRow(GLOBEX), { rowSchema: 'pool' })).toBe(true)
    expect(await groups()).toEqual([])
    await db.query(`drop schema "${ACME}" cascade`)
  })

  it('leaves a session that is still open without any right', async () => {
    await create(ACME, { login: { password: 'secret' } })
    const client = await open(roleOf(ACME)).connect()
    await client.query(`select set_config('app.tenant_id', '${ACME}', false)`)
    await client.query('select from pool.item')
    await dropTenantRole(central, byRow(ACME), { rowSchema: 'pool' })
    await expect(client.query('select from pool.item')).rejects.toThrow(
      /permission denied|does not exist|invalid/,
    )
    client.release(true)
  })
})

describe('options', () => {
  it.each([
    [{}, INVALID],
    [{ gate: 'a"b' }, INVALID],
    [{ gate: GATE, rowSchema: 'pg_catalog' }, INVALID],
    [{ gate: GATE, rowSchema: 'nowhere' }, { code: 'ERR_TENANCY_SCHEMA_MISSING' }],
    [{ gate: GATE, sharedTables: 'rate' }, INVALID],
    [{ gate: GATE, schema: 'pool' }, INVALID],
  ])('%j are refused', async (options, error) => {
    await expect(
      createTenantRole(central, byRow(ACME), options as TenantRoleOptions),
    ).rejects.toMatchObject(error)
  })
})
