import { isDeepStrictEqual } from 'node:util'
import { assertKnownKeys, errorText, TenancyError } from '@partywall/core'
import { AlarmClock } from '../internal/alarm-clock.ts'
import { nextCronRun } from '../internal/cron.ts'
import { FairDispatcher } from '../internal/fair-dispatcher.ts'
import { describe } from '../internal/job-input.ts'
import { type MemoryJob, MemoryLane, type MemorySchedule } from '../internal/memory-lane.ts'
import type { JobState } from '../job.ts'
import type {
  DriverJob,
  DriverJobRecord,
  DriverScheduleRecord,
  JobOutcome,
  JobRunner,
  NewDriverJob,
  NewDriverSchedule,
  SchedulerDriver,
} from '../scheduler-driver.ts'

export interface MemoryDriverOptions {
  /** Jobs at one time, of all tenants. @defaultValue `10` */
  readonly concurrency?: number | undefined
  /**
   * Jobs at one time of one tenant; `'unlimited'` is up to `concurrency`. Below it, jobs of one tenant that hang leave room for the others.
   * @defaultValue half of `concurrency`, at least 1
   */
  readonly concurrencyPerTenant?: number | 'unlimited' | undefined
  /** Unfinished jobs of one tenant, and schedules of one tenant; more are refused. @defaultValue `100_000` */
  readonly maxJobsPerTenant?: number | undefined
  /** Failed jobs kept for each tenant; the oldest go first. @defaultValue `100` */
  readonly maxFailedPerTenant?: number | undefined
  /** How long jobs of a tenant that may not work wait for their next try, if nobody says that the tenant changed. @defaultValue `5_000` */
  readonly holdRecheckMs?: number | undefined
}

type ResolvedOptions = Readonly<{
  [K in keyof Required<MemoryDriverOptions>]: number
}>

const DEFAULTS: ResolvedOptions = {
  concurrency: 10,
  concurrencyPerTenant: Number.MAX_SAFE_INTEGER, // `'unlimited'`; the default depends on `concurrency`
  maxJobsPerTenant: 100_000,
  maxFailedPerTenant: 100,
  holdRecheckMs: 5_000,
}

const LONGEST_BACKOFF_MS = 3_600_000
// How late a cron job may be when somebody sets the clock forward.
const CLOCK_CHECK_MS = 30_000

/** A {@link SchedulerDriver} in the memory of this process: for development, tests, and work that may be lost. Other processes see nothing of it. */
export class MemorySchedulerDriver implements SchedulerDriver {
  readonly name = 'memory'
  readonly #options: ResolvedOptions
  // A map per tenant, so that equal ids of two tenants cannot meet.
  readonly #lanes = new Map<string, MemoryLane>()
  readonly #dispatcher: FairDispatcher
  /** Cron follows the clock on the wall; delays and distances must not stretch when somebody sets it. */
  readonly #wall = new AlarmClock(() => Date.now(), CLOCK_CHECK_MS)
  readonly #steady = new AlarmClock(() => performance.now())
  #run: JobRunner | undefined
  #closing: Promise<number> | undefined

