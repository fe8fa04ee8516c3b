import { createTenancy, memoryTenantStore, TenancyError } from '@partywall/core'
import { assertPooler, probePooler, TenantPool, type TenantPoolOptions } from '@partywall/postgres'
import type pg from 'pg'

export interface PoolerGuardOptions {
  /** What the pools of tenants will be made with. */
  readonly login: TenantPoolOptions
  /** The names of the clusters in `login`. */
  readonly clusters: readonly string[]
  /** The pool of the tenant registry, and whether it has another login than the tenants' pools. */
  readonly registry: pg.Pool
  readonly registryApart: boolean
}

/**
 * Looks at what stands before the database, before anything is sent that could stay in a session of somebody else's.
 *
 * Resolves to whether the registry can be listened to on its own connection: behind a pooler that shares connections, a LISTEN would stay with whoever comes next.
 *
 * @throws {TenancyError} by rejection: `ERR_TENANCY_POOLER_UNSAFE`, `ERR_TENANCY_DATABASE_UNAVAILABLE`.
 */
export async function guardPooler({
  login,
  clusters,
  registry,
  registryApart,
}: PoolerGuardOptions): Promise<'listen' | 'off'> {
  const tenancy = createTenancy({ store: memoryTenantStore([]) })
  const pool = new TenantPool(tenancy, login)
  try {
    const [tenants] = await Promise.all([
      assertPooler(pool),
      ...clusters.map((cluster) => assertCluster(pool, cluster)),
    ])
    const { mode, evidence } = registryApart ? await probePooler(registry) : tenants
    if (mode === 'statement')
      throw new TenancyError(
        'ERR_TENANCY_POOLER_UNSAFE',
        ['A pooler in statement mode stands before the tenant registry.', ...evidence].join(' '),
        { hint: 'Set it to transaction mode, or let database.url lead past it.' },
      )
    return mode === 'transaction' ? 'off' : 'listen'
  } finally {
    await pool.end()
    await tenancy.close()
  }
}

/** One that cannot be reached concerns the tenants that are placed there, and not the start of all others. */
async function assertCluster(pool: TenantPool, cluster: string): Promise<void> {
  try {
    await assertPooler(pool, { cluster, timeoutMs: 5_000 })
  } catch (error) {
    if (!TenancyError.is(error, 'ERR_TENANCY_DATABASE_UNAVAILABLE')) throw error
  }
}
