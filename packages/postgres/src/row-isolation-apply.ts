import { assertKnownKeys, errorText, TenancyError } from '@partywall/core'
import type pg from 'pg'
import { withTransaction } from './internal/with-transaction.ts'
import type { RowIsolationStatement } from './row-isolation/statement.ts'
import {
  type ResolvedRowIsolationOptions,
  type RowIsolationOptions,
  type RowIsolationPlan,
  readPlan,
  resolveRowIsolationOptions,
} from './row-isolation-plan.ts'

export interface ApplyRowIsolationOptions {
  /** How long to wait for each lock on a table, in milliseconds. The application waits behind that lock as well. @defaultValue `5_000` */
  readonly lockTimeoutMs?: number | undefined
}

/**
 * Isolates the tables of a schema, in one transaction: all of them, or nothing. Safe to repeat and to race: the second call finds nothing to do. Resolves to the plan that was applied, without statements if there
 * was nothing to do; then no table was locked either.
 *
 * Every table that changes is locked against everybody until the end, and tables with rows are read: run it when few others work. Afterwards the catalogue is read again, and unless it is as it should be, nothing stays.
 *
 * @param central - a pool outside of every tenant, `pool.central`, whose user owns the tables.
 * @param what - the options of `planRowIsolation`, or a plan that somebody has read. A plan is applied as it stands or not at all: if the schema has changed since, it is refused.
 * @throws {TenancyError} `ERR_TENANCY_ROW_ISOLATION_FAILED` for findings that are errors, for a plan that is out of date, for a lock that is not to be had, and with the server's error as cause; otherwise as
 * `planRowIsolation` does.
 */
export async function applyRowIsolation(
  central: pg.Pool,
  what: RowIsolationOptions | RowIsolationPlan,
  options: ApplyRowIsolationOptions = {},
): Promise<RowIsolationPlan> {
  assertKnownKeys('applyRowIsolation', options, ['lockTimeoutMs'])
  const { lockTimeoutMs = 5_000 } = options
  if (!(Number.isInteger(lockTimeoutMs) && lockTimeoutMs > 0))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `lockTimeoutMs must be a positive integer, got ${lockTimeoutMs}.`,
    )
  const given = isPlan(what) ? what : undefined
  const wanted = isPlan(what) ? what.options : resolveRowIsolationOptions(what)
  return withTransaction(central, async (client) => {
    // Whoever isolates this schema waits for whoever else does, also behind a pooler, for as long as it takes.
    await client.query(
      "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('partywall:rows:' || $1, 0))",
      [wanted.schema],
    )
    await client.query(`set local lock_timeout to ${lockTimeoutMs}`)
    try {
      const plan = await planBehindLocks(client, wanted)
      if (given !== undefined && plan.statements.length > 0) assertSame(given, plan)
      assertNoErrors(plan)
      for (const statement of plan.statements) await run(client, statement)
      if (plan.statements.length > 0) await assertDone(client, wanted)
      return plan
    } catch (error) {
      // Also from reading: of a table that somebody alters, not even the catalogue can be read.
      throw isServerError(error) ? failed(`${errorText(error)}.`, error) : error
    }
  })
}

/** An answer of the server, by its SQLSTATE, and not a broken connection. */
function isServerError(error: unknown): error is Error & { readonly code: string } {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    /^[0-9A-Z]{5}$/.test(error.code)
  )
}

function isPlan(what: RowIsolationOptions | RowIsolationPlan): what is RowIsolationPlan {
  return 'statements' in what && 'options' in what
}

/** More than once only where others alter tables at the same time. */
const MAX_ATTEMPTS = 5

/** Plans, locks what is to change, and looks again: what holds behind the locks stays so to the end. */
async function planBehindLocks(
  client: pg.PoolClient,
  options: ResolvedRowIsolationOptions,
): Promise<RowIsolationPlan> {
  let plan = await readPlan(client, options)
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const tables = tablesOf(plan)
    if (tables.length === 0 || hasErrors(plan)) return plan
    await client.query(`lock table ${tables.join(', ')} in access exclusive mode`)
    const before = JSON.stringify(plan.statements)
    plan = await readPlan(client, options)
    if (JSON.stringify(plan.statements) === before) return plan
  }
  throw failed('Others keep altering the tables of the schema.')
}

/** The covered tables that a plan changes, in one order whoever locks them. A partition is locked with its table. */
function tablesOf({ tables, statements }: RowIsolationPlan): string[] {
  const objects = new Set(statements.map(({ object }) => object))
  return tables.filter((table) => objects.has(table))
}

async function run(client: pg.PoolClient, { object, sql }: RowIsolationStatement): Promise<void> {
  try {
    await client.query(sql)
  } catch (cause) {
    throw failed(`${object}: ${sql}: ${errorText(cause)}.`, cause)
  }
}

async function assertDone(
  client: pg.PoolClient,
  options: ResolvedRowIsolationOptions,
): Promise<void> {
  const left = await readPlan(client, options)
  assertNoErrors(left)
  const [first] = left.statements
  if (first === undefined) return
  throw failed(
    `${first.object} is not as it should be after all statements: ${first.why}. This server may print expressions in another way than those before it.`,
  )
}

function hasErrors({ findings }: RowIsolationPlan): boolean {
  return findings.some(({ severity }) => severity === 'error')
}

/** @internal @throws {TenancyError} `ERR_TENANCY_ROW_ISOLATION_FAILED`. */
export function assertNoErrors({ findings }: RowIsolationPlan): void {
  const errors = findings.filter(({ severity }) => severity === 'error')
  const [first] = errors
  if (first === undefined) return
  const more = errors.length > 1 ? ` And ${errors.length - 1} more of the plan's findings.` : ''
  throw failed(`${first.object}: ${first.title} (${first.code})${more}`, undefined, first.remedy)
}

function assertSame(given: RowIsolationPlan, plan: RowIsolationPlan): void {
  if (JSON.stringify(given.statements) === JSON.stringify(plan.statements)) return
  throw failed(
    'The schema has changed since the plan was made.',
    undefined,
    'Make a new plan, read it, and apply that.',
  )
}

/** A lock that was not to be had in time, and one that others wait for in another order. */
const LOCKED: ReadonlySet<string> = new Set(['55P03', '40P01'])
const FOREIGN_KEY_VIOLATION = '23503'

function failed(
  message: string,
  cause?: unknown,
  hint = hintFor(cause),
): TenancyError<'ERR_TENANCY_ROW_ISOLATION_FAILED'> {
  return new TenancyError('ERR_TENANCY_ROW_ISOLATION_FAILED', message, {
    ...(cause === undefined ? {} : { cause }),
    hint,
  })
}

function hintFor(cause: unknown): string | undefined {
  const code = isServerError(cause) ? cause.code : undefined
  if (code !== undefined && LOCKED.has(code))
    return 'Somebody works with the tables. Repeat the call when few do, or raise lockTimeoutMs.'
  if (code === FOREIGN_KEY_VIOLATION)
    return 'There are rows that refer to rows of another tenant. Find out whose they are; nothing was changed.'
  return undefined
}
