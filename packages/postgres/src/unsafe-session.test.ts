import { setTimeout as sleep } from 'node:timers/promises'
import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { canary, createTestDatabase, eventually, type TestDatabase } from '@partywall/test-support'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { TenantPool } from './tenant-pool.ts'
import type { TenantPoolOptions } from './tenant-pool-options.ts'
import { createGateRole, createTenantRole } from './tenant-roles.ts'

const TENANTS = ['acme', 'globex'] as const
const APPLICATION = 'unsafe sessions'

let db: TestDatabase
let tenancy: Tenancy
let pools: TenantPool[]
let told: { door: string; tenantId: string | undefined; reason: string }[]

beforeEach(async () => {
  db = await createTestDatabase()
  for (const id of TENANTS)
    await db.query(
      `create schema ${id}; create table ${id}.item (id int, owner text); insert into ${id}.item values (1, '${canary(id, 1)}');
       create procedure ${id}.in_batches(last int) language plpgsql as $$ begin
         for n in 2..last loop insert into item values (n, 'canary:${id}:' || n); commit; end loop; raise 'after %', last; end $$`,
    )
  tenancy = createTenancy({
    store: memoryTenantStore([
      ...TENANTS.map((id) => ({ id })),
      { id: 'nowhere' },
      { id: 'rows', isolation: 'row' },
    ]),
  })
  told = []
  tenancy.on('isolation:bypassed', ({ door, from, reason }) =>
    told.push({ door, tenantId: from?.tenant.id, reason }),
  )
  pools = []
})

afterEach(async () => {
  for (const pool of pools) if (!pool.ending) await pool.end()
  await tenancy.close()
  await db[Symbol.asyncDispose]()
})

const open = (options: TenantPoolOptions = {}): TenantPool => {
  const pool = new TenantPool(tenancy, {
    connectionString: db.url,
    max: 1,
    direct: { connectionString: db.url, application_name: APPLICATION },
    ...options,
  })
  pools.push(pool)
  return pool
}

const as = <T>(id: string, fn: () => Promise<T> | T): Promise<T> =>
  tenancy.context.outside(() => tenancy.run(id, async () => fn()))

const REASON = { reason: 'nightly maintenance' }

/** Unsafe sessions, as the server sees them. */
const sessions = async (): Promise<{ pid: number; state: string; query: string }[]> =>
  (
    await db.query<{ pid: number; state: string; query: string }>(
      'select pid, state, query from pg_stat_activity where datname = current_database() and application_name = $1',
      [APPLICATION],
    )
  ).rows

const gone = (): Promise<void> => eventually(async () => expect(await sessions()).toEqual([]))

const STATE = `select current_user::text as user, current_setting('search_path') as path, current_setting('app.tenant_id', true) as id,
  current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock, pg_backend_pid() as pid`

test('what cannot run in a transaction runs in the schema of the tenant, and nowhere else', async () => {
  const pool = open()
  await as('acme', () => expect(pool.query('vacuum item')).rejects.toMatchObject({ code: '25001' }))
  const result = await as('acme', () =>
    pool.unsafeSession(async (client) => {
      await client.query('vacuum (analyze) item')
      await client.query('create index concurrently item_owner on item (owner)')
      await client.query('reindex index concurrently item_owner')
      // Its first two rows stay, although it fails: each was committed.
      await expect(client.query('call in_batches(3)')).rejects.toThrow('after 3')
      return (await client.query('select owner from item where id > $1 order by id', [0])).rows
    }, REASON),
  )
  expect(result).toEqual([1, 2, 3].map((n) => ({ owner: canary('acme', n) })))
  const { rows } = await db.query(
    "select schemaname as schema, indexname as index from pg_indexes where indexname like 'item%'",
  )
  expect(rows).toEqual([{ schema: 'acme', index: 'item_owner' }])
  const { rows: vacuumed } = await db.query<{ relid: string }>(
    "select schemaname as schema, last_vacuum is not null as done from pg_stat_user_tables where relname = 'item' order by 1",
  )
  await eventually(() =>
    expect(vacuumed).toEqual([
      { schema: 'acme', done: true },
      { schema: 'globex', done: false },
    ]),
  )
  await as('globex', async () =>
    expect((await pool.query('select owner from item')).rows).toEqual([
      { owner: canary('globex', 1) },
    ]),
  )
  expect(told).toEqual([{ door: 'pool.unsafeSession', tenantId: 'acme', reason: REASON.reason }])
  await gone()
})

