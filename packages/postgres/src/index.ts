export type { AbortableQuery, AbortableQueryConfig } from './abortable-query.ts'
export { type AssertPoolerOptions, assertPooler } from './assert-pooler.ts'
export type {
  BreakerOptions,
  ClusterOptions,
  CredentialsOf,
  DatabasesOptions,
  TenantCredentials,
  TenantLogin,
} from './cluster-options.ts'
export {
  type DoctorOptions,
  type DoctorReport,
  doctor,
  type Finding,
  type FindingCode,
  type FindingSeverity,
} from './doctor.ts'
export type { DatabaseEngine } from './internal/citus.ts'
export type { TenantPoolClient } from './internal/client-handle.ts'
export {
  createMigration,
  loadMigrations,
  type Migration,
  type MigrationSet,
  migrateTenant,
} from './migrations.ts'
export {
  type PoolerMode,
  type PoolerProbeOptions,
  type PoolerReport,
  probePooler,
} from './pooler-probe.ts'
export {
  PostgresTenantStore,
  type PostgresTenantStoreOptions,
  postgresTenantStore,
} from './postgres-tenant-store.ts'
export type { RowIsolationRole } from './row-isolation/expressions.ts'
export type {
  RowIsolationFinding,
  RowIsolationFindingCode,
  RowIsolationSeverity,
} from './row-isolation/findings.ts'
export type { RowIsolationStatement, RowIsolationStep } from './row-isolation/statement.ts'
export { type ApplyRowIsolationOptions, applyRowIsolation } from './row-isolation-apply.ts'
export { assertRowIsolation, type RowIsolationCheck } from './row-isolation-assert.ts'
export { rowIsolationMigration } from './row-isolation-migration.ts'
export {
  planRowIsolation,
  type ResolvedRowIsolationOptions,
  type RowIsolationOptions,
  type RowIsolationPlan,
} from './row-isolation-plan.ts'
export { type CloneTenantSchemaOptions, cloneTenantSchema } from './schema-clone.ts'
export { type DropTenantSchemaOptions, dropTenantSchema } from './schema-drop.ts'
export { fingerprintSchema } from './schema-fingerprint.ts'
export {
  type FleetOverviewOptions,
  fleetOverview,
  type TenantSchemaSummary,
} from './schema-fleet.ts'
export { createSchemaFromSql, type SchemaFromSqlOptions } from './schema-from-sql.ts'
export { renameTenantSchema } from './schema-rename.ts'
export { assertNotShared, schemaOf, searchPathOf } from './search-path.ts'
export {
  assertNoShadowedTables,
  findShadowedTables,
  type Queryable,
  type ShadowCheck,
  type ShadowedTable,
} from './shadowed-tables.ts'
export { TenantClient } from './tenant-client.ts'
export {
  type CreateTenantDatabaseOptions,
  createTenantDatabase,
  type DropTenantDatabaseOptions,
  dropTenantDatabase,
} from './tenant-database.ts'
export {
  TenantPool,
  type TransactionOptions,
  type TransactionQuery,
  type UnsafeSessionOptions,
} from './tenant-pool.ts'
export type { TenantPoolOptions } from './tenant-pool-options.ts'
export {
  type PrismaClientLike,
  type TenantPrismaOptions,
  type TenantPrismaPlace,
  tenantPrisma,
} from './tenant-prisma.ts'
export {
  createGateRole,
  createTenantRole,
  dropTenantRole,
  type TenantRoleOptions,
} from './tenant-roles.ts'
export { type CreateTenantSchemaOptions, createTenantSchema } from './tenant-schema.ts'
export type {
  ListenOptions,
  NotificationListener,
  TenantSubscription,
} from './tenant-subscription.ts'
