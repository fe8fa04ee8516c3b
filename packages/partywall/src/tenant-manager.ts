import { isDeepStrictEqual } from 'node:util'
import {
  assertKnownKeys,
  assertTenantId,
  createTenant,
  type Tenancy,
  TenancyError,
  type Tenant,
  type TenantInput,
  type TenantSelector,
} from '@partywall/core'
import type { PostgresTenantStore } from '@partywall/postgres'
import { finalStatusOf } from './internal/final-status.ts'
import type { Provisioner, ProvisioningStep } from './internal/provisioner.ts'
import type { TenantConfig } from './partywall-config.ts'

export interface CreateTenantOptions {
  /** Fills the tenant, once, after the seeds of the plugins. Runs in the tenant. */
  readonly seed?: TenantConfig['seed']
  /**
   * Goes on with a creation of the same record that did not come to its end, after a crash or an error. Without it, such a record is somebody else's: two customers who sign up with one id must not both get
   * the tenant. @defaultValue `false`
   */
  readonly resume?: boolean | undefined
  /** Told each step when it is done, and how many milliseconds it took. */
  readonly onStep?: ((step: ProvisioningStep, durationMs: number) => void) | undefined
}

/** What `update` may change. Status, isolation and place have operations of their own, now or in a later version. */
export type TenantChanges = Partial<
  Pick<TenantInput, 'name' | 'tags' | 'domains' | 'ingress' | 'release' | 'settings'>
>

/** What says that somebody else creates the same tenant. */
const OVERTAKEN = new Set<string>(['ERR_TENANCY_TENANT_EXISTS', 'ERR_TENANCY_TENANT_CHANGED'])

const CHANGES = ['name', 'tags', 'domains', 'ingress', 'release', 'settings']

/** Creates, changes, suspends and lists tenants: `wall.tenants`. Central work, which is audited; it enters each tenant by itself. */
export class TenantManager {
  readonly #tenancy: Tenancy
  readonly #store: PostgresTenantStore
  readonly #provisioner: Provisioner
  readonly #defaultTenant: string | undefined

  /** @internal */
  constructor(
    tenancy: Tenancy,
    store: PostgresTenantStore,
    provisioner: Provisioner,
    defaultTenant: string | undefined,
  ) {
    this.#tenancy = tenancy
    this.#store = store
    this.#provisioner = provisioner
    this.#defaultTenant = defaultTenant
  }

  /**
   * Creates a tenant: its record, its schema, the migrations of its plugins, their seeds, its own seed, their schedules; then it is active (or suspended, if the input says so).
   *
   * After a crash or an error, the same call with `resume: true` goes on where it stopped, or finds the tenant ready; each step is safe to repeat. An id is given out once: of two calls that race for it, one is refused.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_TENANT_EXISTS`, `ERR_TENANCY_TENANT_INVALID`, `ERR_TENANCY_IDENTIFIER_INVALID`, `ERR_TENANCY_PHYSICAL_NAME_CONFLICT`, `ERR_TENANCY_MIGRATION_*`,
   * `ERR_TENANCY_PLUGIN_VERSION_*`, `ERR_TENANCY_CLOSED`, and whatever a seed throws.
   */
  async create(input: TenantInput, options: CreateTenantOptions = {}): Promise<Tenant> {
    assertKnownKeys('tenants.create options', options, ['seed', 'resume', 'onStep'])
    const { seed, resume = false, onStep } = options
    const status = finalStatusOf(input, this.#defaultTenant)
    const timed = async <T>(step: ProvisioningStep, fn: () => Promise<T>): Promise<T> => {
      const start = performance.now()
      const result = await fn()
      onStep?.(step, performance.now() - start)
      return result
    }
    return this.#central('provision', input.id, async () => {
      this.#provisioner.assertPlace(createTenant(input))
      const tenant = await timed('record', () => this.#record(input, resume))
      // Resumed, and somebody else has brought it to its end.
      if (tenant.status !== 'provisioning') return tenant
      return this.#provisioner.provision(tenant, status, seed, timed)
    })
  }

  /** The record of a tenant, whatever its status. */
  async get(id: string): Promise<Tenant | undefined> {
    return this.#central('look at', id, () => this.#store.findById(assertTenantId(id)))
  }

  /** Tenants in the order of their ids; by default those that are active. */
  list(selector?: TenantSelector): AsyncIterable<Tenant> {
    return this.#tenancy.central('list tenants', () => this.#store.list(selector))
  }

