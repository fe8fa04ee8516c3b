import { assertKnownKeys, physicalName, TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import { matchesVerifier, scramVerifier } from './internal/scram-verifier.ts'
import {
  grantParameters,
  TENANT_ROLE_FACTS,
  type TenantGrants,
  type TenantRoleFacts,
} from './internal/tenant-grants.ts'
import { tenantGroup } from './internal/tenant-groups.ts'
import { ownershipStatements } from './internal/tenant-ownership.ts'
import { withTransaction } from './internal/with-transaction.ts'
import { assertTableNames } from './row-isolation-plan.ts'
import { assertSchemaName, quoteIdentifier, schemaOf } from './search-path.ts'
import type { Queryable } from './shadowed-tables.ts'

export interface TenantRoleOptions {
  /** The gate role that the pool logs in as. Absent: the role has a `login` of its own. */
  readonly gate?: string | undefined
  /** Schemas of data that all tenants share: readable, not writable. @defaultValue `['public']` */
  readonly sharedSchemas?: readonly string[] | undefined
  /**
   * `'tenant'`: what is in the schema becomes the role's own, so that migrations, which run as the tenant, can change tables that somebody else made. `'keep'`: only privileges are given. Tables with rows of many
   * tenants never become one tenant's.
   * @defaultValue `'keep'`
   */
  readonly ownership?: 'tenant' | 'keep' | undefined
  /** The schema of the tables that tenants with `isolation: 'row'` share. @defaultValue `'public'` */
  readonly rowSchema?: string | undefined
  /** Tables of that schema that are shared, as in `planRowIsolation`: readable, not writable. @defaultValue none */
  readonly sharedTables?: readonly string[] | undefined
  /** Lets the role log in by itself. The password is set if it is another one; it consists of printable ASCII characters. Absent: whether it may log in stays as it is. */
  readonly login?: { readonly password: string } | undefined
}

const ROLE_OPTIONS = [
  'gate',
  'sharedSchemas',
  'ownership',
  'rowSchema',
  'sharedTables',
  'login',
] as const satisfies readonly (keyof TenantRoleOptions)[]

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
 * Creates the role of a tenant and its privileges. Safe to repeat and to race; returns whether the role was created now. Where nothing is missing, the catalogue is read once and nothing is written or locked. Run it again
 * after tables were added to a shared schema, or isolated by rows.
 *
 * - `isolation: 'schema'`: everything in its own schema, reading in the shared ones.
 * - `isolation: 'row'`: USAGE on the row schema; SELECT, INSERT, UPDATE and DELETE on its tables that are isolated, and on views with `security_invoker`; SELECT on its shared tables; USAGE on its sequences. Never CREATE,
 *   TRUNCATE, REFERENCES or TRIGGER. A table that is not isolated yet is nobody's.
 *
 * What tenants have in common is held by one role for all of them, see `docs/design/tenant-groups.md`.
 *
 * What it stops: mistakes, and injected SQL that names what is another tenant's. With a gate it does not stop SQL that is written to switch roles (`set_config('role', ...)` in a DO block), because the session user is a member
 * of all of them. Only a `login` for each tenant stops that: its role is a member of nothing but the role that holds what they have in common.
 *
 * @param central - a pool of a user who owns the schemas and may create roles.
 * @throws {TenancyError} `ERR_TENANCY_SCHEMA_MISSING`, `ERR_TENANCY_OPTION_INVALID`; `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a role of that name exists that can be no tenant's: one with SUPERUSER, BYPASSRLS, CREATEROLE,
 * CREATEDB or REPLICATION, or, with a login, one that is a member of others.
 */
export async function createTenantRole(
  central: pg.Pool,
  tenant: Tenant,
  options: TenantRoleOptions,
): Promise<boolean> {
  const wanted = await resolveRole(central, tenant, options)
  if (isComplete(await readRole(central, wanted))) return false
  return retryIfMadeElsewhere(() =>
    withTransaction(central, async (client) => {
      await lock(client)
      const { facts } = await readRole(client, wanted)
      assertUsable(tenant, wanted, facts)
      const { grants, login } = wanted
      const role = quoteIdentifier(grants.role)
      if (!facts.exists) await client.query(`create role ${role} nologin`)
      if (!facts.groupExists)
        await client.query(`create role ${quoteIdentifier(grants.group)} nologin`)
      // Again: the password, and what belongs to a role, are known only of one that is there.
      const now = await readRole(client, wanted)
      if (login !== undefined && !now.hasPassword)
        await client.query(
          `alter role ${role} login password '${await scramVerifier(login.password)}'`,
        )
      for (const sql of [...now.facts.missing, ...now.ownership]) await client.query(sql)
      return !facts.exists
    }),
  )
}

/**
 * Drops the role of a tenant, and with the last of them the one that holds what they had in common. Safe to repeat; returns whether there was a role. Rights go with it; what it owns is kept and becomes that of the user who
 * runs this. A session of its own login that is still open can do nothing any more.
 *
 * Rejects with the server's 2BP01 where the role owns something, or was given something, in another database: do the same there first.
 *
 * @param central - a pool of a user who may drop the role.
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT` if a role of that name is no tenant's, as in `createTenantRole`.
 */
export async function dropTenantRole(
  central: pg.Pool,
  tenant: Tenant,
  options: Pick<TenantRoleOptions, 'rowSchema'> = {},
): Promise<boolean> {
  assertKnownKeys('dropTenantRole', options, ['rowSchema'])
  const wanted = await resolveRole(central, tenant, { ...options, login: { password: 'none' } })
  return withTransaction(central, async (client) => {
    await lock(client)
    const { facts } = await readRole(client, wanted)
    if (!facts.exists) return false
    if (facts.mighty) throw noTenants(tenant, wanted.grants.role)
    await dropRole(client, wanted.grants.role)
    for (const group of [wanted.grants.group, wanted.grants.otherGroup]) {
      // Whoever created it may be a member by that alone, since PostgreSQL 16.
      const { rows } = await client.query(
        `select from pg_catalog.pg_roles g where g.rolname = $1 and not exists (
          select from pg_catalog.pg_auth_members m join pg_catalog.pg_roles r on r.oid = m.member where m.roleid = g.oid and r.rolname <> current_user)`,
        [group],
      )
      if (rows.length > 0) await dropRole(client, group)
    }
    return true
  })
}

/** DROP OWNED alone would drop the tables that migrations made as a tenant; to give them away, and to take rights away, takes the membership. */
async function dropRole(client: pg.PoolClient, name: string): Promise<void> {
  const role = quoteIdentifier(name)
  await client.query(
    `grant ${role} to current_user; reassign owned by ${role} to current_user; drop owned by ${role}; drop role ${role}`,
  )
}

interface WantedRole {
  readonly grants: TenantGrants
  readonly ownership: 'tenant' | 'keep'
  readonly login: { readonly password: string } | undefined
}

async function resolveRole(
  central: pg.Pool,
  tenant: Tenant,
  options: TenantRoleOptions,
): Promise<WantedRole> {
  assertKnownKeys('createTenantRole', options, ROLE_OPTIONS)
  const { gate, sharedSchemas = ['public'], ownership = 'keep', login } = options
  const { rowSchema = 'public', sharedTables = [] } = options
  if (gate !== undefined) assertRoleName(gate)
  if (login !== undefined) assertPassword(login.password)
  if (gate === undefined && login === undefined)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'The role of a tenant needs a gate that may become it, or a login of its own.',
    )
  assertTableNames(sharedTables)
  const byRow = tenant.isolation === 'row'
  const schema = byRow ? assertSchemaName(rowSchema) : schemaOf(tenant)
  const database = await databaseOf(central)
  const groups = [tenantGroup(database), tenantGroup(database, rowSchema)] as const
  return {
    grants: {
      role: physicalName('role', tenant.id),
      gate,
      group: byRow ? groups[1] : groups[0],
      otherGroup: byRow ? groups[0] : groups[1],
      schema,
      isolation: byRow ? 'row' : 'schema',
      sharedSchemas: sharedSchemas.filter((name) => name !== schema),
      sharedTables,
      login: login !== undefined,
    },
    ownership: byRow ? 'keep' : ownership,
    login,
  }
}

