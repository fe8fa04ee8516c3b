import { type PoolerProbeOptions, type PoolerReport, probePooler } from '../pooler-probe.ts'
import type { TenantPool } from '../tenant-pool.ts'
import { directProblems, type PoolerProblem, poolerProblems } from './pooler-problems.ts'

/** What stands between a pool and a server, and what is unsafe about it. */
export interface PoolerLook {
  readonly report: PoolerReport
  readonly problems: readonly PoolerProblem[]
  /** What was seen on every way that was looked at. */
  readonly evidence: readonly string[]
}

/**
 * Looks at the way of a pool to its own server, and past the pooler if there is one, or to one of its clusters.
 *
 * @throws {TenancyError} by rejection: as `probePooler`, and `ERR_TENANCY_CLUSTER_UNKNOWN`.
 */
export async function lookAtPooler(
  pool: TenantPool,
  cluster?: string,
  options?: PoolerProbeOptions,
): Promise<PoolerLook> {
  const target = cluster === undefined ? pool : pool.connectionOf(cluster)
  const report = await probePooler(target, options)
  const problems = poolerProblems(report, pool.pooler)
  if (cluster !== undefined || pool.pooler === 'none' || pool.direct === undefined)
    return { report, problems, evidence: report.evidence }
  const past = await probePooler(pool.direct, options)
  return {
    report,
    problems: [...problems, ...directProblems(past)],
    evidence: [...report.evidence, ...past.evidence],
  }
}
