import { type Tenancy, TenancyError } from '@partywall/core'
import { schemaOf, type TenantPool } from '@partywall/postgres'
import { DataSource, type DataSourceOptions } from 'typeorm'

type PostgresOptions = Omit<Extract<DataSourceOptions, { type: 'postgres' }>, 'type' | 'driver'>

/** What TypeORM does outside of requests, and what pins a name or a connection for all tenants. */
const REFUSED = ['schema', 'replication', 'synchronize', 'migrationsRun', 'dropSchema'] as const

/** One DataSource for all tenants. Initialize it once, outside of every tenant; `destroy()` leaves the pool open. */
export function createTenantDataSource(
  tenancy: Tenancy,
  pool: TenantPool,
  options: PostgresOptions,
): DataSource {
  for (const name of REFUSED)
    if (options[name])
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `${name} is one for all tenants; call synchronize() or runMigrations() inside of each.`,
      )
  const { cache } = options
  if (typeof cache === 'object' && cache.type !== undefined && cache.type !== 'database')
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `The keys of a cache of type ${cache.type} know no tenants. Keep it in the database, whose tables do.`,
    )

  type Callback = (error: Error | undefined, client?: unknown, release?: () => void) => void
  /** What TypeORM asks while it connects, and all that it is told without a tenant. */
  const answers: Record<string, () => unknown> = {
    'SELECT version()': () => pool.central.query('select version()'),
    'SELECT * FROM current_database()': () => pool.central.query('select current_database()'),
    'SELECT * FROM current_schema()': () => ({ rows: [{ current_schema: null }], rowCount: 1 }),
  }
  const bootClient = {
    query: async (sql: string) => (answers[sql] ?? (() => tenancy.require()))(),
    on: () => undefined,
    removeListener: () => undefined,
  }
  class Pool {
    on(): void {}
    connect(callback: Callback): void {
      if (tenancy.current() === undefined) callback(undefined, bootClient, () => undefined)
      else pool.connect(callback as Parameters<TenantPool['connect']>[0])
    }
    end(callback: () => void): void {
      callback()
    }
  }
  const source = new DataSource({
    ...options,
    type: 'postgres',
    driver: { Pool },
    // They belong to the database; create them once, with pool.central.
    installExtensions: false,
  })
  // TypeORM would keep the schema that it finds while it connects, and synchronize every tenant with the tables of that one.
  const schema = {
    get: () => {
      const scope = tenancy.current()
      return scope === undefined ? undefined : schemaOf(scope.tenant)
    },
    set: () => undefined,
  }
  Object.defineProperties(source.driver, { schema, searchSchema: schema })
  return source
}
