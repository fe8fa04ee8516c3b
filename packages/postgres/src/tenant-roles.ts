import { physicalName, TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { withTransaction } from './internal/with-transaction.ts'
import { quoteIdentifier, schemaOf } from './search-path.ts'

export interface TenantRoleOptions {
  /** The gate role that the pool logs in as. */
  readonly gate: string
  /** Schemas of data that all tenants share: readable, not writable. @defaultValue `['public']` */
  readonly sharedSchemas?: readonly string[] | undefined
  /**
   * `'tenant'`: what is in the schema becomes the role's own, so that migrations, which run as the tenant, can change tables that somebody else made. `'keep'`: only privileges are given.
   * @defaultValue `'keep'`
   */
  readonly ownership?: 'tenant' | 'keep' | undefined
}

/**
 * Creates the role that a pool with `role: 'per-tenant'` logs in as: a NOINHERIT gate, which may become any tenant's role and has no privileges of its own, so that a statement without a scope fails at the
 * server. Safe to repeat; an existing role is checked and not changed. The password is the one of the new role.
 *
 * @param central - a pool of a user who may create roles.
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` if the role exists and is no gate: a superuser, one that bypasses row security, inherits, or may create roles or databases.
 */
export async function createGateRole(
  central: pg.Pool,
  { name, password }: { readonly name: string; readonly password: string },
): Promise<boolean> {
  assertRoleName(name)
  return withTransaction(central, async (client) => {
    await lock(client)
    const { rows } = await client.query<{ gate: boolean }>(
      `select not (rolsuper or rolbypassrls or rolinherit or rolcreaterole or rolcreatedb) as gate
       from pg_catalog.pg_roles where rolname = $1`,
      [name],
    )
    if (rows[0]?.gate === true) return false
    if (rows[0] !== undefined)
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `The role ${name} exists and is no gate: it must be NOINHERIT, and neither superuser nor BYPASSRLS, CREATEROLE or CREATEDB.`,
      )
    await client.query(
      `create role ${quoteIdentifier(name)} login noinherit password ${client.escapeLiteral(password)};
       alter role ${quoteIdentifier(name)} set search_path = ''`,
    )
    return true
  })
}

/**
 * Creates the role of a tenant and its privileges: everything in its own schema, reading in the shared ones, nothing anywhere else. The gate may become it. Safe to repeat and to race; run it again after shared
 * tables were added. Returns whether the role was created now.
 *
 * What it stops: mistakes, and injected SQL that names another tenant's tables. What it does not: SQL that is written to switch roles (`set_config('role', ...)` in a DO block), because the session user is a member of
 * all of them. Only a login for each tenant stops that.
 *
 * @param central - a pool of a user who owns the schemas and may create roles.
 * @throws {TenancyError} `ERR_TENANCY_SCHEMA_MISSING`, `ERR_TENANCY_OPTION_INVALID`.
 */
export async function createTenantRole(
  central: pg.Pool,
  tenant: Tenant,
  { gate, sharedSchemas = ['public'], ownership = 'keep' }: TenantRoleOptions,
): Promise<boolean> {
  assertRoleName(gate)
  const name = physicalName('role', tenant.id)
  const role = quoteIdentifier(name)
  const schema = schemaOf(tenant)
  return withTransaction(central, async (client) => {
    await lock(client)
    const { rows } = await client.query<{ schema: boolean; role: boolean }>(
      `select exists (select from pg_catalog.pg_namespace where nspname = $1) as schema,
              exists (select from pg_catalog.pg_roles where rolname = $2) as role`,
      [schema, name],
    )
    const [found] = rows
    if (found?.schema !== true)
      throw new TenancyError(
        'ERR_TENANCY_SCHEMA_MISSING',
        `The schema of tenant ${tenant.id} does not exist.`,
        { tenantId: tenant.id },
      )
    if (!found.role) await client.query(`create role ${role} nologin noinherit`)
    const own = quoteIdentifier(schema)
    const statements = [
      `grant ${role} to ${quoteIdentifier(gate)}`,
      `grant usage, create on schema ${own} to ${role}`,
      `grant all on all tables in schema ${own} to ${role}`,
      `grant all on all sequences in schema ${own} to ${role}`,
      `grant all on all routines in schema ${own} to ${role}`,
      // Of what the owner of the schema adds later.
      `alter default privileges in schema ${own} grant all on tables to ${role}`,
      `alter default privileges in schema ${own} grant all on sequences to ${role}`,
    ]
    for (const shared of sharedSchemas.map(quoteIdentifier))
      statements.push(
        `grant usage on schema ${shared} to ${role}`,
        `grant select on all tables in schema ${shared} to ${role}`,
        `alter default privileges in schema ${shared} grant select on tables to ${role}`,
      )
    if (ownership === 'tenant')
      statements.push(...(await ownershipStatements(client, schema, name)))
    await client.query(statements.join(';\n'))
    return !found.role
  })
}

function assertRoleName(name: unknown): void {
  if (typeof name === 'string' && /^[a-z_][a-z0-9_-]{0,62}$/.test(name) && !name.startsWith('pg_'))
    return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `A gate role is 1 to 63 of a-z, 0-9, _ and -, got ${JSON.stringify(name)}.`,
  )
}

/** What makes everything in a schema the role's own. What belongs to a table or to an extension goes with it. */
async function ownershipStatements(
  client: pg.PoolClient,
  schema: string,
  role: string,
): Promise<string[]> {
  const { rows } = await client.query<{ statement: string }>(
    `with owner as (select oid from pg_catalog.pg_roles where rolname = $2),
          own as (select oid from pg_catalog.pg_namespace where nspname = $1)
     select format('alter table %s owner to %I', c.oid::regclass, $2::text) as statement
     from pg_catalog.pg_class c
     where c.relnamespace = (select oid from own) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
       and c.relowner is distinct from (select oid from owner)
       and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i', 'e'))
     union all
     select format('alter routine %s owner to %I', p.oid::regprocedure, $2::text)
     from pg_catalog.pg_proc p
     where p.pronamespace = (select oid from own) and p.proowner is distinct from (select oid from owner) and p.prokind in ('f', 'p', 'w')
       and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
     union all
     select format('alter type %s owner to %I', t.oid::regtype, $2::text)
     from pg_catalog.pg_type t
     where t.typnamespace = (select oid from own) and t.typowner is distinct from (select oid from owner) and t.typtype in ('e', 'd')
       and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')`,
    [schema, role],
  )
  const statements = rows.map(({ statement }) => statement)
  // Who gives something away must be able to become the new owner; a superuser always is.
  return statements.length === 0
    ? []
    : [`grant ${quoteIdentifier(role)} to current_user`, ...statements]
}

/** Roles belong to the whole server, and grants on a shared schema change one row: two at once fail, with 23505 or "tuple concurrently updated". */
async function lock(client: pg.PoolClient): Promise<void> {
  await client.query(
    "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('partywall:roles', 0))",
  )
}
