import { TenancyError } from '@partywall/core'
import pg from 'pg'

/** A server that does not even refuse is given up after this. */
const CONNECT_TIMEOUT_MS = 10_000

/**
 * A small plain pool for the tenant registry, connected once.
 *
 * @throws {TenancyError} `ERR_TENANCY_DATABASE_UNAVAILABLE`, naming host, port and database, and neither user nor password.
 */
export async function connectDatabase(connectionString: string): Promise<pg.Pool> {
  const pool = new pg.Pool({
    connectionString,
    max: 2,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
  })
  // An idle connection that breaks is replaced; without a listener it would end the process.
  pool.on('error', () => undefined)
  try {
    await pool.query('select 1')
    return pool
  } catch (cause) {
    await pool.end()
    const { host, port, database } = new pg.Client({ connectionString })
    throw new TenancyError(
      'ERR_TENANCY_DATABASE_UNAVAILABLE',
      `Postgres at ${host}:${port}/${database ?? ''} cannot be used: ${reasonOf(cause)}`,
      { cause },
    )
  }
}

/** What is refused at several addresses comes as an AggregateError, whose own message is empty. */
function reasonOf(error: unknown): string {
  const reason = error instanceof AggregateError ? error.errors[0] : error
  const message = reason instanceof Error ? reason.message : String(reason)
  return message.endsWith('.') ? message : `${message}.`
}
