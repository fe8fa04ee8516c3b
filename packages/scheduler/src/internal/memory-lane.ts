import type { JobState } from '../job.ts'
import type { NewDriverJob, NewDriverSchedule } from '../scheduler-driver.ts'
import type { Alarm } from './alarm-clock.ts'
import type { Lane } from './fair-dispatcher.ts'
import { Fifo } from './fifo.ts'

export interface MemoryJob {
  readonly input: NewDriverJob
  readonly createdAt: number
  readonly schedule: MemorySchedule | undefined
  readonly scheduledFor: number | undefined
  state: JobState
  attempt: number
  runAt: number | undefined
  alarm: Alarm | undefined
  failure: string | undefined
}

export interface MemorySchedule {
  input: NewDriverSchedule
  paused: boolean
  alarm: Alarm | undefined
  nextRunAt: number | undefined
  lastRunAt: number | undefined
  /** What the id of the last tick's job ends with. */
  lastTick: number
  /** The unfinished job of the last tick that made one. */
  pending: MemoryJob | undefined
}

/** Jobs and schedules of one tenant, in memory. */
export class MemoryLane implements Lane {
  readonly tenantId: string
  /** Unfinished and failed jobs, in the order of their creation. */
  readonly jobs = new Map<string, MemoryJob>()
  readonly schedules = new Map<string, MemorySchedule>()
  /** Set while the tenant may not work. */
  hold: Alarm | undefined
  /** How often the tenant was told to have changed. */
  wakes = 0
  /** Those of `jobs` that have failed, in the order in which they did. */
  readonly #failed = new Set<MemoryJob>()
  readonly #waiting = new Fifo<MemoryJob>()
  readonly #run: (job: MemoryJob) => Promise<void>

  constructor(tenantId: string, run: (job: MemoryJob) => Promise<void>) {
    this.tenantId = tenantId
    this.#run = run
  }

  /** Jobs that are neither done nor failed. */
  get unfinished(): number {
    return this.jobs.size - this.#failed.size
  }

  add(input: NewDriverJob, schedule?: MemorySchedule, scheduledFor?: number): MemoryJob {
    const job: MemoryJob = {
      input,
      createdAt: Date.now(),
      schedule,
      scheduledFor,
      state: 'waiting',
      attempt: 0,
      runAt: undefined,
      alarm: undefined,
      failure: undefined,
    }
    this.jobs.set(input.id, job)
    if (schedule !== undefined) schedule.pending = job
    return job
  }

  /** Puts a job behind all that wait. */
  ready(job: MemoryJob): void {
    job.alarm = undefined
    job.state = 'waiting'
    this.#waiting.push(job)
  }

  /** Puts a job that was begun before all that wait. */
  putBack(job: MemoryJob): void {
    job.state = 'waiting'
    this.#waiting.unshift(job)
  }

  /** Keeps a job for which no attempt is left, and forgets the oldest of those beyond `keep`. */
  fail(job: MemoryJob, keep: number): void {
    this.#unlink(job)
    job.state = 'failed'
    this.#failed.add(job)
    for (const oldest of this.#failed) {
      if (this.#failed.size <= keep) break
      this.forget(oldest)
    }
  }

  forget(job: MemoryJob): void {
    if (job.state === 'waiting') this.#waiting.remove(job)
    this.#failed.delete(job)
    job.alarm?.cancel()
    job.alarm = undefined
    this.jobs.delete(job.input.id)
    this.#unlink(job)
  }

  isReady(): boolean {
    return this.hold === undefined && this.#waiting.length > 0
  }

  async runNext(): Promise<void> {
    const job = this.#waiting.shift()
    if (job === undefined) return
    job.state = 'active'
    await this.#run(job)
  }

  #unlink(job: MemoryJob): void {
    if (job.schedule?.pending === job) job.schedule.pending = undefined
  }
}