test('each session is a connection of its own, in its tenant to the last statement, with the limits of the tenant', async () => {
  const pool = open({
    statementTimeoutMs: ({ id }) => (id === 'acme' ? 1500 : 'none'),
    lockTimeoutMs: ({ id }) => (id === 'acme' ? 500 : 'none'),
  })
  const pids = new Set<unknown>()
  for (let round = 0; round < 2; round++)
    for (const id of TENANTS)
      await as(id, () =>
        pool.unsafeSession(async (client) => {
          for (let statement = 0; statement < 3; statement++) {
            const { rows } = await client.query(STATE)
            pids.add(rows[0]?.pid)
            expect(rows[0]).toMatchObject({
              path: `"${id}", "public", pg_temp`,
              statement: id === 'acme' ? '1500ms' : '0',
              lock: id === 'acme' ? '500ms' : '0',
            })
            await client.query('commit').catch(() => undefined)
          }
          // What a session leaves goes with it.
          await client.query(
            "set search_path = globex; set app.who = 'canary:acme:1'; create temp table item as select 1",
          )
        }, REASON),
      )
  expect(pids.size).toBe(4)
  await as('acme', () =>
    expect(
      pool.unsafeSession((client) => client.query('select pg_sleep(5)'), REASON),
    ).rejects.toMatchObject({ code: '57014' }),
  )
  await as('acme', () =>
    pool.unsafeSession(async (client) => {
      await client.query('discard all')
      await expect(client.query('select owner from item')).rejects.toMatchObject({ code: '42P01' })
    }, REASON),
  )
  expect(pool.totalCount).toBe(0)
  await gone()
})

test('with roles, the session runs as the role of the tenant; a tenant without one is refused', async () => {
  const gate = `gate_${db.name}`
  const root = open().central
  await createGateRole(root, { name: gate, password: 'secret' })
  const acme = await tenancy.run('acme', ({ tenant }) => tenant)
  await createTenantRole(root, acme, { gate, ownership: 'tenant' } as never)
  const url = Object.assign(new URL(db.url), { username: gate, password: 'secret' }).href
  const pool = open({
    role: 'per-tenant',
    connectionString: url,
    direct: { connectionString: url, application_name: APPLICATION },
    central: { connectionString: db.url },
  })
  try {
    await as('acme', () =>
      pool.unsafeSession(async (client) => {
        const { rows } = await client.query(STATE)
        expect(rows[0]?.user).toMatch(/acme/)
        await client.query('create index concurrently item_owner on item (owner)')
        await client.query('vacuum item')
        await expect(client.query('select * from globex.item')).rejects.toMatchObject({
          code: '42501',
        })
        await client.query('reset role')
        await expect(client.query('select * from acme.item')).rejects.toMatchObject({
          code: '42501',
        })
      }, REASON),
    )
    let ran = false
    await as('globex', () =>
      expect(
        pool.unsafeSession(() => {
          ran = true
        }, REASON),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_SCOPE_FAILED', tenantId: 'globex' }),
    )
    expect(ran).toBe(false)
    await gone()
  } finally {
    await pool.end()
    await root.query(
      `drop schema acme cascade; drop owned by ${gate}; drop owned by "${await roleOf(root)}"; drop role "${await roleOf(root)}"; drop role ${gate}`,
    )
  }
})

async function roleOf(root: pg.Pool): Promise<string> {
  const { rows } = await root.query<{ name: string }>(
    "select rolname as name from pg_roles where pg_has_role($1, oid, 'MEMBER') and rolname <> $1 and not rolsuper",
    [`gate_${db.name}`],
  )
  return rows[0]?.name ?? ''
}

test('rows: the session carries the id, and is refused where row security does not hold', async () => {
  await db.query('create table public.note (tenant_id text, body text)')
  const pool = open()
  // The login of the tests is a superuser.
  await as('rows', () =>
    expect(pool.unsafeSession(() => 1, REASON)).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCOPE_FAILED',
      message: /Row security/,
    }),
  )
  const name = `plain_${db.name}`
  await db.query(
    `create role ${name} login password 'x'; grant all on table public.note to ${name}; grant usage on schema public to ${name}`,
  )
  try {
    const url = Object.assign(new URL(db.url), { username: name, password: 'x' }).href
    const plain = open({ connectionString: url, direct: { connectionString: url } })
    const { rows } = await as('rows', () =>
      plain.unsafeSession((client) => client.query(STATE), REASON),
    )
    expect(rows[0]).toMatchObject({ id: 'rows', user: name })
    await plain.end()
  } finally {
    await db.query(`drop owned by ${name}; drop role ${name}`)
  }
})

