export {
  type CacheTtl,
  createTenantCache,
  memoryDriver,
  redisDriver,
  TenantCache,
  TenantRedis,
} from '@partywall/cache'
export {
  type Authorize,
  type AuthorizeInput,
  claim,
  cookie,
  createTenancy,
  domain,
  fallback,
  header,
  memoryTenantStore,
  type Plugin,
  type PluginInput,
  type PluginLogRecord,
  type PluginServices,
  path,
  query,
  subdomain,
  Tenancy,
  TenancyError,
  type TenancyErrorCode,
  type Tenant,
  type TenantInput,
  type TenantScope,
  type TenantSelector,
  type TenantStatus,
} from '@partywall/core'
export {
  centralRoute,
  requireTenant,
  tenancyErrorHandler,
  tenancyMiddleware,
} from '@partywall/express'
export { tenancyPlugin } from '@partywall/fastify'
export { PostgresTenantStore, postgresTenantStore, TenantPool } from '@partywall/postgres'
export { createTenantScheduler, type EnqueueOptions, TenantScheduler } from '@partywall/scheduler'
export { createPartywall } from './create-partywall.ts'
export {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres,
} from './embedded-postgres.ts'
export type { ProvisioningStep } from './internal/provisioner.ts'
export type { Partywall } from './partywall.ts'
export type {
  DatabaseConfig,
  PartywallConfig,
  RedisConfig,
  TenancyConfig,
  TenantConfig,
  TenantSeedServices,
} from './partywall-config.ts'
export type { PluginCache } from './plugin-cache.ts'
export type { PluginScheduler } from './plugin-scheduler.ts'
export { definePlugin, type PartywallServices } from './plugin-services.ts'
export type { CreateTenantOptions, TenantChanges, TenantManager } from './tenant-manager.ts'