interface RoleState {
  readonly facts: TenantRoleFacts
  readonly hasPassword: boolean
  readonly wanted: WantedRole
  /** The statements that make what is in its schema its own. */
  readonly ownership: readonly string[]
}

async function readRole(client: Queryable, wanted: WantedRole): Promise<RoleState> {
  const { grants, login, ownership } = wanted
  const { rows } = await client.query<TenantRoleFacts>(TENANT_ROLE_FACTS, grantParameters(grants))
  const [facts] = rows
  if (facts === undefined) throw new Error('The server answered no row about a role.')
  const { exists, canLogin, readsPasswords } = facts
  const known = login !== undefined && exists && canLogin && readsPasswords
  return {
    facts,
    wanted,
    hasPassword: known && (await hasPassword(client, grants.role, login.password)),
    ownership:
      exists && ownership === 'tenant'
        ? await ownershipStatements(client, grants.schema, grants.role)
        : [],
  }
}

function isComplete({ facts, hasPassword: known, wanted, ownership }: RoleState): boolean {
  const { schemaExists, groupExists, exists, mighty, missing, memberOf } = facts
  const sound = schemaExists && groupExists && exists && !mighty
  const alone = wanted.login === undefined || (known && memberOf.length === 0)
  return sound && alone && missing.length === 0 && ownership.length === 0
}

