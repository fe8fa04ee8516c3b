import { TenancyError } from '@partywall/core'
import { poolerProblems } from './internal/pooler-problems.ts'
import { type PoolerProbeOptions, type PoolerReport, probePooler } from './pooler-probe.ts'
import type { TenantPool } from './tenant-pool.ts'

export interface AssertPoolerOptions extends PoolerProbeOptions {
  /** A cluster of the pool. @defaultValue the pool's own server */
  readonly cluster?: string | undefined
}

/**
 * Refuses a pool that does not go with what stands between it and the server: see docs/guide/poolers.md. To be called once, at the start, and for each cluster; `createPartywall` does. Safe to repeat.
 *
 * Resolves to what was found.
 *
 * @throws {TenancyError} by rejection: `ERR_TENANCY_POOLER_UNSAFE`, with the remedy as its hint; `ERR_TENANCY_CLUSTER_UNKNOWN`; and what `probePooler` rejects with: where nothing can be told, nothing is taken to be safe.
 */
export async function assertPooler(
  pool: TenantPool,
  { cluster, ...options }: AssertPoolerOptions = {},
): Promise<PoolerReport> {
  const report = await probePooler(
    cluster === undefined ? pool : pool.connectionOf(cluster),
    options,
  )
  const problems = poolerProblems(report, pool.pooler)
  if (problems.length === 0) return report
  throw new TenancyError(
    'ERR_TENANCY_POOLER_UNSAFE',
    [
      ...(cluster === undefined ? [] : [`Cluster ${cluster}:`]),
      ...problems.map(({ what }) => what),
      ...report.evidence,
    ].join(' '),
    { hint: problems.map(({ remedy }) => remedy).join(' ') },
  )
}
