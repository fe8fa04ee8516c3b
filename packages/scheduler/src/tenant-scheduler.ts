import {
  assertKnownKeys,
  errorText,
  type ForEachResult,
  isTenantId,
  type JobEvent,
  nearestName,
  type Tenancy,
  TenancyError,
  type Tenant,
  type TenantScope,
  type TenantSelector,
} from '@partywall/core'
import {
  describe,
  enqueueOptions,
  jobData,
  jobId,
  jobName,
  retryOptions,
  scheduleTiming,
} from './internal/job-input.ts'
import type {
  EnqueueOptions,
  JobContext,
  JobHandler,
  JobInfo,
  JobState,
  RetryOptions,
  ScheduleInfo,
  ScheduleTiming,
} from './job.ts'
import type {
  DriverJob,
  DriverJobRecord,
  DriverScheduleRecord,
  JobOutcome,
  SchedulerDriver,
} from './scheduler-driver.ts'

export interface TenantSchedulerOptions {
  /** Where jobs are kept. A driver serves one scheduler. */
  readonly driver: SchedulerDriver
  /** How long `close` waits for jobs that run, in milliseconds. @defaultValue `10_000` */
  readonly closeTimeoutMs?: number | undefined
}

export interface EnqueuedJob {
  readonly id: string
  /** `false`: the tenant has an unfinished job of this id, and none was added. */
  readonly added: boolean
}

export interface ListJobsOptions {
  readonly state?: JobState | undefined
  /** @defaultValue `100` */
  readonly limit?: number | undefined
}

const STATES: readonly JobState[] = ['waiting', 'delayed', 'active', 'failed']

/**
 * Jobs and schedules of tenants. `enqueue`, `schedule` and what looks at them act for the active tenant; a handler runs in the context of the tenant
 * that its job belongs to, and in no other. Made by {@link createTenantScheduler}.
 *
 * Ids are the tenant's own: `daily-report` of one tenant and `daily-report` of another are two schedules.
 */
export class TenantScheduler {
  readonly #tenancy: Tenancy
  readonly #driver: SchedulerDriver
  readonly #closeTimeoutMs: number
  readonly #handlers = new Map<string, JobHandler<never>>()
  readonly #abandon = new AbortController()
  readonly #detach: readonly (() => void)[]
  #starting: Promise<void> | undefined
  #closing: Promise<void> | undefined

