import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createTenancy, createTenant, header, memoryTenantStore } from '@partywall/core'
import { createTestDatabase, startTestPooler, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'
import { CHECKS, LINT_FAILED, LINTS } from './doctor/catalogue.ts'
import type { FindingCode } from './doctor/lint.ts'
import { type DoctorOptions, type DoctorReport, doctor, Round } from './doctor.ts'
import { TenantPool } from './tenant-pool.ts'
import type { TenantPoolOptions } from './tenant-pool-options.ts'
import { createTenantSchema } from './tenant-schema.ts'

const TENANTS = ['acme', 'globex'] as const

/** Roles belong to the whole server, so each test has its own: one that owns, one that the application is. */
let owner: string
let app: string
let db: TestDatabase
let central: pg.Pool

function open(user?: string): pg.Pool {
  const url = new URL(db.url)
  if (user !== undefined) Object.assign(url, { username: user, password: 'secret' })
  const pool = new pg.Pool({ connectionString: url.href, max: 1 })
  // end() does not wait for the sockets, and the database is dropped under them.
  pool.on('connect', (client) => client.on('error', () => undefined))
  return pool
}

/** What doctor is to find nothing in: tables of two tenants, shared data, and rows of both tenants behind forced policies with a view over them. */
async function build(): Promise<void> {
  await db.query(`create role ${owner}; create role ${app} login password 'secret'`)
  for (const id of TENANTS) {
    await createTenantSchema(central, createTenant({ id }))
    await db.query(`create table ${id}.orders (id serial primary key, owner text);
      insert into ${id}.orders values (1, 'canary:${id}:1');
      alter table ${id}.orders owner to ${owner};
      grant usage on schema ${id} to ${app}, ${owner}; grant select, insert, update, delete on ${id}.orders to ${app}`)
  }
  await db.query(`create table public.countries (code text primary key); alter table public.countries owner to ${owner};
    grant select on public.countries to ${app};
    create function public.ping() returns int language sql security definer set search_path = pg_catalog, pg_temp as 'select 1';
    revoke execute on function public.ping() from public;
    create schema pooled; grant usage on schema pooled to ${app};
    create table pooled.item (tenant_id text, id int, note text, primary key (tenant_id, id));
    insert into pooled.item select t, 1, 'canary:' || t || ':1' from unnest(array['acme', 'globex']) t;
    alter table pooled.item owner to ${owner};
    alter table pooled.item enable row level security; alter table pooled.item force row level security;
    create policy tenant on pooled.item using (tenant_id = current_setting('app.tenant_id', true)) with check (tenant_id = current_setting('app.tenant_id', true));
    create policy reads on pooled.item as restrictive for select using (true);
    grant select, insert, update, delete on pooled.item to ${app};
    create view pooled.items with (security_invoker = on) as select * from pooled.item;
    grant select on pooled.items to ${app}`)
}

beforeEach(async () => {
  db = await createTestDatabase()
  const suffix = randomBytes(5).toString('hex')
  owner = `pw_owner_${suffix}`
  app = `pw_app_${suffix}`
  central = open()
  await build()
})
afterEach(async () => {
  await central.end()
  await db[Symbol.asyncDispose]()
  // What they own and were granted has gone with the database.
  const server = new pg.Client({ connectionString: inject('postgresUrl') })
  await server.connect()
  await server.query(`drop role ${owner}, ${app}`)
  await server.end()
})

const tenancyOf = (...tenants: Parameters<typeof createTenant>[0][]) =>
  createTenancy({ store: memoryTenantStore(tenants) })
const both = () => tenancyOf(...TENANTS.map((id) => ({ id })))
const examine = (options: DoctorOptions = {}): Promise<DoctorReport> =>
  doctor(central, { tenancy: both(), loginRole: app, ...options })
/** What is wrong, without what is only good to know. */
const codesOf = ({ findings }: DoctorReport): string[] =>
  findings.filter(({ severity }) => severity !== 'info').map(({ code }) => code)
const evidenceOf = ({ findings }: DoctorReport, code: FindingCode): readonly string[] =>
  findings.find((finding) => finding.code === code)?.evidence ?? []
const CODES = [...LINTS, ...CHECKS].map(({ code }) => code)

describe('a database in good order', () => {
  it('has no finding at all, and everything was checked', async () => {
    const pool = open(app)
    await using tenancy = both()
    const served = new TenantPool(tenancy, { connectionString: pool.options.connectionString })
    try {
      const report = await doctor(pool, { tenancy, pool: served })
      expect(report.findings).toEqual([])
      expect(report.ok).toBe(true)
      expect([...report.checked].sort()).toEqual([...CODES].sort())
    } finally {
      await served.end()
      await pool.end()
    }
  })

  it('says what is amiss with a superuser as the role of the application, which is the default here', async () => {
    const report = await doctor(central, { tenancy: both() })
    const { rows } = await db.query<{ me: string }>('select session_user as me')
    expect(codesOf(report)).toEqual(['PARTYWALL_LOGIN_BYPASSRLS', 'PARTYWALL_LOGIN_SUPERUSER'])
    expect(evidenceOf(report, 'PARTYWALL_LOGIN_SUPERUSER')).toEqual([`role "${rows[0]?.me}"`])
    expect(report.ok).toBe(false)
  })

  it('is compared with no tenants where there is no tenancy, and says so', async () => {
    const report = await doctor(central, { loginRole: app })
    expect(report.findings).toEqual([])
    expect(CODES.filter((code) => !report.checked.includes(code))).toEqual([
      'PARTYWALL_TENANT_SCHEMA_UNMARKED',
      'PARTYWALL_TENANT_SCHEMA_MISMARKED',
      'PARTYWALL_TENANT_MARK_ORPHANED',
      'PARTYWALL_UNVERIFIED_SOURCE',
      'PARTYWALL_TENANT_PLACE_INVALID',
      'PARTYWALL_POOLER_UNSAFE',
    ])
  })

  it('stays as it is: nothing is written, and the connection goes back clean', async () => {
    await central.query('set search_path to acme; set jit to on')
    await examine()
    const { rows } = await central.query(
      "select current_setting('search_path') as path, current_setting('jit') as jit, current_setting('transaction_read_only') as read_only, (select count(*)::int from orders) as orders",
    )
    expect(rows).toEqual([{ path: 'acme', jit: 'on', read_only: 'off', orders: 1 }])
    expect(central.totalCount).toBe(1)
  })
})

interface Planted {
  readonly code: FindingCode
  readonly what: string
  readonly sql: () => string
  readonly evidence: () => string[]
  /** Other findings that the same fact must bring about. */
  readonly also?: readonly FindingCode[]
  readonly options?: () => DoctorOptions
}

const PLANTED: readonly Planted[] = [
  {
    code: 'PARTYWALL_LOGIN_SUPERUSER',
    what: 'a login that can become a superuser',
    sql: () => `alter role ${owner} superuser; grant ${owner} to ${app}`,
    evidence: () => [`role "${app}", which can become "${owner}"`],
    also: ['PARTYWALL_LOGIN_OWNS_RLS_TABLE'],
  },
  {
    code: 'PARTYWALL_LOGIN_BYPASSRLS',
    what: 'a login with BYPASSRLS',
    sql: () => `alter role ${app} bypassrls`,
    evidence: () => [`role "${app}"`],
  },
  {
    code: 'PARTYWALL_LOGIN_OWNS_RLS_TABLE',
    what: 'a login that owns the table of the policies',
    sql: () => `alter table pooled.item owner to ${app}`,
    evidence: () => [`pooled.item is owned by role "${app}"`],
  },
  {
    code: 'PARTYWALL_LOGIN_OWNS_TENANT_TABLE',
    what: 'a login that owns tables of tenants',
    sql: () =>
      `create table globex.notes (id int); alter table globex.notes owner to ${app}; alter table globex.orders owner to ${app}`,
    evidence: () => [`schema "globex": 2 owned by role "${app}"`],
  },
  {
    code: 'PARTYWALL_RLS_NOT_FORCED',
    what: 'policies that are not forced',
    sql: () => 'alter table pooled.item no force row level security',
    evidence: () => ['pooled.item'],
  },
  {
    code: 'PARTYWALL_RLS_NOT_ENABLED',
    what: 'policies that are switched off',
    sql: () => `create table pooled."Odd name" (tenant_id text);
      create policy tenant on pooled."Odd name" using (tenant_id = '') with check (tenant_id = '')`,
    evidence: () => ['pooled."Odd name"'],
  },
  {
    code: 'PARTYWALL_RLS_CHILD_OPEN',
    what: 'a partition that is granted by itself',
    sql: () => `create table pooled.event (tenant_id text) partition by list (tenant_id);
      create table pooled.event_acme partition of pooled.event for values in ('acme');
      create table pooled.event_globex partition of pooled.event for values in ('globex');
      alter table pooled.event enable row level security; alter table pooled.event force row level security;
      grant select on pooled.event_acme to ${app}`,
    evidence: () => ['pooled.event_acme, of pooled.event'],
  },
  {
    code: 'PARTYWALL_POLICY_WITHOUT_CHECK',
    what: 'policies for writes that say only what may be read',
    sql: () => `create policy everything on pooled.item using (note = 'a');
      create policy changes on pooled.item for update using (note = 'b');
      create policy fine on pooled.item for delete using (note = 'c')`,
    evidence: () => ['pooled.item: policy "changes"', 'pooled.item: policy "everything"'],
  },
  {
    code: 'PARTYWALL_POLICY_ROLE_SPECIFIC',
    what: 'a policy for two roles',
    sql: () => `create policy reserved on pooled.item for select to ${app}, ${owner} using (true)`,
    evidence: () => [`pooled.item: policy "reserved" for ${app}, ${owner}`],
  },
  {
    code: 'PARTYWALL_VIEW_NOT_INVOKER',
    what: "views that read as their owner, also through another's view",
    sql: () => `create view public.direct as select * from pooled.item;
      create view acme.through with (security_invoker = false) as select note from pooled.items;
      create view public.harmless as select * from countries`,
    evidence: () => ['acme.through over pooled.item', 'public.direct over pooled.item'],
  },
  {
    code: 'PARTYWALL_MATVIEW_OVER_RLS',
    what: 'a materialized view',
    sql: () =>
      'create materialized view public.totals as select tenant_id, count(*) from pooled.items group by 1',
    evidence: () => ['public.totals over pooled.item'],
  },
  {
    code: 'PARTYWALL_RLS_TRUNCATE_GRANTED',
    what: 'TRUNCATE for everybody and for the application',
    sql: () => `grant truncate on pooled.item to public, ${app}`,
    evidence: () => ['pooled.item: granted to public', `pooled.item: granted to ${app}`].sort(),
  },
  {
    code: 'PARTYWALL_RLS_KEY_SHARED',
    what: 'keys that tenants share',
    sql: () => `alter table pooled.item add constraint once unique (note); create unique index "Once more" on pooled.item (lower(note)) include (tenant_id);
      create unique index fine on pooled.item (note, tenant_id);
      create table pooled.bare (id int primary key); alter table pooled.bare enable row level security; alter table pooled.bare force row level security`,
    evidence: () => ['pooled.item: pooled."Once more"', 'pooled.item: pooled.once'],
  },
  {
    code: 'PARTYWALL_RLS_FOREIGN_KEY_OPEN',
    what: 'foreign keys to rows of any tenant',
    sql: () => `alter table pooled.item add column by_tenant text, add column parent int, add constraint fine foreign key (tenant_id, parent) references pooled.item (tenant_id, id),
        add constraint crossed foreign key (by_tenant, parent) references pooled.item (tenant_id, id);
      create table pooled.outside (t text, id int, constraint out_of foreign key (t, id) references pooled.item)`,
    evidence: () => [
      'pooled.item: constraint "crossed" to pooled.item',
      'pooled.outside: constraint "out_of" to pooled.item',
    ],
  },
  {
    code: 'PARTYWALL_RLS_SEQUENCE_SHARED',
    what: 'numbers that tenants draw from one sequence',
    sql: () => `alter table pooled.item add column number serial, add column given int generated always as identity;
      create sequence pooled.loose; create sequence pooled.unused; alter table pooled.item add column token int default nextval('pooled.loose')`,
    evidence: () => [
      'pooled.item.given draws from pooled.item_given_seq',
      'pooled.item.number draws from pooled.item_number_seq',
      'pooled.item.token draws from pooled.loose',
    ],
  },
  {
    code: 'PARTYWALL_DEFINER_BYPASSES_RLS',
    what: 'a definer function of a superuser beside policies',
    sql: () => `create function pooled.total() returns bigint language sql security definer set search_path = pg_catalog as 'select count(*) from pooled.item';
      create function pooled.own() returns bigint language sql security definer set search_path = pg_catalog as 'select 1::bigint'; alter function pooled.own() owner to ${owner}`,
    evidence: () => [expect.stringMatching(/^pooled\.total\(\) of "/)],
  },
  {
    code: 'PARTYWALL_TENANT_SCHEMA_UNMARKED',
    what: 'a schema that was created by hand',
    sql: () => 'create schema initech; create table initech.orders (id int)',
    evidence: () => ['schema "initech" of tenant initech'],
    options: () => ({ tenancy: tenancyOf({ id: 'acme' }, { id: 'globex' }, { id: 'initech' }) }),
  },
  {
    code: 'PARTYWALL_TENANT_SCHEMA_MISMARKED',
    what: "a record that leads to a neighbour's schema",
    sql: () => '',
    evidence: () => ['schema "globex" is used by tenant acme and marked as that of tenant globex'],
    options: () => ({
      tenancy: tenancyOf(
        { id: 'acme', placement: { schema: 'globex' } },
        { id: 'globex', placement: { schema: 'globex-new' } },
      ),
    }),
  },
  {
    code: 'PARTYWALL_TENANT_MARK_ORPHANED',
    what: 'a mark without a tenant',
    sql: () => "create schema hooli; comment on schema hooli is 'partywall tenant hooli'",
    evidence: () => ['schema "hooli", marked as that of tenant hooli'],
  },
  {
    code: 'PARTYWALL_FOREIGN_KEY_CROSSES_TENANTS',
    what: 'a foreign key into the schema of another tenant',
    sql: () =>
      'create table acme.line (order_id int constraint line_order references globex.orders (id), own int references acme.orders (id))',
    evidence: () => ['acme.line: constraint "line_order" to globex.orders'],
  },
  {
    code: 'PARTYWALL_DEFAULT_CROSSES_TENANTS',
    what: 'a schema that was cloned with LIKE INCLUDING ALL, and a function',
    sql: () => `create function globex.fresh() returns int language sql as 'select 1';
      create table acme.clone (like globex.orders including all, token int default globex.fresh(), own int default nextval('acme.orders_id_seq'))`,
    evidence: () => [
      'acme.clone.id uses globex.orders_id_seq',
      'acme.clone.token uses globex.fresh()',
    ],
  },
  {
    code: 'PARTYWALL_VIEW_CROSSES_TENANTS',
    what: "views over another tenant's table",
    sql: () => `create view acme.spy as select * from globex.orders; create view acme.own as select * from acme.orders;
      create view public.leak as select * from acme.orders`,
    evidence: () => ['acme.spy reads globex.orders', 'public.leak reads acme.orders'],
  },
  {
    code: 'PARTYWALL_SHARED_SCHEMA_MISSING',
    what: 'a misspelt shared schema',
    sql: () => '',
    evidence: () => ['schema "pubic"'],
    options: () => ({ sharedSchemas: ['pubic', 'public'] }),
  },
  {
    code: 'PARTYWALL_SHARED_SCHEMA_CREATABLE',
    what: 'the rights on public before Postgres 15',
    sql: () => 'grant create on schema public to public',
    evidence: () => ['schema "public"'],
  },
  {
    code: 'PARTYWALL_SHARED_TABLE_WRITABLE',
    what: 'a shared table that the application may write to',
    sql: () => `grant update on public.countries to ${app}`,
    evidence: () => ['public.countries'],
  },
  {
    code: 'PARTYWALL_DEFINER_PATH_NOT_FIXED',
    what: 'definer functions with the path of their caller',
    sql: () => `create function acme.total(int) returns bigint language sql security definer set work_mem = '4MB' as 'select 1::bigint';
      create procedure public.work() language sql security definer as 'select 1';
      revoke execute on procedure public.work() from public;
      create function public.invoker() returns int language sql as 'select 1'`,
    evidence: () => ['acme.total(integer)', 'public.work()'],
  },
  {
    code: 'PARTYWALL_DEFINER_PUBLIC',
    what: 'a definer function that anybody may call',
    sql: () => `create function public.sum(bigint) returns int language sql security definer set search_path = pg_catalog as 'select 1';
      create function public.touch() returns trigger language plpgsql security definer set search_path = pg_catalog as 'begin return new; end'`,
    evidence: () => ['public.sum(bigint)'],
  },
  {
    code: 'PARTYWALL_DEFAULT_PRIVILEGES_PUBLIC',
    what: 'default privileges for everybody',
    sql: () => `alter default privileges for role ${owner} grant select on tables to public;
      alter default privileges for role ${owner} in schema acme grant usage on sequences to public;
      alter default privileges for role ${owner} grant execute on functions to ${app}`,
    evidence: () => [
      `SELECT on tables that "${owner}" creates in any schema`,
      `USAGE on sequences that "${owner}" creates in schema "acme"`,
    ],
  },
  {
    code: 'PARTYWALL_SEARCH_PATH_SET',
    what: 'a search_path for the role, the database and another role',
    sql: () => `alter role ${app} set search_path to acme, public; alter role ${owner} set search_path to globex;
      alter database ${db.name} set search_path to globex`,
    evidence: () => [`database "${db.name}": globex`, `role "${app}": acme, public`],
  },
  {
    code: 'PARTYWALL_SHARED_TABLE_SHADOWED',
    what: 'a table in a shared schema and with the tenants',
    sql: () => 'create table public.orders (id int)',
    evidence: () => ['"orders" in schema "public"'],
  },
  {
    code: 'PARTYWALL_UNVERIFIED_SOURCE',
    what: 'a header that nobody checks',
    sql: () => '',
    evidence: () => ['source header'],
    options: () => ({
      tenancy: createTenancy({
        store: memoryTenantStore(TENANTS.map((id) => ({ id }))),
        resolve: [header('X-Tenant-ID')],
      }),
    }),
  },
  {
    code: 'PARTYWALL_TENANT_PLACE_INVALID',
    what: 'a hostile schema name in a record',
    sql: () => '',
    evidence: () => [expect.stringMatching(/^tenant initech: ".*" is no schema name/)],
    options: () => ({
      tenancy: tenancyOf(
        { id: 'acme' },
        { id: 'globex' },
        { id: 'initech', placement: { schema: 'x"; drop schema acme; --' } },
      ),
    }),
  },
]

describe('an unsafe fact', () => {
  it.each(PLANTED)('$code: $what', async ({ code, sql, evidence, also = [], options }) => {
    await db.query(sql())
    const report = await examine(options?.())
    expect(evidenceOf(report, code)).toEqual(evidence())
    const head = [...LINTS, ...CHECKS].find((lint) => lint.code === code)
    expect(report.findings.find((finding) => finding.code === code)).toMatchObject({
      severity: head?.severity,
      title: head?.title,
      remedy: head?.remedy,
    })
    const expected = head?.severity === 'info' ? also : [code, ...also]
    expect(codesOf(report).sort()).toEqual([...expected].sort())
    expect(report.ok).toBe(report.findings.every((finding) => finding.severity !== 'error'))
  })

  it('is planted above for every lint, but for the version of the server', () => {
    const planted = new Set(PLANTED.map(({ code }) => code))
    // The two about poolers below; those about Citus are planted in test/isolation/citus.test.ts.
    const others = CODES.filter((code) => !code.startsWith('PARTYWALL_CITUS_'))
    expect(others.filter((code) => !planted.has(code))).toEqual([
      'PARTYWALL_SERVER_VULNERABLE',
      'PARTYWALL_POOLER_UNSAFE',
      'PARTYWALL_POOLER_UNPROBED',
    ])
  })

  it.each([
    [
      110_022,
      [
        'server 11.22: CVE-2024-10976, fixed in 12.21',
        'server 11.22: CVE-2025-8713, fixed in 13.22',
      ],
    ],
    [120_021, ['server 12.21: CVE-2025-8713, fixed in 13.22']],
    [
      150_008,
      ['server 15.8: CVE-2024-10976, fixed in 15.9', 'server 15.8: CVE-2025-8713, fixed in 15.14'],
    ],
    [150_013, ['server 15.13: CVE-2025-8713, fixed in 15.14']],
    [150_014, []],
    [170_005, ['server 17.5: CVE-2025-8713, fixed in 17.6']],
    [180_000, []],
  ])('PARTYWALL_SERVER_VULNERABLE: version %i', async (serverVersion, expected) => {
    const round = new Round()
    const client = await central.connect()
    try {
      await client.query('begin')
      await round.run(client, { loginRole: app, serverVersion, sharedSchemas: ['public'] })
      await client.query('rollback')
    } finally {
      client.release()
    }
    expect(evidenceOf(round.report(), 'PARTYWALL_SERVER_VULNERABLE')).toEqual(expected)
  })

  it('is found with a schema in front of the system catalogue that means to hide it', async () => {
    await db.query(`create schema evil; grant usage on schema evil to ${app};
      create function evil.unnest(text[]) returns setof text language sql as 'select null::text where false';
      create function evil.unnest(text[], text[]) returns table (a text, b text) language sql as 'select null::text, null::text where false';
      create function evil.current_setting(text) returns text language sql as $$ select '180000' $$;
      grant create on schema public to public;
      alter database ${db.name} set search_path to evil, pg_catalog`)
    const pool = open()
    try {
      const report = await doctor(pool, { tenancy: both(), loginRole: app })
      expect(codesOf(report)).toEqual([
        'PARTYWALL_SHARED_SCHEMA_CREATABLE',
        'PARTYWALL_SEARCH_PATH_SET',
      ])
    } finally {
      await pool.end()
    }
  })

  it('that stands in very many places is shown a hundred times, and the rest counted', async () => {
    await db.query(`do $$ begin for n in 1..123 loop
      execute format('create table acme.t%s (id int); alter table acme.t%s enable row level security', n, n); end loop; end $$`)
    const evidence = evidenceOf(await examine(), 'PARTYWALL_RLS_NOT_FORCED')
    expect(evidence).toHaveLength(101)
    expect(evidence[0]).toBe('acme.t1')
    expect(evidence.at(-1)).toBe('and 23 more of this kind')
  })

  it('is found with the eyes of a role that may read nothing but the catalogue', async () => {
    await db.query(
      `revoke all on all tables in schema acme, globex, pooled from ${app}; revoke usage on schema acme, globex, pooled from ${app};
      create view globex.spy as select * from acme.orders`,
    )
    const pool = open(app)
    try {
      const report = await doctor(pool, { tenancy: both() })
      expect(codesOf(report)).toEqual(['PARTYWALL_VIEW_CROSSES_TENANTS'])
    } finally {
      await pool.end()
    }
  })
})

describe('a lint that fails', () => {
  it('is a finding, and the others run all the same', async () => {
    await db.query('alter table pooled.item no force row level security')
    const broken = {
      code: 'PARTYWALL_TEST_BROKEN',
      severity: 'info',
      title: 'Broken.',
      remedy: 'None.',
      sql: 'select 1 / 0 as zero',
      evidence: () => 'never',
    } as const
    const round = new Round([broken, ...LINTS])
    const client = await central.connect()
    try {
      await client.query('begin')
      await round.run(client, { loginRole: app, serverVersion: 180_000, sharedSchemas: ['public'] })
      await client.query('rollback')
    } finally {
      client.release()
    }
    const report = round.report()
    expect(codesOf(report)).toEqual(['PARTYWALL_LINT_FAILED', 'PARTYWALL_RLS_NOT_FORCED'])
    expect(evidenceOf(report, 'PARTYWALL_LINT_FAILED')).toEqual([
      'PARTYWALL_TEST_BROKEN: error: division by zero',
    ])
    expect(report.checked).not.toContain('PARTYWALL_TEST_BROKEN')
    expect(report.ok).toBe(false)
  })

  it('for a store that cannot list its tenants is one finding that names what stays unknown', async () => {
    const store = memoryTenantStore(TENANTS.map((id) => ({ id })))
    const tenancy = createTenancy({ store: { findById: (id) => store.findById(id) } })
    const report = await examine({ tenancy })
    expect(codesOf(report)).toEqual(['PARTYWALL_LINT_FAILED'])
    expect(evidenceOf(report, 'PARTYWALL_LINT_FAILED')).toEqual([
      expect.stringMatching(
        /^PARTYWALL_TENANT_SCHEMA_UNMARKED, .*: the tenants could not be listed: TenancyError: /,
      ),
    ])
    expect(report.checked).toContain('PARTYWALL_UNVERIFIED_SOURCE')
    expect(report.checked).not.toContain('PARTYWALL_TENANT_MARK_ORPHANED')
  })

  it('by the loss of the connection fails the whole round', async () => {
    const client = await central.connect()
    client.on('error', () => undefined)
    await client.query('begin')
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
    await db.query('select pg_terminate_backend($1)', [rows[0]?.pid])
    await expect(
      new Round().run(client, { loginRole: app, serverVersion: 180_000, sharedSchemas: [] }),
    ).rejects.toThrow(/terminat|ended|not queryable/i)
    client.release(true)
  })
})

describe('options', () => {
  it.each([
    [{ sharedSchema: ['public'] }, /sharedSchema/],
    [{ sharedSchemas: 'public' }, /list of schema names/],
    [{ sharedSchemas: ['pg_catalog'] }, /no schema name/],
    [{ loginRole: 'nobody-of-this-name' }, /there is no role "nobody-of-this-name"/],
  ])('%j is refused', async (options, message) => {
    await expect(doctor(central, options as DoctorOptions)).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
      message: expect.stringMatching(message),
    })
    expect(central.idleCount).toBe(central.totalCount)
  })
})

describe('a pooler', () => {
  const lookThrough = async (
    url: string,
    options: TenantPoolOptions,
    central: string,
  ): Promise<DoctorReport> => {
    await using tenancy = both()
    const plain = new pg.Pool({ connectionString: central, max: 1 })
    const pool = new TenantPool(tenancy, { connectionString: url, ...options })
    try {
      return await doctor(plain, { tenancy, loginRole: app, pool })
    } finally {
      await pool.end()
      await plain.end()
    }
  }
  const asApp = (url: string): string =>
    Object.assign(new URL(url), { username: app, password: 'secret' }).href

  it('PARTYWALL_POOLER_UNSAFE: one that shares connections, and a pool that was not told', async () => {
    await using pooler = await startTestPooler({ postgresUrl: asApp(db.url), connections: 2 })
    const report = await lookThrough(pooler.url, {}, db.url)
    expect(codesOf(report)).toEqual(['PARTYWALL_POOLER_UNSAFE'])
    expect(evidenceOf(report, 'PARTYWALL_POOLER_UNSAFE')).toEqual([
      expect.stringMatching(/pooler: 'none'.*the next client found.*search_path = ''/),
    ])
    expect(report.ok).toBe(false)
  })

  it('PARTYWALL_POOLER_UNSAFE: a pool that was told, and a login with a path', async () => {
    await using pooler = await startTestPooler({ postgresUrl: asApp(db.url), connections: 2 })
    const report = await lookThrough(pooler.url, { pooler: 'transaction' }, db.url)
    expect(evidenceOf(report, 'PARTYWALL_POOLER_UNSAFE')).toEqual([
      expect.stringContaining('"$user", public'),
    ])
  })

  it('is nothing to speak of with a pool that was told, and a login without a path', async () => {
    await db.query(`alter role ${app} set search_path = ''`)
    await using pooler = await startTestPooler({ postgresUrl: asApp(db.url), connections: 2 })
    const report = await lookThrough(pooler.url, { pooler: 'transaction' }, pooler.url)
    expect(report.findings).toEqual([])
    expect(report.checked).toContain('PARTYWALL_POOLER_UNSAFE')
  })

  it('PARTYWALL_POOLER_UNPROBED: one in front of doctor itself, without a pool to look at', async () => {
    await using pooler = await startTestPooler({ postgresUrl: db.url, connections: 1 })
    const plain = new pg.Pool({ connectionString: pooler.url, max: 1 })
    const report = await doctor(plain, { tenancy: both(), loginRole: app })
    await plain.end()
    expect(codesOf(report)).toEqual(['PARTYWALL_POOLER_UNPROBED'])
    expect(report.ok).toBe(true)
    expect(evidenceOf(report, 'PARTYWALL_POOLER_UNPROBED')).toEqual([
      expect.stringMatching(/^process \d+ answers on a connection .* process \d+$/),
    ])
  })

  it('that cannot be looked at is a failure, and all the rest is checked', async () => {
    const report = await lookThrough('postgres://nobody@127.0.0.1:1/x', {}, db.url)
    expect(codesOf(report)).toEqual(['PARTYWALL_LINT_FAILED'])
    expect(evidenceOf(report, 'PARTYWALL_LINT_FAILED')).toEqual([
      expect.stringMatching(/^PARTYWALL_POOLER_UNSAFE: .*could not be told/),
    ])
    expect(report.checked).not.toContain('PARTYWALL_POOLER_UNSAFE')
    expect(report.checked).toContain('PARTYWALL_RLS_NOT_FORCED')
  })
})

describe('docs/reference/doctor.md', () => {
  it('has every code with its severity, and no other', async () => {
    const text = await readFile(
      new URL('../../../docs/reference/doctor.md', import.meta.url),
      'utf8',
    )
    const documented = [
      ...text.matchAll(/^\| `(PARTYWALL_[A-Z_]+)` +\| (\w+) +\| (.+) \| (.+) \|$/gm),
    ]
    const rows = documented.map(([, code, severity]) => `${code} ${severity}`)
    const lints = [...LINTS, ...CHECKS, LINT_FAILED]
    expect(rows.sort()).toEqual(lints.map(({ code, severity }) => `${code} ${severity}`).sort())
    expect(new Set(rows).size).toBe(rows.length)
    for (const [, code, , meaning = '', remedy = ''] of documented)
      for (const cell of [meaning, remedy]) expect(cell.trim(), code).toMatch(/^.{12,}\.$/)
  })

  it('is written from lints that follow the rules of the house', () => {
    for (const { code, title, remedy } of [...LINTS, ...CHECKS, LINT_FAILED]) {
      expect(code).toMatch(/^PARTYWALL(?:_[A-Z]+)+$/)
      expect(title, code).toMatch(/^[A-Z].{10,}\.$/)
      expect(remedy, code).toMatch(/^.{10,}\.?$/)
    }
  })
})
