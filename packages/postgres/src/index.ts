export {
  type DoctorOptions,
  type DoctorReport,
  doctor,
  type Finding,
  type FindingCode,
  type FindingSeverity,
} from './doctor.ts'
export {
  createMigration,
  loadMigrations,
  type Migration,
  type MigrationSet,
  migrateTenant,
} from './migrations.ts'
export { PostgresTenantStore, postgresTenantStore } from './postgres-tenant-store.ts'
export type { RowIsolationRole } from './row-isolation/expressions.ts'
export {
  type RowIsolationFinding,
  type RowIsolationFindingCode,
  type RowIsolationSeverity,
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
export { TenantPool, type TransactionQuery } from './tenant-pool.ts'
export type { TenantPoolOptions } from './tenant-pool-options.ts'
export {
  createGateRole,
  createTenantRole,
  dropTenantRole,
  type TenantRoleOptions,
} from './tenant-roles.ts'
export { createTenantSchema } from './tenant-schema.ts'
