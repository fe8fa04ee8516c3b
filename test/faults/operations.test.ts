import { createTenant, type Tenant } from '@partywall/core'
import {
  createMigration,
  createSchemaFromSql,
  createTenantSchema,
  dropTenantSchema,
  migrateTenant,
  renameTenantSchema,
  type TenantPool,
} from '@partywall/postgres'
import {
  canary,
  createFaultProxy,
  eventually,
  type FaultProxy,
  outcomeOf,
} from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createVariantWorld, VARIANTS, type VariantWorld } from '../isolation/variant-world.ts'
import { expectNominal, within } from './fault-fixture.ts'
import { type FaultPoint, findFaultPoints, setFault } from './statement-faults.ts'

let world: VariantWorld
let proxy: FaultProxy
let acme: Tenant
let fresh: Tenant
let renamed: Tenant

/** Something that is done to a tenant's schema, all of it or nothing. */
interface Operation {
  readonly name: string
  /** Brings the tenant to where it was before. */
  readonly reset: () => Promise<unknown>
  readonly run: (pool: TenantPool) => Promise<unknown>
  /** Whether it may be done once more without knowing how the first time ended. */
  readonly repeatable: boolean
  /** What may stand between before and after, if anything may. */
  readonly between?: (state: string) => boolean
  /** It runs outside of every tenant, so that it is the same in all variants. */
  readonly central: boolean
}

const SQL = 'create table one (id int primary key); create view two as select id from one'
const SET = {
  name: 'shop',
  migrations: [
    createMigration('001', 'create table orders (id int primary key, owner text)'),
    createMigration(
      '002',
      "insert into orders values (1, 'first'); alter table orders add column paid boolean",
    ),
  ],
  requires: ['orders.paid'],
}

/** Everything in the schemas of the tenants that are worked on, and whose they are. */
async function stateOf(): Promise<string> {
  const { rows } = await world.db.query<{ state: string }>(
    `select coalesce(string_agg(line, '; ' order by line), '') as state from (
       select n.nspname || ' is of ' || coalesce(obj_description(n.oid, 'pg_namespace'), 'nobody') as line from pg_namespace n where n.nspname = any($1)
       union all select c.oid::regclass::text || ' ' || c.relkind::text || ' ' || (select string_agg(a.attname, ',' order by a.attnum) from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
         from pg_class c where c.relnamespace = any (select oid from pg_namespace where nspname = any($1)) and c.relkind in ('r', 'v')
       union all select unit || ' ' || owner from "${acme.id}".log) lines`,
    [[acme.id, fresh.id, renamed.id]],
  )
  const ledger = await world.db
    .query(`select id from "${acme.id}".partywall_migrations order by id`)
    .then(
      ({ rows: applied }) => JSON.stringify(applied),
      () => 'none',
    )
  return `${rows[0]?.state ?? ''}; migrations: ${ledger}`
}

/** A pool that no fault reaches. */
let steady: TenantPool

const dropFresh = async (): Promise<void> => {
  await world.db.query(
    `drop schema if exists "${fresh.id}" cascade; drop schema if exists "${renamed.id}" cascade`,
  )
}
const makeFresh = async (): Promise<void> => {
  await dropFresh()
  await createSchemaFromSql(steady.central, fresh, SQL)
}

const OPERATIONS: Operation[] = [
  {
    name: 'pool.transaction',
    reset: () => world.clearLogs(),
    run: (pool) =>
      world.as(acme.id, () =>
        pool.transaction(async (query) => {
          await query('insert into log values ($1, $2)', ['1', canary(acme.id, 1)])
          await query(`insert into log values ('2', '${canary(acme.id, 2)}')`)
          await query('update log set unit = unit || $1', ['!'])
        }),
      ),
    central: false,
    repeatable: false,
  },
  {
    name: 'migrateTenant',
    central: false,
    repeatable: true,
    reset: () =>
      world.db.query(`drop table if exists "${acme.id}".orders, "${acme.id}".partywall_migrations`),
    run: (pool) => world.as(acme.id, () => migrateTenant(world.tenancy, pool, SET)),
  },
  {
    name: 'createTenantSchema',
    central: true,
    repeatable: true,
    reset: dropFresh,
    run: (pool) => createTenantSchema(pool.central, fresh),
  },
  {
    name: 'createSchemaFromSql',
    central: true,
    repeatable: true,
    reset: dropFresh,
    run: (pool) => createSchemaFromSql(pool.central, fresh, SQL),
  },
  {
    name: 'renameTenantSchema',
    central: true,
    repeatable: true,
    reset: makeFresh,
    run: (pool) => renameTenantSchema(pool.central, fresh, renamed),
  },
  {
    name: 'dropTenantSchema',
    central: true,
    repeatable: true,
    reset: makeFresh,
    run: (pool) => dropTenantSchema(pool.central, fresh, { confirm: fresh.id }),
    // In many small transactions: what is left is still marked as the tenant's.
    between: (state) => state.includes(`${fresh.id} is of partywall tenant ${fresh.id}`),
  },
]