describe('refused', () => {
  test('before anything is opened: no tenant, no reason, a pooler without a way past it', async () => {
    const pool = open()
    await expect(pool.unsafeSession(() => 1, REASON)).rejects.toMatchObject({
      code: 'ERR_TENANCY_CONTEXT_MISSING',
    })
    for (const reason of ['', '  ', undefined, 5])
      await as('acme', () =>
        expect(pool.unsafeSession(() => 1, { reason: reason as string })).rejects.toMatchObject({
          code: 'ERR_TENANCY_OPTION_INVALID',
        }),
      )
    const pooled = open({ pooler: 'transaction', direct: undefined })
    await as('acme', () =>
      expect(pooled.unsafeSession(() => 1, REASON)).rejects.toMatchObject({
        code: 'ERR_TENANCY_OPTION_INVALID',
        hint: /direct/,
      }),
    )
    for (const max of [0, -1, 1.5])
      expect(() => open({ maxUnsafeSessions: max })).toThrow(/maxUnsafeSessions/)
    expect(told).toEqual([])
  })

  test('before the function runs: no schema, a path or a role that does not hold', async () => {
    const pool = open()
    let ran = 0
    const run = (id: string): Promise<unknown> =>
      as(id, () => pool.unsafeSession(() => ran++, REASON))
    await expect(run('nowhere')).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_MISSING',
      tenantId: 'nowhere',
    })
    // Whatever changes the setting between the two statements, a pooler or a hook of the server: here, a function in front of set_config's.
    const meddled = open({
      onConnect: (client: pg.ClientBase) => {
        const { query } = client
        let statements = 0
        client.query = async function meddle(
          this: pg.ClientBase,
          ...args: unknown[]
        ): Promise<unknown> {
          const result = await (query as (...args: unknown[]) => Promise<unknown>).apply(this, args)
          if (++statements === 1)
            await (query as (text: string) => Promise<unknown>).call(
              this,
              'set search_path = \'"globex"\'',
            )
          return result
        } as typeof client.query
      },
    })
    await as('acme', () =>
      expect(meddled.unsafeSession(() => ran++, REASON)).rejects.toMatchObject({
        code: 'ERR_TENANCY_SCOPE_FAILED',
        tenantId: 'acme',
      }),
    )
    expect(ran).toBe(0)
    await gone()
  })

  test('the client: after the end, from another tenant, and by whoever kept it', async () => {
    const pool = open()
    let kept: pg.PoolClient | undefined
    await as('acme', () =>
      pool.unsafeSession(async (client) => {
        kept = client
        await as('globex', () =>
          expect(client.query('select 1')).rejects.toMatchObject({
            code: 'ERR_TENANCY_CONTEXT_LOCKED',
          }),
        )
      }, REASON),
    )
    await as('acme', () =>
      expect(kept?.query('select 1')).rejects.toMatchObject({
        code: 'ERR_TENANCY_USE_AFTER_RELEASE',
      }),
    )
    // A library that releases what it was given ends nothing but its own use.
    await as('acme', () =>
      pool.unsafeSession(async (client) => {
        client.release()
        await expect(client.query('select 1')).rejects.toMatchObject({
          code: 'ERR_TENANCY_USE_AFTER_RELEASE',
        })
      }, REASON),
    )
    await gone()
  })
})

