import { TenancyError } from '@partywall/core'
import type { BackendMessage } from './pg-internals.ts'
import { REFUSED } from './tenant-prefix.ts'

/** SQLSTATEs of a scope that failed and left the session as it was: no such schema, no privilege on it, no such role, not a member of it, cancelled or timed out, locked. */
const HARMLESS: ReadonlySet<string> = new Set([
  '3F000',
  REFUSED.privilege,
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
  return new TenancyError(
    'ERR_TENANCY_SCOPE_FAILED',
    cause.code === REFUSED.privilege
      ? `The role of the pool has no USAGE on the schema of tenant ${tenantId}; the statement was not run.`
      : `Tenant ${tenantId} could not be entered; the statement was not run.`,
    options,
  )
}