  constructor(options: MemoryDriverOptions = {}) {
    this.#options = resolveOptions(options)
    this.#dispatcher = new FairDispatcher({
      concurrency: this.#options.concurrency,
      concurrencyPerLane: this.#options.concurrencyPerTenant,
    })
  }

  async start(run: JobRunner): Promise<void> {
    this.#assertOpen()
    if (this.#run !== undefined)
      throw new TenancyError('ERR_TENANCY_OPTION_INVALID', 'A driver serves one scheduler.')
    this.#run = run
    this.#dispatcher.start()
  }

  async addJob(tenantId: string, job: NewDriverJob): Promise<boolean> {
    this.#assertOpen()
    const lane = this.#lane(tenantId)
    const known = lane.jobs.get(job.id)
    if (known !== undefined && known.state !== 'failed') return false
    if (lane.unfinished >= this.#options.maxJobsPerTenant) throw full(tenantId, 'jobs')
    if (known !== undefined) lane.forget(known)
    const added = lane.add(job)
    if (job.delayMs > 0) this.#delay(lane, added, job.delayMs)
    else lane.ready(added)
    this.#dispatcher.offer(lane)
    return true
  }

  async getJob(tenantId: string, id: string): Promise<DriverJobRecord | undefined> {
    const job = this.#lanes.get(tenantId)?.jobs.get(id)
    return job === undefined ? undefined : jobRecord(job)
  }

  async listJobs(
    tenantId: string,
    { state, limit }: { readonly state: JobState | undefined; readonly limit: number },
  ): Promise<readonly DriverJobRecord[]> {
    return (this.#lanes.get(tenantId)?.jobs.values() ?? [].values())
      .filter((job) => state === undefined || job.state === state)
      .take(limit)
      .map(jobRecord)
      .toArray()
  }

  async removeJob(tenantId: string, id: string): Promise<boolean> {
    const lane = this.#lanes.get(tenantId)
    const job = lane?.jobs.get(id)
    if (lane === undefined || job === undefined || job.state === 'active') return false
    lane.forget(job)
    this.#dropIfEmpty(lane)
    return true
  }

  async putSchedule(tenantId: string, schedule: NewDriverSchedule): Promise<DriverScheduleRecord> {
    this.#assertOpen()
    const lane = this.#lane(tenantId)
    const known = lane.schedules.get(schedule.id)
    if (known === undefined && lane.schedules.size >= this.#options.maxJobsPerTenant)
      throw full(tenantId, 'schedules')
    const put: MemorySchedule = known ?? {
      input: schedule,
      paused: false,
      alarm: undefined,
      nextRunAt: undefined,
      lastRunAt: undefined,
      lastTick: 0,
      pending: undefined,
    }
    lane.schedules.set(schedule.id, put)
    // Declaring the same schedule at each boot must not postpone it each time.
    const moved = known === undefined || !isDeepStrictEqual(known.input.timing, schedule.timing)
    put.input = schedule
    if (moved && !put.paused) this.#arm(lane, put)
    return scheduleRecord(put)
  }

  async getSchedule(tenantId: string, id: string): Promise<DriverScheduleRecord | undefined> {
    const schedule = this.#lanes.get(tenantId)?.schedules.get(id)
    return schedule === undefined ? undefined : scheduleRecord(schedule)
  }

  async listSchedules(tenantId: string): Promise<readonly DriverScheduleRecord[]> {
    const schedules = this.#lanes.get(tenantId)?.schedules.values() ?? []
    return [...schedules].map(scheduleRecord).sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  async setSchedulePaused(tenantId: string, id: string, paused: boolean): Promise<boolean> {
    const lane = this.#lanes.get(tenantId)
    const schedule = lane?.schedules.get(id)
    if (lane === undefined || schedule === undefined) return false
    if (schedule.paused === paused) return true
    schedule.paused = paused
    if (paused) disarm(schedule)
    else this.#arm(lane, schedule)
    return true
  }

  async removeSchedule(tenantId: string, id: string): Promise<boolean> {
    const lane = this.#lanes.get(tenantId)
    const schedule = lane?.schedules.get(id)
    if (lane === undefined || schedule === undefined) return false
    this.#removeSchedule(lane, schedule)
    return true
  }

  wake(tenantId: string): void {
    if (tenantId === '*') for (const lane of this.#lanes.values()) this.#release(lane)
    else {
      const lane = this.#lanes.get(tenantId)
      if (lane !== undefined) this.#release(lane)
    }
  }

  close({ timeoutMs }: { readonly timeoutMs: number }): Promise<number> {
    return (this.#closing ??= this.#close(timeoutMs))
  }

  async #close(timeoutMs: number): Promise<number> {
    this.#wall.close()
    this.#steady.close()
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs)
    })
    await Promise.race([this.#dispatcher.stop(), timeout])
    clearTimeout(timer)
    this.#lanes.clear()
    return this.#dispatcher.running
  }

  #lane(tenantId: string): MemoryLane {
    let lane = this.#lanes.get(tenantId)
    if (lane === undefined) {
      lane = new MemoryLane(tenantId, (job) => this.#runJob(lane as MemoryLane, job))
      this.#lanes.set(tenantId, lane)
    }
    return lane
  }

  /** Tenants without work take no room. */
  #dropIfEmpty(lane: MemoryLane): void {
    if (
      lane.jobs.size === 0 &&
      lane.schedules.size === 0 &&
      this.#lanes.get(lane.tenantId) === lane
    )
      this.#lanes.delete(lane.tenantId)
  }

  /** What a runner rejects with is a failure for good: the job must not stay active for ever, nor end the process. */
  async #outcomeOf(job: DriverJob): Promise<JobOutcome> {
    try {
      return await (this.#run as JobRunner)(job)
    } catch (error) {
      return { kind: 'failed', final: true, error }
    }
  }

  async #runJob(lane: MemoryLane, job: MemoryJob): Promise<void> {
    const { wakes } = lane
    job.attempt++
    const outcome = await this.#outcomeOf({
      tenantId: lane.tenantId,
      id: job.input.id,
      name: job.input.name,
      data: job.input.data,
      attempts: job.input.attempts,
      details: job.input.details,
      attempt: job.attempt,
      ...(job.schedule === undefined ? {} : { scheduleId: job.schedule.input.id }),
      ...(job.scheduledFor === undefined ? {} : { scheduledFor: job.scheduledFor }),
    })
    if (outcome.kind === 'held') {
      job.attempt--
      lane.putBack(job)
      // A change that was told while the tenant was being looked up may be the one that lets it work again.
      if (lane.wakes === wakes) this.#hold(lane)
    } else if (outcome.kind === 'failed') {
      job.failure = describeFailure(outcome.error)
      if (!outcome.final && job.attempt < job.input.attempts) {
        const backoffMs = job.input.backoffMs * 2 ** (job.attempt - 1)
        this.#delay(
          lane,
          job,
          Math.min(backoffMs, Math.max(LONGEST_BACKOFF_MS, job.input.backoffMs)),
        )
      } else {
        lane.fail(job, this.#options.maxFailedPerTenant)
        this.#dropIfEmpty(lane)
      }
    } else {
      const { schedule } = job
      lane.forget(job)
      if (outcome.kind === 'dropped' && schedule !== undefined) this.#removeSchedule(lane, schedule)
      this.#dropIfEmpty(lane)
    }
  }

  #delay(lane: MemoryLane, job: MemoryJob, delayMs: number): void {
    job.state = 'delayed'
    job.runAt = Date.now() + delayMs
    job.alarm = this.#steady.set(this.#steady.now() + delayMs, () => {
      lane.ready(job)
      this.#dispatcher.offer(lane)
    })
  }

  #hold(lane: MemoryLane): void {
    lane.hold?.cancel()
    const recheckAt = this.#steady.now() + this.#options.holdRecheckMs
    lane.hold = this.#steady.set(recheckAt, () => this.#release(lane))
  }

  #release(lane: MemoryLane): void {
    lane.wakes++
    lane.hold?.cancel()
    lane.hold = undefined
    this.#dispatcher.offer(lane)
  }

  #removeSchedule(lane: MemoryLane, schedule: MemorySchedule): void {
    disarm(schedule)
    lane.schedules.delete(schedule.input.id)
    const { pending } = schedule
    if (pending !== undefined && pending.state !== 'active') lane.forget(pending)
    this.#dropIfEmpty(lane)
  }

  /** Sets the alarm of the next tick, counted from now. */
  #arm(lane: MemoryLane, schedule: MemorySchedule): void {
    disarm(schedule)
    const { timing } = schedule.input
    if (timing.everyMs !== undefined)
      this.#armEvery(lane, schedule, timing.everyMs, this.#steady.now())
    else this.#armCron(lane, schedule, Date.now())
  }

  #armEvery(lane: MemoryLane, schedule: MemorySchedule, everyMs: number, from: number): void {
    // Ticks that were missed are not made up for: the next is the first that lies ahead, in step with the ones before.
    const missed = Math.floor(Math.max(0, this.#steady.now() - from) / everyMs)
    const at = from + (missed + 1) * everyMs
    schedule.nextRunAt = Date.now() + Math.round(at - this.#steady.now())
    schedule.alarm = this.#steady.set(at, () => {
      this.#tick(lane, schedule, () => this.#armEvery(lane, schedule, everyMs, at))
    })
  }

  #armCron(lane: MemoryLane, schedule: MemorySchedule, from: number): void {
    const { cron, timezone = 'UTC' } = schedule.input.timing
    const at = cron === undefined ? undefined : nextCronRun(cron, timezone, from)
    if (at === undefined) return
    schedule.nextRunAt = at
    schedule.alarm = this.#wall.set(at, () => {
      // From the tick, if somebody set the clock back while it was due: no tick comes twice.
      this.#tick(lane, schedule, () => this.#armCron(lane, schedule, Math.max(at, Date.now())))
    })
  }

  #tick(lane: MemoryLane, schedule: MemorySchedule, rearm: () => void): void {
    const due = schedule.nextRunAt as number
    schedule.alarm = undefined
    schedule.nextRunAt = undefined
    schedule.lastRunAt = due
    rearm()
    // One at a time: a tick that finds the one before it unfinished is skipped.
    if (schedule.pending !== undefined) return
    const { id, name, data, attempts, backoffMs } = schedule.input
    // The time it was due, or later: a clock that stands still or was set back must not give two jobs one id.
    let tick = Math.max(due, schedule.lastTick + 1)
    while (lane.jobs.has(`${id}/${tick}`)) tick++
    schedule.lastTick = tick
    const job = lane.add(
      { id: `${id}/${tick}`, name, data, attempts, backoffMs, delayMs: 0, details: {} },
      schedule,
      due,
    )
    lane.ready(job)
    this.#dispatcher.offer(lane)
  }

  #assertOpen(): void {
    if (this.#closing !== undefined)
      throw new TenancyError('ERR_TENANCY_CLOSED', 'The scheduler is closed.')
  }
}

