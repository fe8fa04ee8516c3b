import { physicalName } from '@partywall/core'
import type { TenantPool, TenantPoolOptions } from '@partywall/postgres'
import {
  createStrategyWorld,
  STRATEGIES,
  type Strategy,
  type StrategyWorld,
} from './strategy-world.ts'

/** One way to set up a pool. A suite that takes its worlds from here is told nothing else about it. */
export interface PoolVariant extends Strategy {
  readonly name: string
  readonly options: TenantPoolOptions
  /** Sizes of the pools that it is tried with. One connection shows most, because the next tenant gets what the last one left; more of them show what only happens side by side. */
  readonly poolSizes: readonly number[]
}

const variantOf = (
  strategy: keyof typeof STRATEGIES,
  { options, ...given }: Partial<PoolVariant> = {},
): PoolVariant => {
  const found = STRATEGIES[strategy]
  if (found === undefined) throw new Error(`There is no strategy "${strategy}".`)
  return {
    name: strategy,
    poolSizes: [1],
    ...found,
    ...given,
    options: { ...found.options, ...options },
  }
}

/** Every variant; a suite runs over those that it names, or over all. */
export const VARIANTS = {
  schema: variantOf('schema', { poolSizes: [1, 4] }),
  unnamed: variantOf('schema', {
    name: 'schema, nothing prepared',
    options: { preparedStatements: 'off' },
  }),
  limits: variantOf('schema', {
    name: 'schema, limits of time',
    options: { statementTimeoutMs: 20_000, lockTimeoutMs: 10_000 },
  }),
  pipelined: variantOf('schema, shared connections', { poolSizes: [1, 4] }),
  pooler: variantOf('schema, as behind a pooler'),
  role: variantOf('schema, a role for each tenant'),
  login: variantOf('schema, a login for each tenant'),
  row: variantOf('row'),
  rowRole: variantOf('row, a role for each tenant'),
  database: variantOf('database'),
} as const satisfies Record<string, PoolVariant>

/** What the server says about the session while a statement of a tenant runs. */
export interface View {
  readonly schema: string
  readonly path: string
  readonly who: string
  readonly tenant: string
  readonly statement_timeout: string
  readonly lock_timeout: string
}

/** The columns that answer with a {@link View}. */
export const VIEW_COLUMNS = `current_schema()::text as schema, current_setting('search_path') as path, current_user::text as who,
  coalesce(current_setting('app.tenant_id', true), '') as tenant, current_setting('statement_timeout') as statement_timeout, current_setting('lock_timeout') as lock_timeout`

/** A row of the table `log`, as it is found from outside of every tenant. */
export interface LogRow {
  /** The tenant in whose place it is. */
  readonly place: string
  readonly unit: string
  readonly owner: string
}

/** How many connections are there, at rest and waited for, to all databases together. */
export interface Counts {
  readonly total: number
  readonly idle: number
  readonly waiting: number
}

/** A world of one variant, for suites that break things: what the server sees, and what was written. */
export interface VariantWorld extends StrategyWorld {
  readonly variant: PoolVariant
  /** What all its pools are called in `pg_stat_activity`. */
  readonly application: string
  /** A tenant with a record and without a place; where rows of all stand in one, there is none. */
  readonly homeless: string | undefined
  /** How many connections a pool of this size has at most: all together, and for one tenant. */
  limitsOf(max: number): { readonly total: number; readonly perTenant: number }
  viewOf(tenantId: string): View
  /** The rows of all tables `log`, or those whose unit begins so. */
  logs(prefix?: string): Promise<LogRow[]>
  clearLogs(): Promise<void>
}

/**
 * In `probe`, for everybody: `terminate_me` and `cancel_me` do to their own session what an administrator would, in the middle of a statement.
 */
const PROBE = `create schema probe; grant usage on schema probe to public;
  create function probe.terminate_me() returns text language plpgsql security definer as $$ begin
    perform pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid()); perform pg_catalog.pg_sleep(10); return 'survived'; end $$;
  create function probe.cancel_me() returns text language plpgsql security definer as $$ begin
    perform pg_catalog.pg_cancel_backend(pg_catalog.pg_backend_pid()); perform pg_catalog.pg_sleep(10); return 'survived'; end $$`

export function countsOf(pool: TenantPool): Counts {
  const { total, idle, waiting } = pool.databaseCounts
  return {
    total: pool.totalCount + total,
    idle: pool.idleCount + idle,
    waiting: pool.waitingCount + waiting,
  }
}

/** @param server - another server than the one of the run. */
export async function createVariantWorld(
  variant: PoolVariant,
  server?: string,
): Promise<VariantWorld> {
  const { isolation, acts, options } = variant
  const base = await createStrategyWorld({ isolation, acts, options }, server)
  const { tenants } = base
  const [first] = tenants
  const salt = first.slice('acme-'.length)
  const application = `variant-${salt}`
  const apart = isolation === 'database'
  for (const id of apart ? tenants : [first]) await base.outside(id).query(PROBE)
  const perTenantRole = acts !== 'login'
  const { statementTimeoutMs, lockTimeoutMs } = options
  const seconds = (limit: unknown): string =>
    typeof limit === 'number' ? `${limit / 1_000}s` : '0'
  const logOf = (tenantId: string): string => base.nameOf(tenantId, 'log')
  return {
    ...base,
    variant,
    application,
    homeless: isolation === 'schema' && acts === 'login' ? `nowhere-${salt}` : undefined,
    openPool: (given: TenantPoolOptions = {}) =>
      base.openPool({ application_name: application, ...given }),
    limitsOf: (max) =>
      apart || acts === 'own-login'
        ? { total: Math.max(2, max), perTenant: max }
        : { total: max, perTenant: max },
    viewOf: (tenantId) => {
      const schema = isolation === 'schema' ? tenantId : 'public'
      return {
        schema,
        path: `"${schema}", pg_temp`,
        who: perTenantRole ? physicalName('role', tenantId) : new URL(base.url).username,
        tenant: isolation === 'row' ? tenantId : '',
        statement_timeout: seconds(statementTimeoutMs),
        lock_timeout: seconds(lockTimeoutMs),
      }
    },
    async logs(prefix = '') {
      const rows: LogRow[] = []
      for (const id of isolation === 'row' ? [first] : tenants) {
        const place = isolation === 'row' ? 'tenant_id' : `'${id}'`
        const found = await base
          .outside(id)
          .query<LogRow>(
            `select ${place} as place, unit, owner from ${logOf(id)} where starts_with(unit, $1) order by unit`,
            [prefix],
          )
        rows.push(...found.rows)
      }
      return rows
    },
    async clearLogs() {
      for (const id of isolation === 'row' ? [first] : tenants)
        await base.outside(id).query(`truncate ${logOf(id)}`)
    },
  }
}
