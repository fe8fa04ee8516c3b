import { physicalName } from './physical-names.ts'
import type { Tenant } from './tenant.ts'

/**
 * Where a tenant's tables are, as one string. Two tenants of one place would read each other's rows, so a store gives a place out once, also for tombstones; only `row` isolation
 * shares places, by its nature.
 */
export function tenantPlace({ id, isolation, placement }: Tenant): string {
  const { cluster = '', database = '', schema } = placement
  if (isolation === 'row') return `rows of ${id}`
  const place =
    isolation === 'schema'
      ? [cluster, database, schema ?? physicalName('schema', id)]
      : [cluster, database || physicalName('database', id), schema ?? '']
  return `place ${JSON.stringify(place)}`
}
