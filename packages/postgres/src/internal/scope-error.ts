import { TenancyError } from '@partywall/core'
import type { BackendMessage } from './pg-internals.ts'
import { REFUSED } from './scope-statement.ts'

/** SQLSTATEs of a scope that failed and left the session as it was: no such schema, no privilege on it, row security that does not hold, no such role, not a member of it, cancelled or timed out, locked. */
const HARMLESS: ReadonlySet<string> = new Set([
  '3F000',
  REFUSED.privilege,
  REFUSED.rowSecurity,
  '22023',
  '42501',
  '57014',
  '55P03',
])

/** Whether an error of the scope says something about the session, which should then go to nobody else. */
export function taintsSession({ code }: BackendMessage): boolean {
  return !HARMLESS.has(code ?? '')
}

/** The error for a statement that was not run because its tenant could not be entered. */
export function scopeError(cause: BackendMessage, tenantId: string | undefined): TenancyError {
  const options = { cause, tenantId }
  if (cause.code === '3F000')
    return new TenancyError(
      'ERR_TENANCY_SCHEMA_MISSING',
      `The schema of tenant ${tenantId} does not exist; the statement was not run.`,
      options,
    )
  return new TenancyError('ERR_TENANCY_SCOPE_FAILED', reasonOf(cause, tenantId), options)
}

function reasonOf({ code }: BackendMessage, tenantId: string | undefined): string {
  switch (code) {
    case REFUSED.privilege:
      return `The role of the pool has no USAGE on the schema of tenant ${tenantId}; the statement was not run.`
    case REFUSED.base:
      return `The session has a search_path or an app.tenant_id of its own, and keeps it; tenant ${tenantId} was not entered, and the statement was not run. Behind a pooler: alter role ... set search_path = '', for the login of the pool.`
    case REFUSED.rowSecurity:
      return `Row security does not hold for the role that would act for tenant ${tenantId}: it is a superuser or has BYPASSRLS; the statement was not run.`
    default:
      return `Tenant ${tenantId} could not be entered; the statement was not run.`
  }
}
