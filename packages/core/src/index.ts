export { ERRORS, TenancyError, type TenancyErrorCode, type TenancyErrorOptions } from './errors.ts'
export {
  type JobEvent,
  type RefusalReason,
  TenancyEventHub,
  type TenancyEventListener,
  type TenancyEventName,
  type TenancyEvents,
} from './events.ts'
export {
  assertTenancyMode,
  enterRequest,
  type HttpEntry,
  type HttpExchange,
  leaveRequest,
  type TenancyMode,
} from './http-entry.ts'
export { assertTrustProxy, requestAuthority } from './http-host.ts'
export {
  BODY_HEADERS,
  mergeVary,
  PROBLEM_MEDIA_TYPE,
  type ProblemDocument,
  type ProblemOptions,
  problemDocument,
  type ResolvedProblemOptions,
  resolveProblemOptions,
} from './http-problem.ts'
export { errorText } from './internal/error-text.ts'
export { chain, isPromise, type MaybePromise } from './internal/maybe-promise.ts'
export { assertKnownKeys, nearestName } from './known-keys.ts'
export type { LookupOptions, ResolvedLookupOptions } from './lookup-options.ts'
export { MemoryTenantStore, memoryTenantStore } from './memory-tenant-store.ts'
export {
  assertNoPhysicalConflict,
  MAX_PHYSICAL_NAME_BYTES,
  type PhysicalKind,
  physicalName,
} from './physical-names.ts'
export {
  definePlugin,
  type Plugin,
  type PluginFunction,
  type PluginInput,
  type PluginSchedule,
} from './plugin.ts'
export {
  createPluginHost,
  PluginHost,
  type PluginHostOptions,
  type PluginJob,
  type PluginScheduleEntry,
  type PluginServiceExtras,
} from './plugin-host.ts'
export {
  formatPluginLogRecord,
  type PluginLogger,
  type PluginLogLevel,
  type PluginLogRecord,
  type PluginLogSink,
  stderrLogSink,
} from './plugin-log.ts'
export type {
  PluginCaller,
  PluginEmitter,
  PluginEventFailure,
  PluginEventResult,
  PluginFlags,
  PluginServices,
} from './plugin-services.ts'
export type { Authorize, AuthorizeInput, Reveal } from './resolution.ts'
export { type ClaimOptions, claim, type VerifiedToken } from './resolvers/claim.ts'
export { cookie } from './resolvers/cookie.ts'
export { type DomainOptions, domain } from './resolvers/domain.ts'
export { fallback } from './resolvers/fallback.ts'
export { header } from './resolvers/header.ts'
export { type PathOptions, path } from './resolvers/path.ts'
export { query } from './resolvers/query.ts'
export { type SubdomainOptions, subdomain } from './resolvers/subdomain.ts'
export {
  createTenancy,
  ForEachError,
  type ForEachOptions,
  type ForEachResult,
  type RunOptions,
  Tenancy,
  type TenancyOptions,
} from './tenancy.ts'
export type { TenancyRequest } from './tenancy-request.ts'
export {
  createTenant,
  type Tenant,
  type TenantInput,
  type TenantIsolation,
  type TenantPlacement,
  type TenantRelease,
  type TenantStatus,
} from './tenant.ts'
export { type ContextMode, TenantContext } from './tenant-context.ts'
export { assertTenantId, isTenantId, RESERVED_TENANT_IDS } from './tenant-id.ts'
export type { TenantLookup } from './tenant-lookup.ts'
export { tenantPlace } from './tenant-place.ts'
export type { ResolverServices, TenantResolver, TenantResolverFunction } from './tenant-resolver.ts'
export { type Actor, isTenantScope, type ScopeDetails, type TenantScope } from './tenant-scope.ts'
export { matchesSelector, type TenantSelector, type TenantStore } from './tenant-store.ts'
