import type { ScopeDetails } from '@partywall/core'
import type { JobState, ScheduleTiming } from './job.ts'

/** A job as a driver stores it. The tenant is not in here: it is where the job is stored. */
export interface NewDriverJob {
  readonly id: string
  readonly name: string
  /** JSON text; `undefined` for a job without data. */
  readonly data: string | undefined
  /** How often the job may be tried, at least 1. */
  readonly attempts: number
  /** Pause before the second attempt; doubled before each further one. */
  readonly backoffMs: number
  readonly delayMs: number
  /** Who enqueued it. */
  readonly details: ScopeDetails
}

/** A schedule as a driver stores it. Its timing is valid. */
export interface NewDriverSchedule
  extends Pick<NewDriverJob, 'id' | 'name' | 'data' | 'attempts' | 'backoffMs'> {
  readonly timing: ScheduleTiming
}

/** A job that is to run now. `tenantId` comes from where the driver found the job, never from its data. */
export interface DriverJob
  extends Pick<NewDriverJob, 'id' | 'name' | 'data' | 'attempts' | 'details'> {
  readonly tenantId: string
  /** The first one is 1. */
  readonly attempt: number
  readonly scheduleId?: string
  /** The tick that a scheduled job is for, in milliseconds since the epoch. */
  readonly scheduledFor?: number
}

/**
 * What became of a job, for the driver to act on:
 * - `completed`: forget the job.
 * - `failed`: try again after the backoff if attempts are left and it is not `final`; else keep it as failed, as long as room for it lasts.
 * - `held`: the tenant may not work now. Put the job back as the next of its tenant, without counting the attempt, and start no job of the tenant
 *   until `wake`; ask again now and then without it.
 * - `dropped`: the tenant is gone. Forget the job, and its schedule.
 */
export type JobOutcome =
  | { readonly kind: 'completed' | 'held' | 'dropped' }
  | { readonly kind: 'failed'; readonly final: boolean; readonly error: unknown }

/** Runs one job. Never rejects. */
export type JobRunner = (job: DriverJob) => Promise<JobOutcome>

/** A job that a driver knows. Times are milliseconds since the epoch. */
export interface DriverJobRecord extends Pick<NewDriverJob, 'id' | 'name' | 'data' | 'attempts'> {
  readonly state: JobState
  /** Attempts begun. */
  readonly attempt: number
  readonly createdAt: number
  /** When a delayed job becomes due. */
  readonly runAt?: number
  readonly scheduleId?: string
  /** Why the last attempt failed. */
  readonly failure?: string
}

export interface DriverScheduleRecord
  extends Pick<NewDriverSchedule, 'id' | 'name' | 'data' | 'timing'> {
  readonly paused: boolean
  /** Absent while paused. */
  readonly nextRunAt?: number
  readonly lastRunAt?: number
}

/**
 * Where jobs and schedules are kept, and what decides which one runs next. The scheduler owns the rest: it captures the tenant, checks and
 * copies what it is given, looks the tenant up anew and enters it. It calls every member outside of every tenant.
 *
 * Ids are unique per tenant: the same id in two tenants is two things. Jobs of different tenants take turns; each job
 * runs at least once, and once alone unless a process dies. At most one job of a schedule waits: a tick that finds the one before
 * it still waiting is skipped.
 */
export interface SchedulerDriver {
  /** For messages: `memory`, `bullmq`. */
  readonly name: string
  /** Begins to run jobs. Called once at most; what was added before runs then. */
  start(run: JobRunner): Promise<void>
  /** Adds a job, unless the tenant has an unfinished one of this id. Resolves to whether it was added. @throws {TenancyError} `ERR_TENANCY_JOB_QUEUE_FULL`. */
  addJob(tenantId: string, job: NewDriverJob): Promise<boolean>
  getJob(tenantId: string, id: string): Promise<DriverJobRecord | undefined>
  /** Unfinished and failed jobs in the order of their creation, `limit` at most. */
  listJobs(
    tenantId: string,
    filter: { readonly state: JobState | undefined; readonly limit: number },
  ): Promise<readonly DriverJobRecord[]>
  /** Forgets a job that is not running. Resolves to whether there was one. */
  removeJob(tenantId: string, id: string): Promise<boolean>
  /** Adds a schedule, or replaces the tenant's schedule of this id; one whose timing is the same keeps its next run. */
  putSchedule(tenantId: string, schedule: NewDriverSchedule): Promise<DriverScheduleRecord>
  getSchedule(tenantId: string, id: string): Promise<DriverScheduleRecord | undefined>
  /** In the order of their ids. */
  listSchedules(tenantId: string): Promise<readonly DriverScheduleRecord[]>
  /** Stops or restarts the ticks of a schedule; ticks in between are lost. Resolves to whether there is one. */
  setSchedulePaused(tenantId: string, id: string, paused: boolean): Promise<boolean>
  /** Forgets a schedule and its waiting job. Resolves to whether there was one. */
  removeSchedule(tenantId: string, id: string): Promise<boolean>
  /** The tenant, or any (`'*'`), may have changed: held jobs are worth another try. */
  wake(tenantId: string): void
  /**
   * Starts no further job, and waits for running ones, `timeoutMs` at most. Resolves to the number of those that still run; whatever they
   * come to, nothing is started for them afterwards.
   */
  close(options: { readonly timeoutMs: number }): Promise<number>
}
