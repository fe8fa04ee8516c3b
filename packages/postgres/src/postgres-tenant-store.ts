import {
  assertKnownKeys,
  assertNoPhysicalConflict,
  createTenant,
  TenancyError,
  type Tenant,
  type TenantInput,
  type TenantSelector,
  type TenantStatus,
  type TenantStore,
  tenantPlace,
} from '@partywall/core'
import type pg from 'pg'
import { watchChannel } from './internal/watch-channel.ts'
import { withTransaction } from './internal/with-transaction.ts'

const CHANNEL = 'partywall_tenant_changed'
const PLACE_CONSTRAINT = 'tenants_place_once'

const SCHEMA_SQL = `
create schema if not exists partywall;
create table if not exists partywall.tenants (
  id text primary key,
  name text not null,
  status text not null check (status in ('provisioning', 'active', 'suspended', 'archived', 'deleted')),
  isolation text not null check (isolation in ('schema', 'row', 'database')),
  placement jsonb not null,
  place text not null constraint ${PLACE_CONSTRAINT} unique,
  tags text[] not null,
  ingress boolean not null,
  release jsonb,
  settings jsonb not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table if not exists partywall.tenant_domains (
  domain text primary key,
  tenant_id text not null references partywall.tenants (id)
);
create index if not exists tenant_domains_tenant_id on partywall.tenant_domains (tenant_id);
create or replace function partywall.tell_tenant_change() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  perform pg_notify('${CHANNEL}', case when tg_op = 'DELETE' then old.id else new.id end);
  return null;
end $$;
create or replace function partywall.keep_tenant_id() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  raise exception 'a tenant id is never given out twice: set the status to deleted instead';
end $$;
create or replace function partywall.tell_domain_change() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  if tg_op <> 'INSERT' then perform pg_notify('${CHANNEL}', old.tenant_id); end if;
  if tg_op <> 'DELETE' then perform pg_notify('${CHANNEL}', new.tenant_id); end if;
  return null;
end $$;
create or replace trigger tell_change after insert or update or delete on partywall.tenant_domains for each row execute function partywall.tell_domain_change();
create or replace trigger keep_all before truncate on partywall.tenants for each statement execute function partywall.keep_tenant_id();
create or replace trigger tell_change after insert or update or delete on partywall.tenants for each row execute function partywall.tell_tenant_change();
create or replace trigger keep_id before delete or update of id on partywall.tenants for each row execute function partywall.keep_tenant_id();
`

interface Row {
  readonly id: string
  readonly name: string
  readonly status: Tenant['status']
  readonly isolation: Tenant['isolation']
  readonly placement: Tenant['placement']
  readonly tags: string[]
  readonly ingress: boolean
  readonly release: Tenant['release'] | null
  readonly settings: Tenant['settings']
  readonly domains: string[]
}

const SELECT = `select t.id, t.name, t.status, t.isolation, t.placement, t.tags, t.ingress, t.release, t.settings,
  array(select d.domain from partywall.tenant_domains d where d.tenant_id = t.id order by 1) as domains
  from partywall.tenants t`

export interface PostgresTenantStoreOptions {
  /**
   * `'off'`: changes are not listened for, and a cached tenant changes when its time is up (`lookup.maxAgeMs`). Needed behind a pooler that shares connections: a LISTEN would stay with whoever comes next.
   * @defaultValue `'listen'`
   */
  readonly watch?: 'listen' | 'off' | undefined
}

/**
 * Tenants in Postgres, in the schema `partywall`. Changes reach every process by LISTEN/NOTIFY, also those made by hand, because a trigger tells of them.
 *
 * `migrate` once before the first use. A deleted tenant stays as a tombstone, so that its id is never given out again; `findById` gives it with the status `deleted`, which no one may enter.
 */
export class PostgresTenantStore implements TenantStore {
  readonly #pool: pg.Pool

  /** Listens on a connection of its own, which is opened again when it breaks; what changed in between is covered by `'*'`. */
  readonly watch?: (onChange: (id: string) => void) => Promise<AsyncDisposable>

