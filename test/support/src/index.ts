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
export { outcomeOf, saysGone } from './outcome.ts'
export {
  createRestartablePostgres,
  type RestartablePostgres,
  type StopMode,
} from './restartable-postgres.ts'
export { type SeededRandom, seededRandom, testSeed } from './seeded-random.ts'
export { createTestDatabase, type TestDatabase } from './test-database.ts'
export { createTestRedis, type TestRedis, type TestRedisOptions } from './test-redis.ts'
export { startTestServers, type TestServers } from './test-servers.ts'
