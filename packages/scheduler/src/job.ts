import type { Tenant } from '@partywall/core'

/** When a schedule is due: by cron pattern in a time zone, or again and again at a distance. */
export type ScheduleTiming =
  | {
      /** Five fields, or six with seconds first; or a nickname such as `@daily`. */
      readonly cron: string
      /** An IANA name. @defaultValue `'UTC'`, so that it does not depend on the server */
      readonly timezone?: string | undefined
      readonly everyMs?: undefined
    }
  | {
      /** The first run is after this time, not at once. */
      readonly everyMs: number
      readonly cron?: undefined
      readonly timezone?: undefined
    }

/** How a failing job is tried again. */
export interface RetryOptions {
  /** How often the job may be tried. @defaultValue `1` */
  readonly attempts?: number | undefined
  /** Pause before the second attempt, in milliseconds; doubled before each further one, an hour at most. @defaultValue `1_000` */
  readonly backoffMs?: number | undefined
}

export interface EnqueueOptions extends RetryOptions {
  /**
   * An id of your own: while the tenant has an unfinished job of it, no other is added. 1 to 128 of `A-Z a-z 0-9 _ . @ + = -`, not digits alone.
   * @defaultValue a random UUID
   */
  readonly id?: string | undefined
  /** Earliest start, in milliseconds from now. @defaultValue `0` */
  readonly delayMs?: number | undefined
}

/** What a handler is told beside the data. */
export interface JobContext {
  readonly id: string
  readonly name: string
  readonly tenant: Tenant
  /** The first one is 1. */
  readonly attempt: number
  readonly attempts: number
  /** The schedule that the job comes from. */
  readonly scheduleId?: string
  /** The tick that it is for; earlier than now if the process was busy, or the tenant suspended. */
  readonly scheduledFor?: Date
  /** Aborts when the scheduler closes and will wait no longer. */
  readonly signal: AbortSignal
}

/** Runs in the context of the tenant that the job belongs to. `data` is a fresh copy at each attempt. */
export type JobHandler<D> = (data: D, job: JobContext) => unknown

/** `waiting` includes jobs of a suspended tenant; finished jobs are forgotten, failed ones kept while there is room. */
export type JobState = 'waiting' | 'delayed' | 'active' | 'failed'

/** A job of the active tenant. */
export interface JobInfo {
  readonly id: string
  readonly name: string
  readonly data: unknown
  readonly state: JobState
  /** Attempts begun. */
  readonly attempt: number
  readonly attempts: number
  readonly createdAt: Date
  /** When a delayed job becomes due. */
  readonly runAt?: Date
  readonly scheduleId?: string
  /** Why the last attempt failed. */
  readonly failure?: string
}

/** A schedule of the active tenant. */
export interface ScheduleInfo {
  readonly id: string
  readonly name: string
  readonly data: unknown
  readonly timing: ScheduleTiming
  readonly paused: boolean
  /** Absent while paused. */
  readonly nextRunAt?: Date
  readonly lastRunAt?: Date
}