  /**
   * @param pool - a plain pool (`TenantPool.central`, or one of your own). It is not closed by the store.
   * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`.
   */
  constructor(pool: pg.Pool, options: PostgresTenantStoreOptions = {}) {
    assertKnownKeys('PostgresTenantStore', options, ['watch'])
    const { watch = 'listen' } = options
    if (watch !== 'listen' && watch !== 'off')
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `watch must be 'listen' or 'off', got ${String(watch)}.`,
      )
    this.#pool = pool
    if (watch === 'listen')
      this.watch = (onChange) => watchChannel(pool.options, CHANNEL, onChange, () => onChange('*'))
  }

  /** Creates what the store needs; safe to repeat and to race. */
  async migrate(): Promise<void> {
    await withTransaction(this.#pool, async (client) => {
      await client.query("select pg_advisory_xact_lock(hashtextextended('partywall:store', 0))")
      await client.query(SCHEMA_SQL)
    })
  }

  /**
   * Adds a tenant.
   *
   * @throws {TenancyError} `ERR_TENANCY_TENANT_EXISTS` if the id is or was in use or a domain is another tenant's, `ERR_TENANCY_PHYSICAL_NAME_CONFLICT`, and whatever `createTenant` throws.
   */
  async create(input: TenantInput): Promise<Tenant> {
    const tenant = createTenant(input)
    return withTransaction(this.#pool, async (client) => {
      await client.query(
        "select pg_advisory_xact_lock(hashtextextended('partywall:store:create', 0))",
      )
      // Only names that were cut to 63 bytes can meet, and then they begin alike.
      const { rows } = await client.query<{ id: string }>(
        'select id from partywall.tenants where left(id, 40) = left($1, 40)',
        [tenant.id],
      )
      if (rows.some(({ id }) => id === tenant.id))
        throw new TenancyError(
          'ERR_TENANCY_TENANT_EXISTS',
          `Tenant ${tenant.id} exists or has existed.`,
          { tenantId: tenant.id },
        )
      assertNoPhysicalConflict(
        tenant.id,
        rows.map(({ id }) => id),
      )
      await write(
        client,
        'insert into partywall.tenants (id, name, status, isolation, placement, tags, ingress, release, settings, place) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)',
        tenant,
      )
      await this.#setDomains(client, tenant)
      return tenant
    })
  }

  /**
   * Changes members of a tenant; the id stays. A deleted tenant stays deleted.
   *
   * @param condition - `ifStatus`: only if the tenant has this status at the moment of the change.
   * @throws {TenancyError} `ERR_TENANCY_TENANT_UNKNOWN`, `ERR_TENANCY_TENANT_CHANGED` if the condition does not hold, `ERR_TENANCY_TENANT_EXISTS` if a domain is another tenant's, and whatever `createTenant` throws.
   */
  async update(
    id: string,
    changes: Partial<Omit<TenantInput, 'id'>>,
    { ifStatus }: { readonly ifStatus?: TenantStatus | undefined } = {},
  ): Promise<Tenant> {
    return withTransaction(this.#pool, async (client) => {
      const { rows } = await client.query<Row>(
        `${SELECT} where t.id = $1 and t.status <> 'deleted' for update of t`,
        [id],
      )
      const [row] = rows
      if (row === undefined)
        throw new TenancyError('ERR_TENANCY_TENANT_UNKNOWN', `There is no tenant ${id}.`)
      if (ifStatus !== undefined && row.status !== ifStatus)
        throw new TenancyError(
          'ERR_TENANCY_TENANT_CHANGED',
          `Tenant ${id} is ${row.status} and not ${ifStatus} any more.`,
          { tenantId: id },
        )
      const tenant = createTenant({ ...tenantOf(row), ...changes, id })
      await write(
        client,
        'update partywall.tenants set name = $2, status = $3, isolation = $4, placement = $5, tags = $6, ingress = $7, release = $8, settings = $9, place = $10, updated_at = now() where id = $1',
        tenant,
      )
      await this.#setDomains(client, tenant)
      return tenant
    })
  }

  /** Turns a tenant into a tombstone and frees its domains. Tells whether there was one. Its data is not touched. */
  async delete(id: string): Promise<boolean> {
    return withTransaction(this.#pool, async (client) => {
      const { rowCount } = await client.query(
        "update partywall.tenants set status = 'deleted', updated_at = now() where id = $1 and status <> 'deleted'",
        [id],
      )
      await client.query('delete from partywall.tenant_domains where tenant_id = $1', [id])
      return rowCount === 1
    })
  }

  async findById(id: string): Promise<Tenant | undefined> {
    return this.#find('t.id = $1', id)
  }

  async findByDomain(domain: string): Promise<Tenant | undefined> {
    return this.#find(
      't.id = (select d.tenant_id from partywall.tenant_domains d where d.domain = $1)',
      domain,
    )
  }

  /** Reads in pages, so that neither the number of tenants nor a slow reader holds a connection. */
  async *list({
    ids,
    tags,
    status = ['active'],
    isolation,
  }: TenantSelector = {}): AsyncGenerator<Tenant> {
    const page = 500
    let after = ''
    for (;;) {
      const { rows } = await this.#pool.query<Row>(
        `${SELECT} where t.id collate "C" > $1 and t.status = any($2) and ($3::text[] is null or t.id = any($3)) and ($4::text[] is null or t.tags && $4)
         and ($5::text[] is null or t.isolation = any($5)) order by t.id collate "C" limit ${page}`,
        [after, status, ids ?? null, tags ?? null, isolation ?? null],
      )
      for (const row of rows) yield tenantOf(row)
      const last = rows.at(-1)
      if (last === undefined || rows.length < page) return
      after = last.id
    }
  }

  async #find(condition: string, value: string): Promise<Tenant | undefined> {
    const { rows } = await this.#pool.query<Row>(`${SELECT} where ${condition}`, [value])
    const [row] = rows
    return row === undefined ? undefined : tenantOf(row)
  }

  async #setDomains(client: pg.PoolClient, { id, domains }: Tenant): Promise<void> {
    await client.query(
      'delete from partywall.tenant_domains where tenant_id = $1 and domain <> all($2)',
      [id, domains],
    )
    const { rows } = await client.query<{ domain: string }>(
      `insert into partywall.tenant_domains (domain, tenant_id) select unnest($2::text[]), $1
       on conflict (domain) do update set tenant_id = excluded.tenant_id where tenant_domains.tenant_id = excluded.tenant_id returning domain`,
      [id, domains],
    )
    const taken = domains.find((domain) => !rows.some((row) => row.domain === domain))
    if (taken !== undefined)
      throw new TenancyError(
        'ERR_TENANCY_TENANT_EXISTS',
        `The domain ${taken} belongs to another tenant.`,
        { tenantId: id },
      )
  }
}

/** Makes a {@link PostgresTenantStore}. */
export function postgresTenantStore(
  pool: pg.Pool,
  options?: PostgresTenantStoreOptions,
): PostgresTenantStore {
  return new PostgresTenantStore(pool, options)
}

function tenantOf({ release, ...row }: Row): Tenant {
  return createTenant({ ...row, ...(release === null ? {} : { release }) })
}

function values(tenant: Tenant): unknown[] {
  const { id, name, status, isolation, placement, tags, ingress, release, settings } = tenant
  return [
    id,
    name,
    status,
    isolation,
    JSON.stringify(placement),
    tags,
    ingress,
    release === undefined ? null : JSON.stringify(release),
    JSON.stringify(settings),
    tenantPlace(tenant),
  ]
}

/** Writes a tenant. Whoever races for a place finds out by the unique constraint. */
async function write(client: pg.PoolClient, sql: string, tenant: Tenant): Promise<void> {
  try {
    await client.query(sql, values(tenant))
  } catch (error) {
    if ((error as { constraint?: unknown }).constraint !== PLACE_CONSTRAINT) throw error
    throw new TenancyError(
      'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
      `Tenant ${tenant.id} would share its place with another tenant.`,
      { tenantId: tenant.id, cause: error },
    )
  }
}