  constructor(tenancy: Tenancy, options: TenantSchedulerOptions) {
    assertKnownKeys('createTenantScheduler', options, ['driver', 'closeTimeoutMs'])
    const { driver, closeTimeoutMs = 10_000 } = options
    if (typeof driver?.addJob !== 'function')
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `createTenantScheduler needs a driver such as memoryDriver(), got ${describe(driver)}.`,
      )
    if (!Number.isSafeInteger(closeTimeoutMs) || closeTimeoutMs < 0)
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `closeTimeoutMs must be a whole number of at least 0, got ${describe(closeTimeoutMs)}.`,
      )
    this.#tenancy = tenancy
    this.#driver = driver
    this.#closeTimeoutMs = closeTimeoutMs
    this.#detach = [
      tenancy.on('tenant:invalidated', ({ tenantId }) =>
        // The event comes in the context of whoever changed the tenant.
        tenancy.context.outside(() => driver.wake(tenantId)),
      ),
      tenancy.onClose(() => this.close()),
    ]
  }

  /**
   * Says what a job does, for every tenant. Before it is enqueued or scheduled.
   *
   * @throws {TenancyError} `ERR_TENANCY_JOB_INVALID` if the name is none or has a handler.
   */
  define<D = unknown>(name: string, handler: JobHandler<D>): void {
    const checked = jobName(name)
    if (typeof handler !== 'function' || this.#handlers.has(checked))
      throw new TenancyError(
        'ERR_TENANCY_JOB_INVALID',
        this.#handlers.has(checked)
          ? `The job ${checked} is defined already.`
          : `The handler of the job ${checked} must be a function, got ${describe(handler)}.`,
      )
    this.#handlers.set(checked, handler)
  }

  /**
   * Adds a job of the active tenant, to run once, as soon as its turn comes or after `delayMs`. `data` is copied as JSON at once. Who acts, and in which
   * request, goes with it.
   *
   * With an `id`, repeating it is safe while the job is unfinished: one job, `added: false`. At least once: a job whose process dies may run again with a durable driver.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_CONTEXT_MISSING`, `ERR_TENANCY_JOB_UNKNOWN`, `ERR_TENANCY_JOB_INVALID`, `ERR_TENANCY_JOB_QUEUE_FULL`, `ERR_TENANCY_CLOSED`.
   */
  async enqueue(name: string, data?: unknown, options: EnqueueOptions = {}): Promise<EnqueuedJob> {
    const { tenant, actor, impersonator, requestId } = this.#scope()
    const job = {
      name: this.#defined(name),
      data: jobData(data),
      ...enqueueOptions(options),
      id: options.id === undefined ? crypto.randomUUID() : jobId('job', options.id),
      details: { actor, impersonator, requestId },
    }
    const added = await this.#outside(() => this.#driver.addJob(tenant.id, job))
    return { id: job.id, added }
  }

  /**
   * Adds a schedule of the active tenant, or replaces its schedule of this id. Declaring the same again changes nothing, not even the next run.
   *
   * At each tick one job is added, unless the one of an earlier tick still waits (with the memory driver: is unfinished): ticks never pile up, whether the process was down, the tenant suspended, or the clock
   * set. A fixed time in the hour that a change to summer time skips runs after it; one in the hour that comes twice, once.
   *
   * @throws {TenancyError} by rejection, as `enqueue` does.
   */
  async schedule(
    id: string,
    timing: ScheduleTiming,
    name: string,
    data?: unknown,
    options: RetryOptions = {},
  ): Promise<ScheduleInfo> {
    const { tenant } = this.#scope()
    const schedule = {
      id: jobId('schedule', id),
      timing: scheduleTiming(timing),
      name: this.#defined(name),
      data: jobData(data),
      ...retryOptions(options),
    }
    return scheduleInfo(await this.#outside(() => this.#driver.putSchedule(tenant.id, schedule)))
  }

  /**
   * Adds a schedule to every selected tenant, by default to every active one; see {@link TenantScheduler.schedule}. Outside of every tenant. Tenants that
   * come later are not included: call it again, which changes nothing for the others.
   *
   * @throws {ForEachError} with the outcome of each tenant if one failed; `ERR_TENANCY_CONTEXT_LOCKED` inside a tenant.
   */
  async scheduleForEach(
    selector: TenantSelector,
    id: string,
    timing: ScheduleTiming,
    name: string,
    data?: unknown,
    options: RetryOptions = {},
  ): Promise<ForEachResult<ScheduleInfo>[]> {
    return await this.#tenancy.forEach(
      selector,
      () => this.schedule(id, timing, name, data, options),
      { onError: 'continue' },
    )
  }

  /** A schedule of the active tenant. @throws {TenancyError} by rejection: `ERR_TENANCY_CONTEXT_MISSING`, `ERR_TENANCY_CLOSED`. */
  async get(id: string): Promise<ScheduleInfo | undefined> {
    const { tenant } = this.#scope()
    const record = await this.#outside(() => this.#driver.getSchedule(tenant.id, String(id)))
    return record === undefined ? undefined : scheduleInfo(record)
  }

  /** The schedules of the active tenant, in the order of their ids. Rejects as `get` does. */
  async list(): Promise<ScheduleInfo[]> {
    const { tenant } = this.#scope()
    const records = await this.#outside(() => this.#driver.listSchedules(tenant.id))
    return records.map(scheduleInfo)
  }

  /** Stops the ticks of a schedule of the active tenant until `resume`; the ones between are lost. Tells whether there is such a schedule. Rejects as `get` does. */
  async pause(id: string): Promise<boolean> {
    const { tenant } = this.#scope()
    return this.#outside(() => this.#driver.setSchedulePaused(tenant.id, String(id), true))
  }

  /** Restarts a paused schedule, from now on. Tells whether there is such a schedule. Rejects as `get` does. */
  async resume(id: string): Promise<boolean> {
    const { tenant } = this.#scope()
    return this.#outside(() => this.#driver.setSchedulePaused(tenant.id, String(id), false))
  }

  /** Removes a schedule of the active tenant and its waiting job; a running one ends as it will. Tells whether there was such a schedule. Rejects as `get` does. */
  async remove(id: string): Promise<boolean> {
    const { tenant } = this.#scope()
    return this.#outside(() => this.#driver.removeSchedule(tenant.id, String(id)))
  }

  /** An unfinished or failed job of the active tenant. Rejects as `get` does. */
  async getJob(id: string): Promise<JobInfo | undefined> {
    const { tenant } = this.#scope()
    const record = await this.#outside(() => this.#driver.getJob(tenant.id, String(id)))
    return record === undefined ? undefined : jobInfo(record)
  }

  /** Unfinished and failed jobs of the active tenant, in the order of their creation. Rejects as `get` does, and with `ERR_TENANCY_JOB_INVALID`. */
  async listJobs(options: ListJobsOptions = {}): Promise<JobInfo[]> {
    const { tenant } = this.#scope()
    assertKnownKeys('listJobs options', options, ['state', 'limit'], 'ERR_TENANCY_JOB_INVALID')
    const { state, limit = 100 } = options
    if (!Number.isSafeInteger(limit) || limit < 1)
      throw new TenancyError(
        'ERR_TENANCY_JOB_INVALID',
        `limit must be a whole number of at least 1, got ${describe(limit)}.`,
      )
    if (state !== undefined && !STATES.includes(state))
      throw new TenancyError(
        'ERR_TENANCY_JOB_INVALID',
        `state must be one of ${STATES.join(', ')}, got ${describe(state)}.`,
      )
    const records = await this.#outside(() => this.#driver.listJobs(tenant.id, { state, limit }))
    return records.map(jobInfo)
  }

  /** Removes a job of the active tenant that does not run. Tells whether it did. Rejects as `get` does. */
  async removeJob(id: string): Promise<boolean> {
    const { tenant } = this.#scope()
    return this.#outside(() => this.#driver.removeJob(tenant.id, String(id)))
  }

  /** Begins to run jobs in this process. Without it, a process only adds and looks. Repeating it is harmless. */
  start(): Promise<void> {
    if (this.#closing !== undefined)
      return Promise.reject(new TenancyError('ERR_TENANCY_CLOSED', 'The scheduler is closed.'))
    return (this.#starting ??= this.#outside(() =>
      this.#driver.start((job) => this.#outside(() => this.#execute(job))),
    ))
  }

  /**
   * Starts no further job, and waits `closeTimeoutMs` for those that run; then their signals abort, and a process warning (`PARTYWALL_JOBS_ABANDONED`) counts them.
   * Nothing is started afterwards, no retry either. Closes the driver. Repeating it is harmless; closing the tenancy does it too.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#outside(() => this.#close()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    for (const detach of this.#detach) detach()
    const abandoned = await this.#driver.close({ timeoutMs: this.#closeTimeoutMs })
    this.#abandon.abort(new TenancyError('ERR_TENANCY_CLOSED', 'The scheduler is closed.'))
    if (abandoned > 0)
      process.emitWarning(
        `${abandoned} jobs were still running ${this.#closeTimeoutMs} ms after the scheduler began to close.`,
        { code: 'PARTYWALL_JOBS_ABANDONED' },
      )
  }

  async #execute(job: DriverJob): Promise<JobOutcome> {
    const event = eventOf(job)
    // Never the default tenant: what a driver cannot attribute does not run.
    if (!isTenantId(job.tenantId)) return this.#dropped(event, 'unknown')
    let tenant: Tenant | undefined
    try {
      tenant = await this.#tenancy.lookup.find(job.tenantId)
    } catch {
      // The store does not answer, and says so by an event of its own. Nobody knows whether the tenant may work: wait.
      return { kind: 'held' }
    }
    if (tenant === undefined) return this.#dropped(event, 'unknown')
    if (tenant.status === 'deleted') return this.#dropped(event, 'deleted')
    const handler = this.#handlers.get(job.name)
    const startedAt = performance.now()
    let entered = false
    try {
      await this.#tenancy.run(
        job.tenantId,
        async (scope) => {
          entered = true
          if (handler === undefined)
            throw new TenancyError(
              'ERR_TENANCY_JOB_UNKNOWN',
              `No handler is defined for the job ${describe(job.name)}.`,
            )
          const data: unknown = job.data === undefined ? undefined : JSON.parse(job.data)
          await handler(data as never, this.#contextOf(job, scope))
        },
        { ...job.details, source: 'job' },
      )
    } catch (error) {
      // The tenant is not active, or the tenancy closed.
      if (!entered) return { kind: 'held' }
      // Without a handler, no further attempt is any better.
      return this.#failed(event, job, handler === undefined || job.attempt >= job.attempts, error)
    }
    const durationMs = performance.now() - startedAt
    this.#tenancy.events.emit('job:completed', { ...event, durationMs })
    return { kind: 'completed' }
  }

  #contextOf(job: DriverJob, scope: TenantScope): JobContext {
    const { id, name, attempt, attempts, scheduleId, scheduledFor } = job
    return Object.freeze({
      id,
      name,
      tenant: scope.tenant,
      attempt,
      attempts,
      signal: this.#abandon.signal,
      ...(scheduleId === undefined ? {} : { scheduleId }),
      ...(scheduledFor === undefined ? {} : { scheduledFor: new Date(scheduledFor) }),
    })
  }

  #dropped(event: JobEvent, reason: 'unknown' | 'deleted'): JobOutcome {
    this.#tenancy.events.emit('job:dropped', { ...event, reason })
    return { kind: 'dropped' }
  }

  #failed(event: JobEvent, job: DriverJob, final: boolean, error: unknown): JobOutcome {
    const { events } = this.#tenancy
    // An error that nobody hears of would be as if the job had succeeded.
    if (final && !events.has('job:failed'))
      process.emitWarning(
        `Job ${job.name} of tenant ${job.tenantId} failed: ${describe(errorText(error))}`,
        { code: 'PARTYWALL_JOB_FAILED' },
      )
    events.emit('job:failed', { ...event, attempts: job.attempts, final, error })
    return { kind: 'failed', final, error }
  }

  #scope(): TenantScope {
    if (this.#closing !== undefined)
      throw new TenancyError('ERR_TENANCY_CLOSED', 'The scheduler is closed.')
    return this.#tenancy.require()
  }

  #defined(name: string): string {
    if (typeof name === 'string' && this.#handlers.has(name)) return name
    const names = [...this.#handlers.keys()]
    const meant = typeof name === 'string' ? meantJob(name, names) : undefined
    throw new TenancyError(
      'ERR_TENANCY_JOB_UNKNOWN',
      `No job ${describe(name)} is defined.${meant === undefined ? '' : ` Did you mean "${meant}"?`}`,
    )
  }

  /** Whatever a driver starts outlives the call: a timer set by one tenant must not run another's job as the first. */
  #outside<T>(fn: () => T): T {
    return this.#tenancy.context.outside(fn)
  }
}

