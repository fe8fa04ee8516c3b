import { type Tenancy, TenancyError } from '@partywall/core'
import type { TenantPool } from '@partywall/postgres'
import { type Job, PgBoss, type SendOptions, type WorkHandler } from 'pg-boss'

interface Envelope {
  readonly tenantId: string
  readonly data: unknown
}

/** pg-boss over the connections of `pool.central`. Make and start it outside of every tenant. */
export function createBoss(pool: TenantPool): PgBoss {
  const { central } = pool
  return new PgBoss({
    db: { executeSql: (text, values) => central.query(text, values as unknown[]) },
  })
}

/** Enqueues a job of the active tenant, whatever `data` says. The same singleton key in two tenants is two keys. */
export function sendTenantJob(
  tenancy: Tenancy,
  boss: PgBoss,
  queue: string,
  data: unknown,
  options: SendOptions = {},
): Promise<string | null> {
  const tenantId = tenancy.require().tenant.id
  const { singletonKey } = options
  return boss.send(
    queue,
    { tenantId, data } satisfies Envelope,
    singletonKey === undefined
      ? options
      : { ...options, singletonKey: `${tenantId}:${singletonKey}` },
  )
}

/** A handler whose every job runs in its own tenant. A job without one fails, and so does one whose tenant is gone or suspended. */
export function tenantHandler(
  tenancy: Tenancy,
  handle: (data: unknown, job: Job<unknown>) => Promise<void>,
): WorkHandler<Partial<Envelope>> {
  return async (jobs) => {
    for (const job of jobs) {
      const { tenantId, data } = job.data
      if (tenantId === undefined)
        throw new TenancyError('ERR_TENANCY_CONTEXT_MISSING', 'The job names no tenant.')
      await tenancy.run(tenantId, () => handle(data, job))
    }
  }
}
