import { type Tenancy, TenancyError } from '@partywall/core'
import type { AddJobFunction, Job, Task, TaskList, TaskSpec } from 'graphile-worker'

interface Envelope {
  readonly tenantId: string
  readonly data: unknown
}

/** Enqueues a job of the active tenant, whatever `data` says. The same job key in two tenants is two keys. */
export function addTenantJob(
  tenancy: Tenancy,
  addJob: AddJobFunction,
  identifier: string,
  data: unknown,
  spec: TaskSpec = {},
): Promise<Job> {
  const tenantId = tenancy.require().tenant.id
  const { jobKey } = spec
  return addJob(
    identifier,
    { tenantId, data } satisfies Envelope,
    jobKey === undefined ? spec : { ...spec, jobKey: `${tenantId}:${jobKey}` },
  )
}

/** Tasks that run in the tenant of their job. A job without one fails, and so does one whose tenant is gone or suspended. */
export function tenantTasks(tenancy: Tenancy, tasks: TaskList): TaskList {
  const inTenant =
    (task: Task): Task =>
    async (payload, helpers) => {
      const { tenantId, data } = payload as Partial<Envelope>
      if (tenantId === undefined)
        throw new TenancyError('ERR_TENANCY_CONTEXT_MISSING', 'The job names no tenant.')
      await tenancy.run(tenantId, () => task(data, helpers))
    }
  return Object.fromEntries(
    Object.entries(tasks).map(([name, task]) => [name, task && inTenant(task as Task)]),
  )
}