/**
 * Creates the scheduler of a process. It closes with the tenancy.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
 */
export function createTenantScheduler(
  tenancy: Tenancy,
  options: TenantSchedulerOptions,
): TenantScheduler {
  return new TenantScheduler(tenancy, options)
}

function meantJob(name: string, names: readonly string[]): string | undefined {
  // Jobs of plugins are called as `plugin.job`.
  const suffix = `.${name}`
  return names.find((known) => known.endsWith(suffix)) ?? nearestName(name, names)
}

function eventOf({ tenantId, id, name, scheduleId, attempt }: DriverJob): JobEvent {
  return { tenantId, jobId: id, name, scheduleId, attempt }
}

function jobInfo({ data, createdAt, runAt, ...record }: DriverJobRecord): JobInfo {
  return Object.freeze({
    ...record,
    data: data === undefined ? undefined : (JSON.parse(data) as unknown),
    createdAt: new Date(createdAt),
    ...(runAt === undefined ? {} : { runAt: new Date(runAt) }),
  })
}

function scheduleInfo({
  data,
  nextRunAt,
  lastRunAt,
  ...record
}: DriverScheduleRecord): ScheduleInfo {
  return Object.freeze({
    ...record,
    data: data === undefined ? undefined : (JSON.parse(data) as unknown),
    ...(nextRunAt === undefined ? {} : { nextRunAt: new Date(nextRunAt) }),
    ...(lastRunAt === undefined ? {} : { lastRunAt: new Date(lastRunAt) }),
  })
}
