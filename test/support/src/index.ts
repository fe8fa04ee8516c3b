export { canary, foreignCanaries } from './canary.ts'
export { type CollectedWarnings, collectWarnings } from './collect-warnings.ts'
export { CopyIn, CopyOut } from './copy.ts'
export { type EventuallyOptions, eventually } from './eventually.ts'
export {
  type ConnectionEnd,
  createFaultProxy,
  type FaultProxy,
  type FaultProxyOptions,
  type MessageHook,
  type Verdict,
  type WireFaults,
  type WireMessage,
} from './fault-proxy.ts'
export type { RunningServer } from './internal/running-server.ts'
export { outcomeOf, saysGone } from './outcome.ts'
export {
  createRestartablePostgres,
  type RestartablePostgres,
  type StopMode,
} from './restartable-postgres.ts'
export { type SeededRandom, seededRandom, testSeed } from './seeded-random.ts'
export { createTestDatabase, type TestDatabase } from './test-database.ts'
export {
  startPgBouncer,
  type TestPgBouncer,
  type TestPgBouncerOptions,
  whyNoPgBouncer,
} from './test-pgbouncer.ts'
export { startTestPooler, type TestPooler, type TestPoolerOptions } from './test-pooler.ts'
export { createTestRedis, type TestRedis, type TestRedisOptions } from './test-redis.ts'
export { startTestPostgres, startTestServers, type TestServers } from './test-servers.ts'
