import { TenancyError, type Tenant } from '@partywall/core'
import type { BackendMessage } from './pg-internals.ts'
import { scopeError } from './scope-error.ts'
import { REFUSED, type ScopeValues } from './scope-statement.ts'

/** What runs the statements that enter a tenant. */
interface Session {
  query(
    text: string,
    values: readonly string[],
  ): Promise<{ readonly rows: readonly Readonly<Record<string, unknown>>[] }>
}

/**
 * Enters a tenant for the rest of a session that nobody else will have: role, search_path, `app.tenant_id` and limits of time are set, and then asked for once more, because only what a later statement finds is what the session has.
 *
 * @throws {TenancyError} `ERR_TENANCY_SCHEMA_MISSING`, `ERR_TENANCY_SCOPE_FAILED`.
 */
export async function enterSession(
  session: Session,
  tenant: Tenant,
  values: ScopeValues,
): Promise<void> {
  const settings = settingsOf(values)
  try {
    const columns = settings.map(
      (_, index) => `pg_catalog.set_config($${2 * index + 1}, $${2 * index + 2}, false)`,
    )
    const { rows: set } = await session.query(
      `select ${columns.join(', ')}, pg_catalog.pg_backend_pid() as pid`,
      settings.flat(),
    )
    const names = settings.map(([name]) => `'${name}'`).join(', ')
    const { rows } = await session.query(
      `select pg_catalog.has_schema_privilege($1::pg_catalog.regnamespace::pg_catalog.oid, 'USAGE') as usable,
        exists (select from pg_catalog.pg_roles where rolname = current_user and (rolsuper or rolbypassrls)) as "walksPast",
        array(select pg_catalog.current_setting(name) from pg_catalog.unnest(array[${names}]::pg_catalog.text[]) with ordinality as asked (name, n)
          where name not like '%timeout' order by n) as texts,
        (select pg_catalog.json_object_agg(name, setting) from pg_catalog.pg_settings where name like '%\\_timeout') as times, pg_catalog.pg_backend_pid() as pid`,
      [values.schema],
    )
    assertEntered(tenant, values, rows[0] as unknown as Found, set[0]?.['pid'])
  } catch (error) {
    if (TenancyError.is(error)) throw error
    throw scopeError(error as BackendMessage, tenant.id)
  }
}

interface Found {
  readonly usable: boolean
  readonly walksPast: boolean
  readonly texts: readonly string[]
  /** Milliseconds. */
  readonly times: Readonly<Record<string, string>>
  readonly pid: unknown
}

function settingsOf(values: ScopeValues): [string, string][] {
  const settings: [string, string | number | undefined][] = [
    ['role', values.role],
    ['search_path', values.path],
    ['app.tenant_id', values.tenantId],
    ['statement_timeout', values.statementTimeoutMs],
    ['lock_timeout', values.lockTimeoutMs],
  ]
  return settings
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name, String(value)])
}

function assertEntered(tenant: Tenant, values: ScopeValues, found: Found, pid: unknown): void {
  if (!found.usable) throw scopeError({ name: 'error', code: REFUSED.privilege }, tenant.id)
  if (values.tenantId !== undefined && found.walksPast)
    throw scopeError({ name: 'error', code: REFUSED.rowSecurity }, tenant.id)
  const asked = settingsOf(values)
  const texts = asked.filter(([name]) => !name.endsWith('timeout'))
  const times = asked.filter(([name]) => name.endsWith('timeout'))
  if (
    found.pid === pid &&
    texts.every(([, value], index) => found.texts[index] === value) &&
    times.every(([name, value]) => found.times[name] === value)
  )
    return
  throw new TenancyError(
    'ERR_TENANCY_SCOPE_FAILED',
    `The session does not stay in tenant ${tenant.id}; nothing was run in it.`,
    {
      tenantId: tenant.id,
      hint: "A pooler in transaction mode gives each statement another session. Say so with pooler: 'transaction', and set direct to the server itself.",
    },
  )
}
