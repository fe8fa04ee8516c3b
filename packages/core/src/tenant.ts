import { TenancyError } from './errors.ts'
import { isCanonicalDomain } from './internal/canonical-host.ts'
import { deepFreeze } from './internal/deep-freeze.ts'
import { describeValue } from './internal/describe-value.ts'
import { copyJson } from './internal/json-value.ts'
import { assertKnownKeys } from './known-keys.ts'
import { assertTenantId } from './tenant-id.ts'

/** Where a tenant is in its life. Only an `active` tenant is served. */
export type TenantStatus = 'provisioning' | 'active' | 'suspended' | 'archived' | 'deleted'

/** How the rows of a tenant are kept apart from those of others. */
export type TenantIsolation = 'schema' | 'row' | 'database'

/** Where a tenant's data lives. Absent members mean the default cluster, database and schema name. */
export interface TenantPlacement {
  readonly cluster?: string
  readonly database?: string
  readonly schema?: string
}

/** The release that a tenant runs, and the plugin versions that it pins. */
export interface TenantRelease {
  readonly name: string
  /** Plugin name to exact version. A plugin that is not named here is not pinned. */
  readonly plugins: Readonly<Record<string, string>>
}

/** One customer's isolated world, as its store knows it. Frozen, at every depth. */
export interface Tenant {
  readonly id: string
  /** For people; defaults to the id. */
  readonly name: string
  readonly status: TenantStatus
  readonly isolation: TenantIsolation
  readonly placement: TenantPlacement
  readonly tags: readonly string[]
  /** Custom domains, verified, lower-case, without a trailing dot. */
  readonly domains: readonly string[]
  /** `false`: no request reaches the tenant; jobs and scripts still do. */
  readonly ingress: boolean
  readonly release?: TenantRelease
  /** Settings of the application for this tenant; JSON values. */
  readonly settings: Readonly<Record<string, unknown>>
}

/** What {@link createTenant} takes: an id, and whatever differs from the defaults. */
export type TenantInput = Pick<Tenant, 'id'> & {
  readonly [K in Exclude<keyof Tenant, 'id'>]?: Tenant[K] | undefined
}

const STATUSES: readonly TenantStatus[] = [
  'provisioning',
  'active',
  'suspended',
  'archived',
  'deleted',
]
const ISOLATIONS: readonly TenantIsolation[] = ['schema', 'row', 'database']
const KEYS = [
  'id',
  'name',
  'status',
  'isolation',
  'placement',
  'tags',
  'domains',
  'ingress',
  'release',
  'settings',
] as const

const genuine = new WeakSet<object>()

/**
 * Builds a tenant from its record: checks every member, fills in defaults (`status: 'active'`, `isolation: 'schema'`,
 * `ingress: true`, the rest empty), copies and freezes it.
 *
 * @throws {TenancyError} `ERR_TENANCY_IDENTIFIER_INVALID` for the id, `ERR_TENANCY_TENANT_INVALID` for any other member.
 */
export function createTenant(input: TenantInput): Tenant {
  if (typeof input !== 'object' || input === null)
    throw new TenancyError(
      'ERR_TENANCY_TENANT_INVALID',
      `A tenant must be an object, got ${describeValue(input)}.`,
    )
  const id = assertTenantId(input.id)
  const invalid = (member: string, expected: string, value: unknown): never => {
    throw new TenancyError(
      'ERR_TENANCY_TENANT_INVALID',
      `${member} of tenant ${id} must be ${expected}, got ${describeValue(value)}.`,
      { tenantId: id },
    )
  }
  assertKnownKeys(`tenant ${id}`, input, KEYS, 'ERR_TENANCY_TENANT_INVALID')
  const { name = id, status = 'active', isolation = 'schema', ingress = true } = input
  const { placement = {}, tags = [], domains = [], release, settings = {} } = input
  if (typeof name !== 'string' || name.length === 0 || name.length > 200)
    invalid('name', 'a string of 1 to 200 characters', name)
  if (!STATUSES.includes(status)) invalid('status', `one of ${STATUSES.join(', ')}`, status)
  if (!ISOLATIONS.includes(isolation))
    invalid('isolation', `one of ${ISOLATIONS.join(', ')}`, isolation)
  if (typeof ingress !== 'boolean') invalid('ingress', 'a boolean', ingress)
  if (!isRecord(placement)) invalid('placement', 'an object', placement)
  for (const [key, value] of Object.entries(placement))
    if (!['cluster', 'database', 'schema'].includes(key) || typeof value !== 'string' || !value)
      invalid(`placement.${key}`, 'a non-empty string under cluster, database or schema', value)
  if (!isStringList(tags)) invalid('tags', 'a list of non-empty strings', tags)
  if (!isStringList(domains)) invalid('domains', 'a list of non-empty strings', domains)
  // Any other spelling would never match a request, and would get past the check that a domain has one owner.
  for (const domain of domains)
    if (!isCanonicalDomain(domain))
      invalid('domains', 'DNS names in lower case without a trailing dot', domain)
  if (!isRecord(settings)) invalid('settings', 'an object', settings)
  if (release !== undefined && !isRelease(release))
    invalid('release', 'an object { name, plugins }', release)
  const tenant: Tenant = deepFreeze({
    id,
    name,
    status,
    isolation,
    placement: { ...placement },
    tags: [...new Set(tags)],
    domains: [...new Set(domains)],
    ingress,
    ...(release === undefined
      ? {}
      : { release: { name: release.name, plugins: { ...release.plugins } } }),
    settings: copySettings(settings, invalid),
  })
  genuine.add(tenant)
  return tenant
}

/** @internal The record itself if `createTenant` made it, otherwise a checked and frozen copy. @throws {TenancyError} as `createTenant` does. */
export function ensureTenant(record: TenantInput): Tenant {
  return genuine.has(record) ? (record as Tenant) : createTenant(record)
}

function copySettings(
  settings: Readonly<Record<string, unknown>>,
  invalid: (member: string, expected: string, value: unknown) => never,
): Record<string, unknown> {
  try {
    return copyJson(settings) as Record<string, unknown>
  } catch {
    return invalid('settings', 'an object of JSON values', settings)
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isStringList(value: unknown): value is readonly string[] {
  return (
    Array.isArray(value) && value.every((entry) => typeof entry === 'string' && entry.length > 0)
  )
}

function isRelease(value: unknown): value is TenantRelease {
  return (
    isRecord(value) &&
    typeof value['name'] === 'string' &&
    isRecord(value['plugins']) &&
    Object.values(value['plugins']).every((version) => typeof version === 'string')
  )
}