  /**
   * Changes the record of a tenant. With a `release`, its migrations are applied first; if one fails, the tenant stays on the release that it has.
   *
   * @throws {TenancyError} by rejection: `ERR_TENANCY_TENANT_UNKNOWN`, `ERR_TENANCY_TENANT_INVALID`, `ERR_TENANCY_TENANT_EXISTS` for a domain of another tenant, `ERR_TENANCY_MIGRATION_*`.
   */
  async update(id: string, changes: TenantChanges): Promise<Tenant> {
    assertKnownKeys('tenants.update changes', changes, CHANGES, 'ERR_TENANCY_TENANT_INVALID')
    return this.#central('update', id, async () => {
      const current = await this.#known(id)
      if (changes.release === undefined) return this.#changed(await this.#store.update(id, changes))
      const next = createTenant({ ...current, ...changes })
      await this.#provisioner.enter(id, () => this.#provisioner.migrate(next))
      const updated = this.#changed(await this.#store.update(id, changes))
      await this.#provisioner.enter(id, async () => {
        await this.#provisioner.seed()
        await this.#provisioner.schedule()
      })
      return updated
    })
  }

  /** Takes an active tenant out of service: its requests are refused, its jobs wait, its data stays. Repeating it is harmless. */
  async suspend(id: string): Promise<Tenant> {
    return this.#central('suspend', id, async () => {
      const tenant = await this.#known(id)
      if (tenant.status === 'suspended') return tenant
      this.#assertStatus(tenant, 'active')
      return this.#changed(
        await this.#store.update(id, { status: 'suspended' }, { ifStatus: 'active' }),
      )
    })
  }

  /** Puts a suspended tenant back into service, after the migrations and seeds that it has missed. Repeating it is harmless. */
  async resume(id: string): Promise<Tenant> {
    return this.#central('resume', id, async () => {
      const tenant = await this.#known(id)
      if (tenant.status === 'active') return tenant
      this.#assertStatus(tenant, 'suspended')
      await this.#provisioner.enter(id, async () => {
        await this.#provisioner.migrate(tenant)
        await this.#provisioner.seed()
        await this.#provisioner.schedule()
      })
      return this.#changed(
        await this.#store.update(id, { status: 'active' }, { ifStatus: 'suspended' }),
      )
    })
  }

  /** @internal Provisions what the configuration lists and does not exist. Resolves to the ids that were provisioned now. */
  async ensure(tenants: readonly TenantConfig[]): Promise<Set<string>> {
    const provisioned = new Set<string>()
    for (const { seed, ...input } of tenants) {
      const found = await this.get(input.id)
      if (found?.status === 'deleted')
        throw new TenancyError(
          'ERR_TENANCY_TENANT_EXISTS',
          `The tenant ${input.id} of the configuration was deleted.`,
          { hint: 'A tenant id is never given out twice: remove it from tenants.' },
        )
      if (found !== undefined && found.status !== 'provisioning') continue
      try {
        // The configuration decides, also about a tenant whose first start did not come to its end.
        const { id: _, ...changes } = { ...input, status: 'provisioning' as const }
        if (found !== undefined)
          await this.#store.update(input.id, changes, { ifStatus: 'provisioning' })
        await this.create(input, { seed, resume: true })
        provisioned.add(input.id)
      } catch (error) {
        // Another process started with the same configuration, and was faster.
        if (!TenancyError.is(error) || !OVERTAKEN.has(error.code)) throw error
        if ((await this.get(input.id)) === undefined) throw error
      }
    }
    return provisioned
  }

  /** A new record, or that of a creation of the same one which did not come to its end, or has by now. */
  async #record(input: TenantInput, resume: boolean): Promise<Tenant> {
    const record = createTenant({ ...input, status: 'provisioning' })
    const found = await this.#store.findById(record.id)
    if (found === undefined || found.status === 'deleted') return this.#store.create(record)
    if (resume && sameRecord(found, record)) return found
    const unfinished = found.status === 'provisioning'
    throw new TenancyError(
      'ERR_TENANCY_TENANT_EXISTS',
      `Tenant ${record.id} ${unfinished ? 'is being created' : 'exists'}${resume ? ', with another record' : ''}.`,
      unfinished
        ? {
            tenantId: record.id,
            hint: 'If that creation is yours and did not come to its end, repeat it with resume: true and the same record.',
          }
        : { tenantId: record.id },
    )
  }

  async #known(id: string): Promise<Tenant> {
    const tenant = await this.#store.findById(assertTenantId(id))
    if (tenant !== undefined && tenant.status !== 'deleted') return tenant
    throw new TenancyError('ERR_TENANCY_TENANT_UNKNOWN', `There is no tenant ${id}.`)
  }

  #assertStatus({ id, status }: Tenant, expected: Tenant['status']): void {
    if (status === expected) return
    throw new TenancyError(
      'ERR_TENANCY_TENANT_INVALID',
      `Tenant ${id} is ${status}, and only a tenant that is ${expected} can be changed in this way.`,
      { tenantId: id },
    )
  }

  /** Of this process at once; the others hear of it from the store. */
  #changed(tenant: Tenant): Tenant {
    this.#tenancy.lookup.invalidate(tenant.id)
    return tenant
  }

  async #central<T>(what: string, id: unknown, fn: () => Promise<T>): Promise<T> {
    // Quoted: an id that is none could forge a line of the audit log.
    return this.#tenancy.central(`${what} tenant ${JSON.stringify(String(id).slice(0, 80))}`, fn)
  }
}

/** Whether two records are the same but for how far the tenant has come. Domains have no order. */
function sameRecord(a: Tenant, b: Tenant): boolean {
  const comparable = (tenant: Tenant) => ({
    ...tenant,
    status: undefined,
    domains: [...tenant.domains].sort(),
  })
  return isDeepStrictEqual(comparable(a), comparable(b))
}
