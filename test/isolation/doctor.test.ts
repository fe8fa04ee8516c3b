import { randomBytes } from 'node:crypto'
import { createTenancy, createTenant, memoryTenantStore } from '@partywall/core'
import { createTenantSchema, doctor } from '@partywall/postgres'
import {
  canary,
  createTestDatabase,
  foreignCanaries,
  type TestDatabase,
} from '@partywall/test-support'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'

/*
 * What doctor calls an error is a leak that can be shown: each fact is planted, one tenant reads or writes the rows of the other, doctor names it; the remedy that doctor gives is applied, the leak is gone, and so is the finding.
 */

const TENANTS = ['acme', 'globex'] as const

let owner: string
let app: string
let db: TestDatabase
let central: pg.Pool
let application: pg.Client

beforeEach(async () => {
  db = await createTestDatabase()
  const suffix = randomBytes(5).toString('hex')
  owner = `pw_owner_${suffix}`
  app = `pw_app_${suffix}`
  await db.query(`create role ${owner}; create role ${app} login password 'secret'`)
  central = new pg.Pool({ connectionString: db.url, max: 1 })
  // end() does not wait for the sockets, and the database is dropped under them.
  central.on('connect', (client) => client.on('error', () => undefined))
  for (const id of TENANTS) {
    await createTenantSchema(central, createTenant({ id }))
    await db.query(
      `create table ${id}.orders (id int, note text); insert into ${id}.orders values (1, '${canary(id, 1)}'); grant usage on schema ${id} to ${owner}; grant select on ${id}.orders to ${owner}`,
    )
  }
  // Identical ids in both tenants, and behind policies that hold.
  await db.query(`create schema pooled; grant usage, create on schema pooled to ${app}, ${owner};
    create table pooled.item (tenant_id text, id int, note text, is_public boolean default false, primary key (tenant_id, id));
    insert into pooled.item select t, n, 'canary:' || t || ':' || n from unnest(array['acme', 'globex']) t, generate_series(1, 3) n;
    alter table pooled.item owner to ${owner};
    alter table pooled.item enable row level security; alter table pooled.item force row level security;
    create policy tenant on pooled.item using (tenant_id = nullif(current_setting('app.tenant_id', true), '') or is_public)
      with check (tenant_id = nullif(current_setting('app.tenant_id', true), ''));
    grant select, insert, update, delete on pooled.item to ${app}`)
  const url = Object.assign(new URL(db.url), { username: app, password: 'secret' })
  application = new pg.Client({ connectionString: url.href })
  await application.connect()
})
afterEach(async () => {
  await application.end()
  await central.end()
  await db[Symbol.asyncDispose]()
  const server = new pg.Client({ connectionString: inject('postgresUrl') })
  await server.connect()
  await server.query(`drop role ${owner}, ${app}`)
  await server.end()
})

/** The other tenants of whom the application gets something in the transaction of a tenant; a refusal shows none. */
async function leaked(tenant: string, sql: string): Promise<string[]> {
  await application.query('begin')
  try {
    await application.query("select set_config('app.tenant_id', $1, true)", [tenant])
    const { rows } = await application.query(sql)
    return [...new Set(foreignCanaries(rows, tenant))]
  } catch (error) {
    expect(error).toBeInstanceOf(pg.DatabaseError)
    return []
  } finally {
    await application.query('rollback')
  }
}

async function errorsFound(): Promise<string[]> {
  const tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
  const { findings } = await doctor(central, { tenancy, loginRole: app })
  return findings.filter(({ severity }) => severity === 'error').map(({ code }) => code)
}

interface Leak {
  readonly what: string
  readonly code: string
  readonly plant: () => string
  /** What tenant acme and tenant globex ask. */
  readonly ask: string
  readonly remedy: () => string
  readonly also?: readonly string[]
}

const ITEMS = 'select * from pooled.item'