describe('always destroyed', () => {
  test('when the function throws, at once or with a statement under way, which is cancelled', async () => {
    const pool = open()
    await as('acme', () =>
      expect(pool.unsafeSession(() => Promise.reject(new Error('mine')), REASON)).rejects.toThrow(
        'mine',
      ),
    )
    const started = performance.now()
    await as('acme', () =>
      expect(
        pool.unsafeSession(async (client) => {
          client.query('select pg_sleep(60)').catch(() => undefined)
          await sleep(50)
          throw new Error('mine')
        }, REASON),
      ).rejects.toThrow('mine'),
    )
    await gone()
    expect(performance.now() - started).toBeLessThan(5000)
  })

  test('a statement that is not awaited, and a transaction that is left open, are errors', async () => {
    const pool = open()
    await as('acme', () =>
      expect(
        pool.unsafeSession((client) => {
          client.query('select pg_sleep(60)').catch(() => undefined)
        }, REASON),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_UNIT_UNFINISHED' }),
    )
    await as('acme', () =>
      expect(
        pool.unsafeSession(
          (client) => client.query("begin; insert into item values (9, 'lost')"),
          REASON,
        ),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_UNIT_UNFINISHED', message: /open transaction/ }),
    )
    await gone()
  })

  test('when the server ends it', async () => {
    const pool = open()
    await as('acme', () =>
      expect(
        pool.unsafeSession(async (client) => {
          const [session] = await sessions()
          const query = client.query('select pg_sleep(60)')
          query.catch(() => undefined)
          await db.query('select pg_terminate_backend($1)', [session?.pid])
          await query
        }, REASON),
      ).rejects.toMatchObject({ code: '57P01' }),
    )
    await as('acme', () => pool.unsafeSession((client) => client.query('vacuum item'), REASON))
    await gone()
  })

  test('pool.end() lets the statement under way end, lets go of a function that hangs, and refuses who waits', async () => {
    const pool = open({ maxUnsafeSessions: 2 })
    for (const id of TENANTS) await as(id, () => undefined)
    const hanging = as('acme', () => pool.unsafeSession(() => new Promise(() => undefined), REASON))
    const later: unknown[] = []
    const working = as('globex', () =>
      pool.unsafeSession(async (client) => {
        later.push((await client.query("select pg_sleep(0.5), 'done' as it")).rows[0]?.it)
        await client.query('select 1').catch((error: { code?: unknown }) => later.push(error.code))
        return 'finished'
      }, REASON),
    )
    const waiting = as('acme', () => pool.unsafeSession(() => 1, REASON))
    const all = Promise.allSettled([hanging, working, waiting])
    await eventually(async () =>
      expect((await sessions()).some(({ query }) => query.includes('pg_sleep'))).toBe(true),
    )
    await pool.end()
    expect(later).toEqual(['done', 'ERR_TENANCY_USE_AFTER_RELEASE'])
    expect(await all).toMatchObject([
      { reason: { code: 'ERR_TENANCY_CLOSED' } },
      { value: 'finished' },
      { reason: { code: 'ERR_TENANCY_CLOSED' } },
    ])
    await gone()
    await as('acme', () =>
      expect(pool.unsafeSession(() => 1, REASON)).rejects.toMatchObject({
        code: 'ERR_TENANCY_CLOSED',
      }),
    )
  })
})

test('two at a time, the others in the order in which they came; who waits too long is told', async () => {
  const pool = open()
  // Known tenants are entered in the order of the calls.
  for (const id of TENANTS) await as(id, () => undefined)
  let now = 0
  let most = 0
  await Promise.all(
    Array.from({ length: 6 }, (_, index) =>
      as(TENANTS[index % 2] ?? 'acme', () =>
        pool.unsafeSession(
          async (client) => {
            most = Math.max(most, ++now)
            await client.query('select pg_sleep(0.02)')
            now--
          },
          { reason: `${index}` },
        ),
      ),
    ),
  )
  expect(most).toBe(2)
  expect(told.map(({ reason }) => reason)).toEqual(['0', '1', '2', '3', '4', '5'])
  const impatient = open({ maxUnsafeSessions: 1, checkoutTimeoutMs: 50 })
  const long = as('acme', () => impatient.unsafeSession(() => sleep(300), REASON))
  await as('globex', () =>
    expect(impatient.unsafeSession(() => 1, REASON)).rejects.toMatchObject({
      code: 'ERR_TENANCY_POOL_EXHAUSTED',
      tenantId: 'globex',
    }),
  )
  await long
  expect(await as('globex', () => impatient.unsafeSession(() => 1, REASON))).toBe(1)
})
