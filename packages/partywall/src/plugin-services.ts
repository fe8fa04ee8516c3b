import {
  definePlugin as defineAnyPlugin,
  type Plugin,
  type PluginInput,
  type PluginServices,
} from '@partywall/core'
import type { TenantPool } from '@partywall/postgres'
import type { Kysely } from 'kysely'
import type { PluginCache } from './plugin-cache.ts'
import type { PluginScheduler } from './plugin-scheduler.ts'

/**
 * What the functions of a plugin are handed under `createPartywall`. All of it belongs to one tenant.
 *
 * @typeParam Database - the tables that `db` knows, in the form of Kysely.
 */
// `any`: without a declaration, Kysely takes every table.
export interface PartywallServices<Database = any> extends PluginServices {
  /** Typed SQL on the tenant's tables. Without the package kysely, using it throws `ERR_TENANCY_PEER_MISSING`. */
  readonly db: Kysely<Database>
  /** The same tables by plain SQL; a `pg.Pool`. */
  readonly pool: TenantPool
  /** Entries of this plugin alone. */
  readonly cache: PluginCache
  /** Jobs and schedules of this plugin alone. */
  readonly scheduler: PluginScheduler
}

/**
 * Defines a plugin for `createPartywall`: what `definePlugin` of `@partywall/core` does, with the services typed.
 *
 * @typeParam Database - the tables that `db` knows: `definePlugin<{ orders: OrdersTable }>({ ... })`.
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`, naming the member at fault.
 */
export function definePlugin<Database = any>(
  input: PluginInput<PartywallServices<Database>>,
): Plugin<PartywallServices<Database>> {
  return defineAnyPlugin<PartywallServices<Database>>(input)
}