const LEAKS: readonly Leak[] = [
  {
    what: 'policies that do not hold for the owner',
    code: 'PARTYWALL_RLS_NOT_FORCED',
    // A role that owns through a membership is exempt as the owner is.
    plant: () => `alter table pooled.item no force row level security; grant ${owner} to ${app}`,
    ask: ITEMS,
    also: ['PARTYWALL_LOGIN_OWNS_RLS_TABLE'],
    remedy: () => `alter table pooled.item force row level security; revoke ${owner} from ${app}`,
  },
  {
    what: 'the owner as application role, who may switch the policies off',
    code: 'PARTYWALL_LOGIN_OWNS_RLS_TABLE',
    plant: () => `alter table pooled.item owner to ${app}`,
    ask: `with done as (select pooled.lift()) select i.* from done, lateral (select * from pooled.read_all()) i`,
    remedy: () => `alter table pooled.item owner to ${owner}`,
  },
  {
    what: 'BYPASSRLS',
    code: 'PARTYWALL_LOGIN_BYPASSRLS',
    plant: () => `alter role ${app} bypassrls`,
    ask: ITEMS,
    remedy: () => `alter role ${app} nobypassrls`,
  },
  {
    what: 'policies that are switched off',
    code: 'PARTYWALL_RLS_NOT_ENABLED',
    plant: () => 'alter table pooled.item disable row level security',
    ask: ITEMS,
    remedy: () => 'alter table pooled.item enable row level security',
  },
  {
    what: 'a view that reads as its owner, a superuser',
    code: 'PARTYWALL_VIEW_NOT_INVOKER',
    plant: () => `create view pooled.items as ${ITEMS}; grant select on pooled.items to ${app}`,
    ask: 'select * from pooled.items',
    remedy: () => 'alter view pooled.items set (security_invoker = true)',
  },
  {
    what: 'a materialized view',
    code: 'PARTYWALL_MATVIEW_OVER_RLS',
    plant: () =>
      `create materialized view pooled.copy as ${ITEMS}; grant select on pooled.copy to ${app}`,
    ask: 'select * from pooled.copy',
    remedy: () => 'drop materialized view pooled.copy',
  },
]

describe('D9 doctor fails on a leak that can be shown, and its remedy ends both', () => {
  it.each(LEAKS)('D9 $what', async ({ code, plant, ask, remedy, also = [] }) => {
    // For the owner: what SQL can do in one statement, a function of the application can.
    await application.query(`create function pooled.lift() returns int language plpgsql as $$ begin
        alter table pooled.item disable row level security; return 1; end $$;
      create function pooled.read_all() returns setof pooled.item language plpgsql as $$ begin return query select * from pooled.item; end $$`)
    for (const id of TENANTS) expect(await leaked(id, ITEMS)).toEqual([])
    expect(await errorsFound()).toEqual([])

    await db.query(plant())
    expect(await leaked('acme', ask)).toEqual(['globex'])
    expect(await leaked('globex', ask)).toEqual(['acme'])
    expect((await errorsFound()).sort()).toEqual([code, ...also].sort())

    await db.query(remedy())
    for (const id of TENANTS) expect(await leaked(id, ask)).toEqual([])
    expect(await errorsFound()).toEqual([])
  })

  it('D9 a policy without WITH CHECK lets a tenant write what it may read, in the name of another', async () => {
    const forge = (from: string, to: string) =>
      leaked(
        from,
        `insert into pooled.item values ('${to}', 9, '${canary(to, 9)}', true) returning note`,
      )
    expect(await forge('acme', 'globex')).toEqual([])

    await db.query(`drop policy tenant on pooled.item;
      create policy tenant on pooled.item using (tenant_id = nullif(current_setting('app.tenant_id', true), '') or is_public)`)
    expect(await forge('acme', 'globex')).toEqual(['globex'])
    expect(await forge('globex', 'acme')).toEqual(['acme'])
    expect(await errorsFound()).toEqual(['PARTYWALL_POLICY_WITHOUT_CHECK'])

    await db.query(
      "alter policy tenant on pooled.item with check (tenant_id = nullif(current_setting('app.tenant_id', true), ''))",
    )
    expect(await forge('acme', 'globex')).toEqual([])
    expect(await forge('globex', 'acme')).toEqual([])
    expect(await errorsFound()).toEqual([])
  })

  it('D9 a definer function without a fixed path opens the tables that its caller chooses', async () => {
    await db.query(`create function public.report() returns setof text language plpgsql security definer as $$
        begin return query select note from orders; end $$;
      alter function public.report() owner to ${owner}`)
    const ask = (path: string) =>
      `with path as (select set_config('search_path', '${path}, public', true)) select r as note from path, lateral (select * from public.report()) r`
    // The application has no right on either schema.
    expect(await leaked('acme', 'select * from globex.orders')).toEqual([])
    expect(await leaked('acme', ask('globex'))).toEqual(['globex'])
    expect(await leaked('globex', ask('acme'))).toEqual(['acme'])
    expect(await errorsFound()).toEqual(['PARTYWALL_DEFINER_PATH_NOT_FIXED'])

    await db.query('alter function public.report() set search_path = pg_catalog, pg_temp')
    expect(await leaked('acme', ask('globex'))).toEqual([])
    expect(await leaked('globex', ask('acme'))).toEqual([])
    expect(await errorsFound()).toEqual([])
  })
})
