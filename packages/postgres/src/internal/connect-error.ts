import { TenancyError, type Tenant } from '@partywall/core'

/** SQLSTATEs with which a server refuses a connection, and what they mean. */
const REASONS: Readonly<Record<string, string>> = {
  '28P01': 'the server refused the login',
  '28000': 'the server refused the login',
  '42501': 'the login may not connect to it',
  '3D000': 'it does not exist',
  '53300': 'it has as many connections as it may have',
  '55000': 'it takes no connections',
  '57P03': 'the server is starting or stopping',
}

/** Whether the server itself answered: then it is about this database or this login, and not about the server. */
export function serverAnswered(error: unknown): boolean {
  return error instanceof Error && 'severity' in error
}

/** Whether nothing was heard of the server: no address, nobody listening, no answer in time, an answer that broke off. What a hook or a password function throws is none of these. */
export function serverSilent(error: unknown): boolean {
  if (!(error instanceof Error) || serverAnswered(error)) return false
  const { code } = error as { readonly code?: unknown }
  return typeof code === 'string'
    ? /^E(?!RR_)[A-Z_]+$/.test(code)
    : /^(?:Connection terminated|timeout e)/.test(error.message)
}

/** An error for one tenant whose database cannot be used. Names neither host nor user; the cause does. */
export function databaseUnavailable({ id }: Tenant, cause: unknown): TenancyError {
  const code = (cause as { code?: unknown } | null)?.code
  const reason =
    (typeof code === 'string' && REASONS[code]) ||
    (serverAnswered(cause) ? 'the server refused the connection' : 'its server cannot be reached')
  return new TenancyError(
    'ERR_TENANCY_DATABASE_UNAVAILABLE',
    `The database of tenant ${id} cannot be used: ${reason}.`,
    { tenantId: id, cause },
  )
}

/** The same where nobody could be asked who to be. */
export function credentialsUnavailable({ id }: Tenant, cause: unknown): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_DATABASE_UNAVAILABLE',
    `The database of tenant ${id} cannot be used: its credentials could not be had.`,
    { tenantId: id, cause },
  )
}

/** The same without an attempt: the last ones failed. */
export function databaseAvoided({ id }: Tenant, cause: unknown): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_DATABASE_UNAVAILABLE',
    `The database of tenant ${id} could not be used lately, and is not tried again yet.`,
    { tenantId: id, cause },
  )
}
