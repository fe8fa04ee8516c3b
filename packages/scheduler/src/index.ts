export { type MemoryDriverOptions, MemorySchedulerDriver, memoryDriver } from './drivers/memory.ts'
export type {
  EnqueueOptions,
  JobContext,
  JobHandler,
  JobInfo,
  JobState,
  RetryOptions,
  ScheduleInfo,
  ScheduleTiming,
} from './job.ts'
export type {
  DriverJob,
  DriverJobRecord,
  DriverScheduleRecord,
  JobOutcome,
  JobRunner,
  NewDriverJob,
  NewDriverSchedule,
  SchedulerDriver,
} from './scheduler-driver.ts'
export {
  createTenantScheduler,
  type EnqueuedJob,
  type ListJobsOptions,
  TenantScheduler,
  type TenantSchedulerOptions,
} from './tenant-scheduler.ts'
