import { MemoryCacheAdapter } from '@mikro-orm/core'
import { EntityManager, MikroORM, type Options } from '@mikro-orm/postgresql'
import { type Tenancy, TenancyError } from '@partywall/core'
import type { TenantPool } from '@partywall/postgres'
import { PostgresDialect } from 'kysely'
import Cursor from 'pg-cursor'

/** One MikroORM for all tenants. Make it once, outside of every tenant; fork its entity manager in each request. */
export function createTenantOrm(tenancy: Tenancy, pool: TenantPool, options: Partial<Options>) {
  const owners = new WeakMap<EntityManager, string>()

  /** Its identity map holds rows of one tenant: kept and used in another, it would answer from them without asking the database. */
  class TenantEntityManager extends EntityManager {
    override getContext(validate?: boolean): this {
      const em = super.getContext(validate)
      const active = tenancy.current()?.tenant.id
      if (em.global || active === undefined) return em
      const owner = owners.get(em) ?? active
      owners.set(em, owner)
      if (owner === active) return em
      throw new TenancyError(
        'ERR_TENANCY_CONTEXT_LOCKED',
        `The entity manager belongs to tenant ${owner}. Fork one in each request.`,
      )
    }
  }

  /** MikroORM makes its keys of the query alone. */
  class TenantResultCache extends MemoryCacheAdapter {
    #key(name: string): string {
      return `${tenancy.require().tenant.id}:${name}`
    }
    // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- it is that of the class
    override get<T>(name: string): T | undefined {
      return super.get<T>(this.#key(name))
    }
    override set(name: string, data: unknown, origin: string, expiration?: number): void {
      super.set(this.#key(name), data, origin, expiration)
    }
    override remove(name: string): void {
      super.remove(this.#key(name))
    }
  }

  const orm = new MikroORM({
    ...options,
    driverOptions: new PostgresDialect({ pool, cursor: Cursor }),
    dbName: options.dbName ?? 'unused',
    // It would connect without a tenant, and end the pool to connect anew.
    ensureDatabase: false,
    entityManager: TenantEntityManager,
    resultCache: { ...options.resultCache, adapter: TenantResultCache },
  })
  // orm.schema.update() compares with all schemas of the database, and drops what its entities do not know: the other tenants.
  orm.config.registerExtension(
    '@mikro-orm/schema-generator',
    () =>
      new Proxy(Object(false), {
        get(_, method) {
          throw new TenancyError(
            'ERR_TENANCY_ISOLATION_UNSUPPORTED',
            `The schema generator (${String(method)}) works on all schemas of the database. Use migrateTenant.`,
          )
        },
      }),
  )
  return orm
}
