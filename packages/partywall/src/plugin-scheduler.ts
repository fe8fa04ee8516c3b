import type {
  EnqueuedJob,
  EnqueueOptions,
  JobInfo,
  ListJobsOptions,
  RetryOptions,
  ScheduleInfo,
  ScheduleTiming,
  TenantScheduler,
} from '@partywall/scheduler'

/**
 * The scheduler of one plugin: jobs are named as in its `jobs`, and the ids of other plugins' jobs and schedules do not exist. Every operation acts in the tenant that is active when it is called, and
 * rejects as that of `TenantScheduler` does.
 */
export class PluginScheduler {
  readonly #scheduler: TenantScheduler
  readonly #prefix: string

  constructor(scheduler: TenantScheduler, plugin: string) {
    this.#scheduler = scheduler
    this.#prefix = `${plugin}.`
  }

  /** Adds a job of the plugin, to run once. */
  async enqueue(job: string, data?: unknown, options: EnqueueOptions = {}): Promise<EnqueuedJob> {
    // An id of our own is free of the prefix, and a plugin may ask for the job by it all the same.
    const id = options.id ?? crypto.randomUUID()
    const enqueued = await this.#scheduler.enqueue(this.#own(job), data, {
      ...options,
      id: this.#own(id),
    })
    return { ...enqueued, id }
  }

  /** Adds a schedule, or replaces the one of this id. */
  async schedule(
    id: string,
    timing: ScheduleTiming,
    job: string,
    data?: unknown,
    options?: RetryOptions,
  ): Promise<ScheduleInfo> {
    return this.#schedule(
      await this.#scheduler.schedule(this.#own(id), timing, this.#own(job), data, options),
    )
  }

  /** A schedule of the plugin; those that the plugin declares are among them. */
  async get(id: string): Promise<ScheduleInfo | undefined> {
    const info = await this.#scheduler.get(this.#own(id))
    return info && this.#schedule(info)
  }

  async list(): Promise<ScheduleInfo[]> {
    const schedules = await this.#scheduler.list()
    return schedules.filter(({ id }) => this.#owns(id)).map((info) => this.#schedule(info))
  }

  /** Tells whether there is such a schedule; so do `resume` and `remove`. */
  pause(id: string): Promise<boolean> {
    return this.#scheduler.pause(this.#own(id))
  }

  resume(id: string): Promise<boolean> {
    return this.#scheduler.resume(this.#own(id))
  }

  remove(id: string): Promise<boolean> {
    return this.#scheduler.remove(this.#own(id))
  }

  async getJob(id: string): Promise<JobInfo | undefined> {
    const info = await this.#scheduler.getJob(this.#own(id))
    return info && this.#job(info)
  }

  /** Jobs of the plugin among the oldest `limit` of the tenant. */
  async listJobs(options?: ListJobsOptions): Promise<JobInfo[]> {
    const jobs = await this.#scheduler.listJobs(options)
    return jobs.filter(({ name }) => this.#owns(name)).map((info) => this.#job(info))
  }

  removeJob(id: string): Promise<boolean> {
    return this.#scheduler.removeJob(this.#own(id))
  }

  #schedule(info: ScheduleInfo): ScheduleInfo {
    return { ...info, id: this.#strip(info.id), name: this.#strip(info.name) }
  }

  #job(info: JobInfo): JobInfo {
    return {
      ...info,
      id: this.#strip(info.id),
      name: this.#strip(info.name),
      ...(info.scheduleId === undefined ? {} : { scheduleId: this.#strip(info.scheduleId) }),
    }
  }

  /** What is no name stays none. */
  #own(name: string): string {
    return typeof name === 'string' && name !== '' ? this.#prefix + name : name
  }

  #owns(name: string): boolean {
    return name.startsWith(this.#prefix)
  }

  #strip(name: string): string {
    return this.#owns(name) ? name.slice(this.#prefix.length) : name
  }
}
