import type { Tenancy } from '@partywall/core'
import type { TenantPool } from '@partywall/postgres'
import connectPgSimple, { type PGStore, type PGStoreOptions } from 'connect-pg-simple'
import session, { type SessionData } from 'express-session'

const Store = connectPgSimple(session)

/** Sessions in a table `session` of each tenant's schema. Prune them with `tenancy.forEach({}, () => store.pruneSessions())`. */
export function tenantSessionStore(pool: TenantPool, options: PGStoreOptions = {}): PGStore {
  // Its own timer would prune the tenant of the request that started it, and no other; and it would create the table of the first tenant only.
  return new Store({
    ...options,
    pool,
    pruneSessionInterval: false,
    createTableIfMissing: false,
  })
}

/** Sessions of all tenants in one table outside of them. Make it outside of every tenant. A session id of one tenant is none in another. */
export function centralSessionStore(
  tenancy: Tenancy,
  pool: TenantPool,
  options: PGStoreOptions = {},
): PGStore {
  const keyOf = (sid: string): string => `${tenancy.require().tenant.id}:${sid}`
  class CentralStore extends Store {
    override get(sid: string, callback: (error: unknown, data?: SessionData | null) => void): void {
      super.get(keyOf(sid), callback)
    }
    override set(sid: string, data: SessionData, callback?: (error?: unknown) => void): void {
      super.set(keyOf(sid), data, callback)
    }
    override touch(sid: string, data: SessionData, callback?: () => void): void {
      super.touch(keyOf(sid), data, callback)
    }
    override destroy(sid: string, callback?: (error?: unknown) => void): void {
      super.destroy(keyOf(sid), callback)
    }
  }
  return new CentralStore({ ...options, pool: pool.central })
}
