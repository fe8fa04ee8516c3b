import {
  type Tenancy,
  TenancyError,
  type TenantPlacement,
  type TenantStatus,
} from '@partywall/core'
import type { DatabaseEngine } from '../internal/citus.ts'
import { schemaOf } from '../search-path.ts'

/** What the lints compare the catalogue with. */
export interface DoctorFacts {
  readonly loginRole: string
  /** `server_version_num`. */
  readonly serverVersion: number
  readonly sharedSchemas: readonly string[]
  /** What the tenants' schemas are to be on. */
  readonly engine?: DatabaseEngine | undefined
  /** Absent without a tenancy, and where its store could not tell. */
  readonly tenants?: TenantFacts | undefined
  readonly unverifiedSources?: readonly string[] | undefined
  /** What is wrong between the pool and the server. Absent without a pool, and where nothing could be told. */
  readonly pooler?: readonly string[] | undefined
}

export interface TenantFacts {
  /** Every id that was ever given out, tombstones included: what a mark may name. */
  readonly ids: readonly string[]
  /** The schemas of this database that records name. */
  readonly places: readonly { readonly tenantId: string; readonly schema: string }[]
  /** Records whose schema is no name that Postgres would keep. */
  readonly invalid: readonly string[]
}

const EVERY_STATUS = [
  'provisioning',
  'active',
  'suspended',
  'archived',
  'deleted',
] as const satisfies readonly TenantStatus[]

/**
 * Reads the tenants of the store.
 *
 * @param place - whose schemas are compared: those of tenants whose records name it.
 *
 * @throws {TenancyError} as `tenancy.forEach` does: a store that fails or cannot list, a tenant that is active.
 */
export async function readTenants(
  tenancy: Tenancy,
  place: Pick<TenantPlacement, 'cluster' | 'database'>,
): Promise<TenantFacts> {
  const visits = await tenancy.forEach({ status: EVERY_STATUS }, ({ tenant }) => tenant)
  const ids: string[] = []
  const places: { tenantId: string; schema: string }[] = []
  const invalid: string[] = []
  for (const visit of visits) {
    ids.push(visit.tenantId)
    if (!visit.ok) continue
    const { isolation, placement, status } = visit.value
    const elsewhere = placement.cluster !== place.cluster || placement.database !== place.database
    if (isolation !== 'schema' || elsewhere || status === 'deleted') continue
    try {
      places.push({ tenantId: visit.tenantId, schema: schemaOf(visit.value) })
    } catch (error) {
      // A record that was written by hand must not hide what is wrong with the others.
      if (!TenancyError.is(error)) throw error
      invalid.push(`tenant ${visit.tenantId}: ${error.message}`)
    }
  }
  return { ids, places, invalid }
}
