import { TenancyError } from '@partywall/core'
import type { TenantPool } from '@partywall/postgres'
import pg from 'pg'
import { type Options, Sequelize } from 'sequelize'

/** One Sequelize 6 for all tenants. `close()` leaves the pool open. */
export function createTenantSequelize(pool: TenantPool, options: Options = {}): Sequelize {
  const sequelize = new Sequelize({
    // Without a version, Sequelize would connect by itself to ask for it.
    databaseVersion: '15.0.0',
    ...options,
    dialect: 'postgres',
    dialectModule: pg,
  } as Options)
  // Its own pool is never asked: the connections are lent by the tenant's.
  Object.assign(sequelize.connectionManager, {
    getConnection: () => pool.connect(),
    releaseConnection: (client: pg.PoolClient) => client.release(),
    destroyConnection: async (client: pg.PoolClient) => client.release(true),
  })
  // It would read the columns of the table of this name in public, and change those of the tenant's.
  sequelize.addHook('beforeSync', ({ alter }) => {
    if (alter)
      throw new TenancyError(
        'ERR_TENANCY_ISOLATION_UNSUPPORTED',
        'sync({ alter }) compares with the schema public. Use migrateTenant.',
      )
  })
  return sequelize
}