/** The error of the driver behind one of ours. */
const rooted = (promise: Promise<unknown>): Promise<unknown> =>
  promise.catch((error: Error) => {
    throw error.cause instanceof Error ? error.cause : error
  })

/** Sessions of the pools that faults reach. */
const APPLICATION = 'operated'

async function expectNominalCentral({ central }: TenantPool): Promise<void> {
  await eventually(async () => (await central.query('select 1')).rowCount === 1)
  await eventually(() => central.idleCount === central.totalCount && central.waitingCount === 0)
}

// Whether statements are prepared makes no difference to what is sent here.
describe.each([VARIANTS.schema, VARIANTS.role])('F3 $name: operations', (variant) => {
  beforeAll(async () => {
    world = await createVariantWorld(variant)
    proxy = await createFaultProxy(world.url)
    steady = world.openPool()
    const [acmeId] = world.tenants
    acme = createTenant({ id: acmeId })
    fresh = createTenant({ id: acmeId.replace('acme', 'fresh') })
    renamed = createTenant({ id: acmeId.replace('acme', 'renamed') })
  })
  afterAll(async () => {
    await world[Symbol.asyncDispose]()
    await proxy[Symbol.asyncDispose]()
  })

  /** Runs on a pool of its own behind the proxy, and comes back when the server has done with it. */
  async function withPool<T>(fn: (pool: TenantPool) => Promise<T>): Promise<T> {
    const central = Object.assign(new URL(world.db.url), { host: new URL(proxy.url).host }).href
    const pool = world.openPool({
      max: 1,
      connectionString: proxy.url,
      application_name: APPLICATION,
      central: { connectionString: central, application_name: APPLICATION },
    })
    try {
      return await fn(pool)
    } finally {
      await pool.end()
      await eventually(
        async () => {
          const { rowCount } = await world.db.query(
            'select from pg_stat_activity where application_name = $1 and datname = current_database()',
            [APPLICATION],
          )
          return rowCount === 0
        },
        { intervalMs: 2 },
      )
    }
  }

  const operations = OPERATIONS.filter(({ central }) => !central || variant === VARIANTS.schema)
  it.each(operations)(
    'F3 $name: cut short at each of its statements, it has happened or has not, and can be repeated',
    async ({ reset, run, repeatable, between, central }) => {
      await reset()
      const before = await stateOf()
      const points: FaultPoint[] = await withPool((pool) => findFaultPoints(proxy, () => run(pool)))
      const after = await stateOf()
      expect(after).not.toBe(before)
      expect(points.length).toBeGreaterThan(5)
      const seen = { before: 0, after: 0, between: 0 }
      for (const point of points) {
        const where = JSON.stringify(point)
        await reset()
        expect(await stateOf()).toBe(before)
        await withPool(async (pool) => {
          setFault(proxy, point)
          // It is told that something went wrong, whether or not it had happened.
          expect(await within(5_000, outcomeOf(rooted(run(pool)))), where).toBe(
            point.fault === 'cancelled' ? '57014' : 'gone',
          )
          proxy.heal()
          if (central) await expectNominalCentral(pool)
          else await expectNominal(world, pool)
        })
        const state = await stateOf()
        if (state === before) seen.before++
        else if (state === after) seen.after++
        else {
          expect(between?.(state), `${where} left ${state}`).toBe(true)
          seen.between++
        }
        if (!repeatable) continue
        await run(steady)
        expect(await stateOf(), where).toBe(after)
      }
      // The faults met the operation on both sides of its end.
      expect(seen.before).toBeGreaterThan(2)
      expect(seen.after).toBeGreaterThan(0)
      expect(seen.between > 0).toBe(between !== undefined)
    },
    60_000,
  )
})
