import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { TenantPool, type TenantPoolOptions } from '@partywall/postgres'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'

/** Two neighbours and an adversary. Every id is the same in all of them, the numbers of rows are not. */
export const COUNTS = { acme: 3, globex: 5, zeta: 7 } as const
export type TenantId = keyof typeof COUNTS

/** A tenant with a record and without a schema. */
export const HOMELESS = 'nowhere'

/** A database with a schema for each tenant, and a table that stands outside of all of them. */
export interface TenantDatabase extends AsyncDisposable {
  readonly db: TestDatabase
  readonly tenancy: Tenancy
  /** What `connection:destroyed` told, oldest first. */
  readonly destroyed: { readonly tenantId: string | undefined; readonly reason: string }[]
  /** Opens a pool that is closed with the database. */
  openPool(options?: TenantPoolOptions): TenantPool
  /** Writes to `probe.effect`: what ran has left a row there, whatever its search_path. */
  effects(): Promise<string[]>
}

/**
 * What every tenant's schema holds. `log` is for writes: it says which tenant wrote, and the schema says where that landed. `strangers` keeps notes in a temporary table, as functions of real
 * applications do, and counts those of others in it.
 */
function tenantSchemaSql(schema: string, tenantId: string, count: number): string {
  return `create schema "${schema}";
    create table "${schema}".item (id int primary key, owner text not null);
    insert into "${schema}".item select n, 'canary:${tenantId}:' || n from generate_series(1, ${count}) n;
    create table "${schema}".log (unit text primary key, owner text not null);
    create function "${schema}".strangers(who text) returns int language plpgsql as $$ begin
      create temp table if not exists scratch (owner text); insert into scratch values (who);
      return (select count(*) from scratch where owner <> who); end $$;`
}

/** The rows of `item` as tenant `id` must see them. */
export function itemsOf(tenantId: string, count: number): { id: number; owner: string }[] {
  return Array.from({ length: count }, (_, index) => ({
    id: index + 1,
    owner: canary(tenantId, index + 1),
  }))
}

export async function createTenantDatabase(
  counts: Readonly<Record<string, number>> = COUNTS,
): Promise<TenantDatabase> {
  const db = await createTestDatabase()
  await db.query(
    'create schema probe; create table probe.effect (id int generated always as identity, what text not null)',
  )
  for (const [tenantId, count] of Object.entries(counts))
    await db.query(tenantSchemaSql(tenantId, tenantId, count))
  const tenancy = createTenancy({
    store: memoryTenantStore([...Object.keys(counts), HOMELESS].map((id) => ({ id }))),
  })
  const destroyed: { tenantId: string | undefined; reason: string }[] = []
  tenancy.events.on('connection:destroyed', ({ tenant, reason }) => {
    destroyed.push({ tenantId: tenant?.id, reason })
  })
  const pools: TenantPool[] = []
  return {
    db,
    tenancy,
    destroyed,
    openPool(options = {}) {
      const pool = new TenantPool(tenancy, {
        connectionString: db.url,
        max: 1,
        // The whole pool, so that a test can fill it from one tenant.
        maxPerTenant: options?.max ?? 1,
        ...options,
      })
      pools.push(pool)
      return pool
    },
    async effects() {
      const { rows } = await db.query<{ what: string }>('select what from probe.effect order by id')
      return rows.map(({ what }) => what)
    },
    async [Symbol.asyncDispose]() {
      // A client that a test keeps on purpose would hold end() back for ever; the database is dropped under it.
      const closing = pools.filter((pool) => !pool.ending).map((pool) => pool.end())
      await tenancy.close()
      await Promise.race([
        Promise.allSettled(closing),
        new Promise<void>((resolve) => {
          setTimeout(resolve, 500)
        }),
      ])
      await db[Symbol.asyncDispose]()
    },
  }
}

/** The process number of the server behind a pool's connection: the same number is the same connection. */
export async function backendOf(queryable: Pick<TenantPool, 'query'>): Promise<number> {
  const { rows } = await queryable.query<{ pid: number }>('select pg_backend_pid() as pid')
  return rows[0]?.pid ?? 0
}