/** Makes a {@link MemorySchedulerDriver}. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`. */
export function memoryDriver(options: MemoryDriverOptions = {}): MemorySchedulerDriver {
  return new MemorySchedulerDriver(options)
}

function resolveOptions(options: MemoryDriverOptions): ResolvedOptions {
  const names = Object.keys(DEFAULTS) as (keyof ResolvedOptions)[]
  assertKnownKeys('memoryDriver', options, names)
  const resolved = { ...DEFAULTS }
  for (const name of names) {
    const value = options[name]
    if (value === undefined || (name === 'concurrencyPerTenant' && value === 'unlimited')) continue
    if (!Number.isSafeInteger(value) || (value as number) < (name === 'maxFailedPerTenant' ? 0 : 1))
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `${name} of memoryDriver must be a whole number of at least 1, got ${describe(value)}.`,
      )
    resolved[name] = value as number
  }
  if (options.concurrencyPerTenant === undefined)
    resolved.concurrencyPerTenant = Math.max(1, Math.floor(resolved.concurrency / 2))
  return Object.freeze(resolved)
}

function disarm(schedule: MemorySchedule): void {
  schedule.alarm?.cancel()
  schedule.alarm = undefined
  schedule.nextRunAt = undefined
}

function full(tenantId: string, what: string): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_JOB_QUEUE_FULL',
    `Tenant ${tenantId} has as many ${what} as maxJobsPerTenant allows.`,
    { tenantId },
  )
}

function describeFailure(error: unknown): string {
  return errorText(error).slice(0, 1_000)
}

function jobRecord({
  input,
  state,
  attempt,
  createdAt,
  runAt,
  schedule,
  failure,
}: MemoryJob): DriverJobRecord {
  const { id, name, data, attempts } = input
  return {
    id,
    name,
    data,
    attempts,
    state,
    attempt,
    createdAt,
    ...(state === 'delayed' && runAt !== undefined ? { runAt } : {}),
    ...(schedule === undefined ? {} : { scheduleId: schedule.input.id }),
    ...(failure === undefined ? {} : { failure }),
  }
}

function scheduleRecord({
  input,
  paused,
  nextRunAt,
  lastRunAt,
}: MemorySchedule): DriverScheduleRecord {
  const { id, name, data, timing } = input
  return {
    id,
    name,
    data,
    timing,
    paused,
    ...(nextRunAt === undefined ? {} : { nextRunAt }),
    ...(lastRunAt === undefined ? {} : { lastRunAt }),
  }
}
