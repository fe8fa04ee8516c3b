import { createHash } from 'node:crypto'
import { TenancyError } from './errors.ts'
import { describeValue } from './internal/describe-value.ts'
import { assertTenantId } from './tenant-id.ts'

/** What a physical name is for. */
export type PhysicalKind = 'schema' | 'role' | 'database' | 'queue' | 'file'

/** Postgres cuts identifiers to NAMEDATALEN - 1 bytes, with a notice only (manual, 4.1.1). */
export const MAX_PHYSICAL_NAME_BYTES = 63

const PREFIX: Readonly<Record<PhysicalKind, string>> = {
  // As in the Xcore documentation: the schema is called as the tenant.
  schema: '',
  // Roles and databases are names of the whole server, where others may live too.
  role: 'tenant-',
  database: 'tenant-',
  queue: '',
  file: '',
}

const HASH_LENGTH = 12

/**
 * The name of a tenant's schema, role, database, queue or file. The one place where such names are made.
 *
 * The result is at most 63 bytes of `[a-z0-9-]`. A name that would be longer is cut and ends in 12 hexadecimal digits of the SHA-256
 * of the id, so that two long ids never share one. Deterministic, and different for different ids within one kind as far as the
 * hash goes; {@link assertNoPhysicalConflict} checks the rest before anything is created.
 *
 * @throws {TenancyError} `ERR_TENANCY_IDENTIFIER_INVALID` if `tenantId` is none, `ERR_TENANCY_OPTION_INVALID` for an unknown kind.
 */
export function physicalName(kind: PhysicalKind, tenantId: string): string {
  if (!Object.hasOwn(PREFIX, kind))
    throw new TenancyError('ERR_TENANCY_OPTION_INVALID', `There is no kind ${describeValue(kind)}.`)
  const name = PREFIX[kind] + assertTenantId(tenantId)
  // Ids are ASCII, so characters are bytes.
  if (name.length <= MAX_PHYSICAL_NAME_BYTES) return name
  const hash = createHash('sha256').update(tenantId).digest('hex').slice(0, HASH_LENGTH)
  return `${name.slice(0, MAX_PHYSICAL_NAME_BYTES - HASH_LENGTH - 1)}-${hash}`
}

/** @internal */
export const PHYSICAL_KINDS = Object.keys(PREFIX) as PhysicalKind[]

/**
 * Refuses a tenant id if one of its physical names is already that of another tenant.
 *
 * @throws {TenancyError} `ERR_TENANCY_PHYSICAL_NAME_CONFLICT`.
 */
export function assertNoPhysicalConflict(tenantId: string, others: Iterable<string>): void {
  for (const other of others) {
    if (other === tenantId) continue
    for (const kind of PHYSICAL_KINDS) {
      const name = physicalName(kind, tenantId)
      if (name === physicalName(kind, other))
        throw new TenancyError(
          'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
          `Tenant ${tenantId} would share the ${kind} "${name}" with another tenant.`,
          { tenantId },
        )
    }
  }
}
