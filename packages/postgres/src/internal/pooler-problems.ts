import type { PoolerReport } from '../pooler-probe.ts'

/** A reason not to serve tenants over a connection. */
export interface PoolerProblem {
  readonly what: string
  readonly remedy: string
}

/** What a search_path of no schemas looks like: as a parameter of the login, and as `alter role ... set search_path = ''` leaves it, which is one schema without a name. */
const EMPTY_PATHS = ['', '""']

export function isEmptyPath(path: string): boolean {
  return EMPTY_PATHS.includes(path)
}

const USE_TRANSACTION_MODE =
  "Give the pool `pooler: 'transaction'` (createPartywall: `database.pooler: 'transaction'`), and its login an empty path: alter role ... set search_path = ''. Or let it connect past the pooler."
const EMPTY_THE_PATH =
  "alter role ... set search_path = '', for the role that the pool logs in as; then let the pooler open its connections anew (PgBouncer: RECONNECT), because those that are open keep what they had."

/**
 * What is unsafe about a pool between a client and the server.
 *
 * @param pooler - the option of the pool: what it takes to be there.
 */
export function poolerProblems(
  { mode, basePath, sessionState, startupParameters }: PoolerReport,
  pooler: 'none' | 'transaction',
): PoolerProblem[] {
  const problems: PoolerProblem[] = []
  if (mode === 'statement')
    problems.push({
      what: 'A pooler in statement mode takes transactions apart: neither TenantPool.transaction nor a migration can work behind it.',
      remedy:
        "Set the pooler to transaction mode (PgBouncer: pool_mode = transaction), and the pool to `pooler: 'transaction'`.",
    })
  else if (pooler === 'none' && mode === 'transaction')
    problems.push({
      what: "A pooler hands connections on after each transaction, and the pool has pooler: 'none': statements under names would meet those of others, and the base path is not the pool's own.",
      remedy: USE_TRANSACTION_MODE,
    })
  else if (pooler === 'none' && mode === 'session') {
    if (sessionState === 'leaks')
      problems.push({
        what: 'A pooler hands sessions on from client to client as they are, with settings, temporary tables and roles of the one before.',
        remedy: `Let it clean them (PgBouncer: server_reset_query = DISCARD ALL). Or: ${USE_TRANSACTION_MODE}`,
      })
    if (
      startupParameters === 'refused' ||
      (startupParameters === 'ignored' && !isEmptyPath(basePath))
    )
      problems.push({
        what: `A pooler in session mode has ${startupParameters} the empty search_path of the pool.`,
        remedy: USE_TRANSACTION_MODE,
      })
  }
  if (pooler === 'transaction' && !isEmptyPath(basePath))
    problems.push({
      what: `The base path of the login is not empty but ${basePath}: behind the end of a scope, tables would be found in it.`,
      remedy: EMPTY_THE_PATH,
    })
  return problems
}