function assertUsable(tenant: Tenant, { grants, login }: WantedRole, facts: TenantRoleFacts): void {
  if (!facts.schemaExists)
    throw new TenancyError(
      'ERR_TENANCY_SCHEMA_MISSING',
      grants.isolation === 'row'
        ? `There is no schema "${grants.schema}" with the rows of tenant ${tenant.id}.`
        : `The schema of tenant ${tenant.id} does not exist.`,
      { tenantId: tenant.id },
    )
  if (facts.mighty) throw noTenants(tenant, grants.role)
  if (login !== undefined && facts.memberOf.length > 0)
    throw new TenancyError(
      'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
      `The role ${grants.role} is a member of ${facts.memberOf.join(', ')}, and whoever logs in as it could become these.`,
      {
        tenantId: tenant.id,
        hint: 'Revoke them; the login of a tenant is a member of nothing else.',
      },
    )
}

function noTenants(tenant: Tenant, role: string): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
    `The role ${role} exists and is none of a tenant: it has SUPERUSER, BYPASSRLS, CREATEROLE, CREATEDB or REPLICATION.`,
    { tenantId: tenant.id, hint: 'Rename that role, or take these from it.' },
  )
}

async function hasPassword(client: Queryable, role: string, password: string): Promise<boolean> {
  const { rows } = await client.query<{ kept: string | null }>(
    'select rolpassword as kept from pg_catalog.pg_authid where rolname = $1',
    [role],
  )
  return matchesVerifier(password, rows[0]?.kept ?? null)
}

// A pool stays with its database.
const databases = new WeakMap<pg.Pool, string>()

async function databaseOf(central: pg.Pool): Promise<string> {
  const known = databases.get(central)
  if (known !== undefined) return known
  const { rows } = await central.query<{ name: string }>('select current_database() as name')
  const name = rows[0]?.name ?? ''
  databases.set(central, name)
  return name
}

/** Roles belong to the whole server, and the lock to one database: in another one the same role may be made at the same time. */
async function retryIfMadeElsewhere<T>(fn: () => Promise<T>): Promise<T> {
  try {
    return await fn()
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code !== '42710' && code !== '23505') throw error
    return fn()
  }
}

function assertRoleName(name: unknown): void {
  if (typeof name === 'string' && /^[a-z_][a-z0-9_-]{0,62}$/.test(name) && !name.startsWith('pg_'))
    return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `A gate role is 1 to 63 of a-z, 0-9, _ and -, got ${JSON.stringify(name)}.`,
  )
}

/** Others would have to be prepared (RFC 4013) in the same way here and wherever somebody logs in. */
function assertPassword(password: unknown): void {
  if (typeof password === 'string' && /^[ -~]{1,1024}$/.test(password)) return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    'login.password must be 1 to 1,024 printable ASCII characters.',
  )
}

/** Roles belong to the whole server, and grants on a shared schema change one row: two at once fail, with 23505 or "tuple concurrently updated". */
async function lock(client: pg.PoolClient): Promise<void> {
  await client.query(
    "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('partywall:roles', 0))",
  )
}
