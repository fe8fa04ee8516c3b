import { setTimeout as sleep } from 'node:timers/promises'
import { TenancyError } from '@partywall/core'
import {
  assertNoShadowedTables,
  createMigration,
  migrateTenant,
  type TenantPool,
} from '@partywall/postgres'
import {
  canary,
  createFaultProxy,
  eventually,
  foreignCanaries,
  seededRandom,
} from '@partywall/test-support'
import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import {
  backendOf,
  COUNTS,
  createTenantDatabase,
  HOMELESS,
  itemsOf,
  type TenantDatabase,
  type TenantId,
} from './database-fixture.ts'

interface Schema {
  item: { id: number; owner: string }
  log: { unit: string; owner: string }
}

const POOL_SIZES = [1, 4]
const EFFECT = "insert into probe.effect (what) values ('ran')"

let world: TenantDatabase
/** Runs as a tenant, from outside of whatever tenant is active: the next request, not a part of this one. */
const as = <T>(tenantId: string, fn: () => Promise<T> | T): Promise<T> =>
  world.tenancy.context.outside(() => world.tenancy.run(tenantId, async () => fn()))

beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
beforeEach(async () => {
  await world.db.query('truncate probe.effect, acme.log, globex.log, zeta.log')
  world.destroyed.length = 0
})

const open = (max: number, options = {}): TenantPool => {
  const pool = world.openPool({ max, ...options })
  onTestFinished(() => {
    if (!pool.ending) void pool.end()
  })
  return pool
}

/** Whatever happened before: each tenant reads its own rows, in both protocols. */
async function expectOwnRows(pool: TenantPool): Promise<void> {
  for (const [tenantId, count] of Object.entries(COUNTS))
    await as(tenantId, async () => {
      const all = itemsOf(tenantId, count)
      expect((await pool.query('select id, owner from item order by id')).rows).toEqual(all)
      expect(
        (await pool.query('select id, owner from item where id <= $1 order by id', [99])).rows,
      ).toEqual(all)
    })
}

const logOf = async (tenantId: TenantId): Promise<{ unit: string; owner: string }[]> =>
  (
    await world.db.query<{ unit: string; owner: string }>(
      `select unit, owner from ${tenantId}.log order by unit`,
    )
  ).rows

const codeOf = async (promise: Promise<unknown>): Promise<string | undefined> =>
  promise.then(
    () => 'fulfilled',
    (error: unknown) => (error as { code?: string }).code,
  )

describe('D1 fifty tenants at once', () => {
  const counts = Object.fromEntries(
    Array.from({ length: 50 }, (_, index) => [`tenant-${index}`, 1 + (index % 7)]),
  )
  let crowd: TenantDatabase
  beforeAll(async () => {
    crowd = await createTenantDatabase(counts)
  })
  afterAll(() => crowd[Symbol.asyncDispose]())

  it.each([
    [1, 1500],
    [4, 5000],
  ])(
    'D1 pool of %i: every row and every write of %i mixed units carries the canary of its caller',
    async (max, units) => {
      const random = seededRandom()
      const pool = crowd.openPool({ max })
      const expected = new Map<string, Set<string>>(
        Object.keys(counts).map((id) => [id, new Set()]),
      )
      const foreign: unknown[] = []
      let checked = 0

      const check = (tenantId: string, rows: readonly unknown[], length?: number): void => {
        checked++
        const strangers = foreignCanaries(rows, tenantId)
        if (strangers.length > 0 || (length !== undefined && rows.length !== length))
          foreign.push({ tenantId, rows, length })
      }
      const SELECT = 'select id, owner from item order by id'
      const INSERT = 'insert into log values ($1, $2) returning owner'
      const kinds: ((tenantId: string, unit: string, count: number) => Promise<void>)[] = [
        async (id, _unit, count) => check(id, (await pool.query(SELECT)).rows, count),
        async (id, unit) => {
          const n = 1 + (unit.length % 2)
          const { rows } = await pool.query('select owner from item where id <= $1', [n])
          check(id, rows, Math.min(n, counts[id] ?? 0))
        },
        async (id, _unit, count) => {
          const results = (await pool.query(
            `select owner from item where id = 1; ${SELECT}`,
          )) as unknown as pg.QueryResult[]
          check(id, results[0]?.rows ?? [], 1)
          check(id, results[1]?.rows ?? [], count)
        },
        // One name for all tenants: what the server prepared for the last one is looked up anew.
        async (id) => {
          const { rows } = await pool.query({
            name: 'item-by-id',
            text: 'select owner from item where id = $1',
            values: [1],
          })
          check(id, rows, 1)
        },
        async (id, _unit, count) => {
          const seen = Promise.withResolvers<void>()
          pool.query('select owner, $1::int from item', [1], (error, result) => {
            check(id, result?.rows ?? [], count)
            if (crowd.tenancy.current()?.tenant.id !== id) foreign.push({ id, context: 'callback' })
            if (error) seen.reject(error)
            else seen.resolve()
          })
          await seen.promise
        },
        async (id, unit) => {
          const { rows } = await pool.query(INSERT, [unit, canary(id, unit)])
          expected.get(id)?.add(unit)
          check(id, rows, 1)
        },
        async (id, unit, count) => {
          await pool.transaction(async (query) => {
            await query(`insert into log values ('${unit}', '${canary(id, unit)}')`)
            check(id, (await query(SELECT)).rows, count)
          })
          expected.get(id)?.add(unit)
        },
        async (id, unit) => {
          const failed = await pool
            .transaction(async (query) => {
              check(id, (await query(INSERT, [unit, canary(id, unit)])).rows, 1)
              throw new Error('changed my mind')
            })
            .catch((error: unknown) => (error as Error).message)
          if (failed !== 'changed my mind') foreign.push({ id, failed })
        },
        async (id, unit, count) => {
          const client = await pool.connect()
          try {
            await client.query('begin isolation level repeatable read')
            await client.query(INSERT, [unit, canary(id, unit)])
            check(id, (await client.query(SELECT)).rows, count)
            await client.query('rollback')
            check(id, (await client.query(SELECT)).rows, count)
          } finally {
            client.release()
          }
        },
        async (id, unit) => {
          const error = await pool
            .query('insert into log select $1 || 1 / (id - id), owner from item', [unit])
            .catch((cause: unknown) => cause as { code?: string })
          if (!('code' in error) || error.code !== '22012') foreign.push({ id, error })
          checked++
        },
        async (id, unit) => {
          const code = await pool
            .transaction(async (query) => {
              await query(INSERT, [unit, canary(id, unit)])
              await query('select nothing').catch(() => undefined)
            })
            .catch((error: unknown) => (error as { code?: string }).code)
          if (code !== 'ERR_TENANCY_TRANSACTION_ABORTED') foreign.push({ id, code })
          checked++
        },
        // Each leaves a temporary table behind that no command tag tells of.
        async (id) => {
          const sql = `select strangers('${id}') as n`
          const ask = random.pick<() => Promise<unknown[]>>([
            async () => (await pool.query(sql)).rows,
            async () => (await pool.query('select strangers($1) as n', [id])).rows,
            async () =>
              ((await pool.query(`select 1; ${sql}`)) as unknown as pg.QueryResult[])[1]?.rows ??
              [],
            () => pool.transaction(async (query) => (await query(sql)).rows),
            () =>
              pool
                .transaction(
                  async (query) => (await query(`select 1; ${sql}`)) as never,
                  'begin isolation level serializable',
                )
                .then((results) => (results as pg.QueryResult[])[1]?.rows ?? []),
            async () => {
              const client = await pool.connect()
              const cursor = client.query(new Cursor(sql))
              // Closed at once, while the session may still be being cleaned.
              const closing = random.next() < 0.5 ? cursor.close() : undefined
              const rows = closing === undefined ? await cursor.read(2) : [{ n: 0 }]
              await (closing ?? cursor.close())
              client.release()
              return rows
            },
            async () => {
              const client = await pool.connect()
              const all = await Promise.all([
                client.query('begin'),
                client.query(sql),
                client.query('select 1'),
                client.query('commit'),
              ])
              client.release()
              return all[1].rows
            },
          ])
          const rows = await ask()
          checked++
          if (JSON.stringify(rows) !== '[{"n":0}]') foreign.push({ id, strangers: rows })
        },
        async (id, _unit, count) => {
          const client = await pool.connect()
          const cursor = client.query(new Cursor<{ owner: string }>(SELECT))
          const rows = await cursor.read(count > 1 ? 1 : 10)
          await cursor.close()
          client.release()
          check(id, rows, 1)
        },
      ]
      let next = 0
      const worker = async (): Promise<void> => {
        while (next < units) {
          const unit = `u${next++}`
          const tenantId = `tenant-${random.integer(0, 49)}`
          const run = random.pick(kinds)
          await crowd.tenancy.run(tenantId, () => run(tenantId, unit, counts[tenantId] ?? 0))
        }
      }
      await Promise.all(Array.from({ length: 32 }, worker))
      expect(foreign).toEqual([])
      expect(checked).toBeGreaterThanOrEqual(units)
      for (const [tenantId, written] of expected) {
        const { rows } = await crowd.db.query<{ unit: string; owner: string }>(
          `select unit, owner from "${tenantId}".log`,
        )
        expect(foreignCanaries(rows, tenantId)).toEqual([])
        expect(new Set(rows.map(({ unit }) => unit))).toEqual(written)
        await crowd.db.query(`truncate "${tenantId}".log`)
      }
      expect(pool.totalCount).toBeLessThanOrEqual(max)
      expect(pool.idleCount).toBe(pool.totalCount)
      expect(crowd.destroyed).toEqual([])
      await pool.end()
    },
    120_000,
  )
})

describe.each(POOL_SIZES)('D2 pool of %i: a tenant that cannot be entered', (max) => {
  /** The statement as a user may send it. Each would leave a row in probe.effect. */
  const WAYS: Record<string, (pool: TenantPool) => Promise<unknown>> = {
    'text without parameters': (pool) => pool.query(EFFECT),
    'text with parameters': (pool) =>
      pool.query('insert into probe.effect (what) values ($1)', ['p']),
    'a named statement': (pool) =>
      pool.query({
        name: 'effect',
        text: 'insert into probe.effect (what) values ($1)',
        values: ['n'],
      }),
    'a transaction': (pool) => pool.transaction((query) => query(EFFECT)),
    'a transaction with parameters': (pool) =>
      pool.transaction(
        (query) => query('insert into probe.effect (what) values ($1)', ['t']),
        'begin isolation level serializable',
      ),
  }

  /** Holds pg_namespace, so that a schema that a session has not met yet cannot be looked up. */
  async function withLockedSchemas(fn: (admin: pg.Client) => Promise<void>): Promise<void> {
    const admin = new pg.Client(world.db.url)
    await admin.connect()
    try {
      await admin.query('select * from pg_stat_activity')
      await admin.query('begin; lock table pg_catalog.pg_namespace in access exclusive mode')
      await fn(admin)
    } finally {
      await admin.query('rollback')
      await admin.end()
    }
  }
  const blockedPid = (admin: pg.Client): Promise<number> =>
    eventually(async () => {
      // What a transaction has seen of the activity once, it goes on seeing.
      await admin.query('select pg_stat_clear_snapshot()')
      const { rows } = await admin.query<{ pid: number }>(
        "select pid from pg_stat_activity where wait_event_type = 'Lock' and backend_type = 'client backend' and datname = current_database() and state = 'active'",
      )
      return rows[0]?.pid
    })
  const warm = async (pool: TenantPool): Promise<void> => {
    // All connections of the pool exist before the lock: a new one could not be opened under it.
    await Promise.all(
      Array.from({ length: max }, () =>
        as('acme', () => pool.query('select pg_sleep(0.02) from item')),
      ),
    )
    expect(pool.totalCount).toBe(max)
  }

  for (const [way, send] of Object.entries(WAYS)) {
    it(`D2 statement_timeout while entering: ${way} is not executed`, async () => {
      const pool = open(max, { statement_timeout: 150 })
      await warm(pool)
      await withLockedSchemas(async () => {
        await expect(as('globex', () => send(pool))).rejects.toMatchObject({
          code: 'ERR_TENANCY_SCOPE_FAILED',
          cause: { code: '57014' },
        })
      })
      expect(await world.effects()).toEqual([])
      await expectOwnRows(pool)
    })

    it(`D2 pg_cancel_backend while entering: ${way} is not executed`, async () => {
      const pool = open(max)
      await warm(pool)
      await withLockedSchemas(async (admin) => {
        const sent = codeOf(as('globex', () => send(pool)))
        await admin.query('select pg_cancel_backend($1)', [await blockedPid(admin)])
        expect(await sent).toBe('ERR_TENANCY_SCOPE_FAILED')
      })
      expect(await world.effects()).toEqual([])
      await expectOwnRows(pool)
    })

    it(`D2 pg_terminate_backend while entering: ${way} is not executed, and nobody gets the connection`, async () => {
      const pool = open(max)
      await warm(pool)
      let pid = 0
      await withLockedSchemas(async (admin) => {
        const sent = codeOf(as('globex', () => send(pool)))
        pid = await blockedPid(admin)
        await admin.query('select pg_terminate_backend($1)', [pid])
        expect(await sent).not.toBe('fulfilled')
      })
      expect(await world.effects()).toEqual([])
      await expectOwnRows(pool)
      for (let n = 0; n < max; n++) expect(await as('acme', () => backendOf(pool))).not.toBe(pid)
    })

    it(`D2 query_timeout while entering: the connection of ${way} goes to nobody`, async () => {
      // Long enough for every other statement of a busy machine.
      const pool = open(max, { query_timeout: 1_500 })
      await warm(pool)
      let pid = 0
      await withLockedSchemas(async (admin) => {
        const sent = as('globex', () => send(pool)).then(
          () => 'fulfilled',
          (error: unknown) => (error as Error).message,
        )
        pid = await blockedPid(admin)
        expect(await sent).toMatch(/timeout/)
        expect(pool.totalCount).toBe(max - 1)
        await admin.query('select pg_terminate_backend($1)', [pid])
      })
      expect(await world.effects()).toEqual([])
      await expectOwnRows(pool)
      expect(world.destroyed.map(({ tenantId }) => tenantId)).toEqual(['globex'])
    })
  }
})

describe.each(POOL_SIZES)('D3 pool of %i: release', (max) => {
  it('D3 with an open transaction: destroyed and counted, nothing saved', async () => {
    const pool = open(max)
    const pid = await as('acme', async () => {
      const client = await pool.connect()
      await client.query('begin')
      await client.query("insert into log values ('open', 'canary:acme:open')")
      const backend = await backendOf(client)
      client.release()
      return backend
    })
    expect(pool.destroyedCount).toBe(1)
    expect(world.destroyed).toEqual([{ tenantId: 'acme', reason: 'an open transaction' }])
    expect(await as('globex', () => backendOf(pool))).not.toBe(pid)
    await expectOwnRows(pool)
    expect(await logOf('acme')).toEqual([])
    expect(await logOf('globex')).toEqual([])
  })

  it('D3 with a failed transaction: destroyed and counted', async () => {
    const pool = open(max)
    await as('acme', async () => {
      const client = await pool.connect()
      await client.query('begin')
      await client.query('select $1::int from item', [1])
      await expect(client.query('select 1 / (id - id) from item')).rejects.toMatchObject({
        code: '22012',
      })
      client.release()
    })
    // The end of the failed answer may still be on its way at release.
    await eventually(() => pool.destroyedCount === 1)
    expect(world.destroyed).toEqual([{ tenantId: 'acme', reason: 'a failed transaction' }])
    await expectOwnRows(pool)
  })

  it('D3 with a BEGIN that was never followed by anything: clean, the same connection goes on', async () => {
    const pool = open(1)
    const before = await as('acme', () => backendOf(pool))
    await as('acme', async () => {
      const client = await pool.connect()
      await client.query('begin')
      await client.query('set transaction isolation level serializable')
      client.release()
    })
    expect(pool.destroyedCount).toBe(0)
    expect(world.destroyed).toEqual([])
    await as('globex', async () => {
      expect(await backendOf(pool)).toBe(before)
      expect((await pool.query('show transaction_isolation')).rows).toEqual([
        { transaction_isolation: 'read committed' },
      ])
      await pool.query("insert into log values ('after', 'canary:globex:after')")
      const client = await pool.connect()
      expect(client).toMatchObject({ processID: before })
      expect((client as unknown as { getTransactionStatus(): string }).getTransactionStatus()).toBe(
        'I',
      )
      client.release()
    })
    // Not in a transaction of acme's that nobody ever commits.
    expect(await logOf('globex')).toEqual([{ unit: 'after', owner: 'canary:globex:after' }])
    expect(max).toBeGreaterThan(0)
  })

  it('D3 with release(true) and release(error): gone, as with pg.Pool', async () => {
    const pool = open(max)
    for (const reason of [true, new Error('broken')]) {
      const pid = await as('acme', async () => {
        const client = await pool.connect()
        const backend = await backendOf(client)
        client.release(reason)
        return backend
      })
      expect(await as('globex', () => backendOf(pool))).not.toBe(pid)
    }
    expect(pool.destroyedCount).toBe(0)
  })
})

describe('D4 clients and their checkouts', () => {
  it.each(POOL_SIZES)(
    'D4 pool of %i: a callback that throws rolls back and loses no connection',
    async (max) => {
      const pool = open(max)
      const boom = new Error('boom')
      const before = await as('acme', () => backendOf(pool))
      await expect(
        as('acme', () =>
          pool.transaction(async (query) => {
            await query("insert into log values ('thrown', 'canary:acme:thrown')")
            throw boom
          }),
        ),
      ).rejects.toBe(boom)
      expect(await logOf('acme')).toEqual([])
      expect(await as('globex', () => backendOf(pool))).toBe(before)
      expect(pool.destroyedCount).toBe(0)
      await expectOwnRows(pool)
    },
  )

  it('D4 a callback that never settles keeps its connection from everybody else', async () => {
    const pool = open(1, { connectionTimeoutMillis: 150 })
    const stuck = Promise.withResolvers<void>()
    const started = Promise.withResolvers<void>()
    const unit = as('acme', () =>
      pool.transaction(async (query) => {
        await query('select owner from item')
        started.resolve()
        await stuck.promise
      }),
    )
    await started.promise
    await expect(as('globex', () => pool.query(EFFECT))).rejects.toThrow('timeout')
    expect(await world.effects()).toEqual([])
    stuck.resolve()
    await unit
    await expectOwnRows(pool)
  })

  it('D4 a second release throws and does not touch who has the client now', async () => {
    const pool = open(1)
    const first = await as('acme', () => pool.connect())
    first.release()
    expect(() => first.release()).toThrow(TenancyError)
    await as('globex', async () => {
      const second = await pool.connect()
      await second.query('begin')
      await second.query("insert into log values ('kept', 'canary:globex:kept')")
      expect(() => first.release()).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_USE_AFTER_RELEASE' }),
      )
      expect(() => first.release(true)).toThrow(TenancyError)
      await second.query('commit')
      second.release()
    })
    expect(await logOf('globex')).toHaveLength(1)
  })

  const USES: Record<string, (old: pg.PoolClient) => Promise<unknown>> = {
    'query()': (old) => old.query(EFFECT),
    'query() with parameters': (old) =>
      old.query('insert into probe.effect (what) values ($1)', ['x']),
    'a callback': (old) =>
      new Promise((resolve, reject) => {
        old.query(EFFECT, (error: Error | null, result: unknown) =>
          error ? reject(error) : resolve(result),
        )
      }),
    'a cursor': (old) => old.query(new Cursor(`${EFFECT} returning id`)).read(1),
    'a stream': (old) => old.query(new QueryStream(`${EFFECT} returning id`)).toArray(),
    'a saved function': (old) => savedQuery(old)(EFFECT),
    'a COMMIT': (old) => old.query('commit'),
  }
  const saved = new WeakMap<pg.PoolClient, pg.PoolClient['query']>()
  const savedQuery = (client: pg.PoolClient): pg.PoolClient['query'] =>
    saved.get(client) ?? client.query

  it.each(Object.entries(USES))(
    'D4 use after release by %s is refused, whoever has the client now',
    async (_name, use) => {
      const pool = open(1)
      const old = await as('acme', () => pool.connect())
      saved.set(old, old.query)
      await as('acme', () => old.query('select 1'))
      old.release()
      const refused = async (tenantId: string): Promise<void> => {
        const error = await as(tenantId, () => use(old)).catch((cause: unknown) => cause)
        expect(error).toMatchObject({ code: 'ERR_TENANCY_USE_AFTER_RELEASE' })
      }
      // Idle; lent to another tenant; lent to another request of the same tenant.
      await refused('acme')
      for (const borrower of ['globex', 'acme'])
        await as(borrower, async () => {
          const client = await pool.connect()
          await client.query('begin')
          await client.query('insert into log values ($1, $2)', [borrower, canary(borrower, 1)])
          await refused('acme')
          await refused(borrower)
          await client.query('commit')
          client.release()
        })
      expect(await world.effects()).toEqual([])
      expect(await logOf('globex')).toHaveLength(1)
      expect(await logOf('acme')).toHaveLength(1)
      expect(pool.destroyedCount).toBe(0)
    },
  )

  it('D4 a client is refused in the context of another tenant and in central work', async () => {
    const pool = open(1)
    const client = await as('acme', () => pool.connect())
    expect(await codeOf(as('globex', () => client.query(EFFECT)))).toBe(
      'ERR_TENANCY_CONTEXT_LOCKED',
    )
    expect(
      await codeOf(
        world.tenancy.central('a test', async () => client.query(EFFECT)) as Promise<unknown>,
      ),
    ).toBe('ERR_TENANCY_CONTEXT_LOCKED')
    client.release()
    expect(await world.effects()).toEqual([])
  })

  it('D4 nothing that a released client can be told to do reaches who has it now', async () => {
    const pool = open(1)
    const old = await as('acme', () => pool.connect())
    const seen: string[] = []
    const { end, setTypeParser, emit } = old as unknown as Record<
      string,
      (...args: unknown[]) => unknown
    >
    await as('acme', () => old.query('select 1'))
    old.release()
    await as('globex', async () => {
      const client = await pool.connect()
      const attempts = [
        () => end?.call(old),
        () => setTypeParser?.call(old, 25, 'text', (value: string) => seen.push(value)),
        () => emit?.call(old, 'error', new Error('planted')),
        () => (old as unknown as { end(): unknown }).end(),
      ]
      for (const attempt of attempts)
        try {
          void Promise.resolve(attempt()).catch(() => undefined)
        } catch {
          // Refused at once is as good.
        }
      expect((await client.query('select owner from item where id = 1')).rows).toEqual([
        { owner: canary('globex', 1) },
      ])
      client.release()
    })
    expect(seen).toEqual([])
  })

  it('D4 type parsers of one checkout do not see the rows of the next', async () => {
    const pool = open(1)
    const seen: string[] = []
    await as('acme', async () => {
      const client = await pool.connect()
      ;(
        client as unknown as { setTypeParser(oid: number, fn: (text: string) => unknown): void }
      ).setTypeParser(25, (text) => {
        seen.push(text)
        return text.toUpperCase()
      })
      expect((await client.query('select owner from item where id = 1')).rows).toEqual([
        { owner: 'CANARY:ACME:1' },
      ])
      client.release()
    })
    seen.length = 0
    await expectOwnRows(pool)
    expect(seen).toEqual([])
  })

  it('D4 listeners of one checkout do not fire in the next', async () => {
    const pool = open(1)
    const heard: string[] = []
    const raise = "do $$ begin raise notice '%', current_schema(); end $$"
    const names = ['notice', 'notification', 'error', 'drain', 'end'] as const
    const connection = await as('acme', async () => {
      const client = await pool.connect()
      for (const name of names) {
        client.on(name as 'notice', (message) => void heard.push(`${name} ${message?.message}`))
        client.once(name, () => void heard.push(`${name} once`))
      }
      const removed = (): void => void heard.push('removed')
      client.on('notice', removed).removeListener('notice', removed)
      await client.query(raise.replace('do', 'do language plpgsql'))
      expect(heard).toContain('notice acme')
      expect(heard).not.toContain('removed')
      // A DO block costs the connection, so the same one is provoked again by a function call below.
      client.release()
      return client
    })
    expect(() => connection.listenerCount('notice')).toThrow(TenancyError)

    await world.db.query(
      "create or replace function probe.say(text) returns void language plpgsql as $$ begin raise notice '%', $1; end $$",
    )
    await as('acme', async () => {
      const client = await pool.connect()
      client.on('notice', (message) => void heard.push(`late ${message.message}`))
      await client.query("select probe.say('own')")
      client.release()
    })
    expect(heard).toContain('late own')
    heard.length = 0
    await as('globex', () => pool.query("select probe.say('secret of globex')"))
    await as('globex', async () => {
      const client = await pool.connect()
      await client.query("select probe.say('secret of globex')")
      await client.query("select pg_notify('x', 'y')")
      client.release()
    })
    expect(heard).toEqual([])
  })
})

describe.each(POOL_SIZES)('D5 pool of %i: statements that nobody awaited', (max) => {
  it('D5 queued at release, they fail or finish as their own tenant and never run as the next', async () => {
    const pool = open(max)
    const outcomes: Promise<unknown>[] = []
    await as('acme', async () => {
      const client = await pool.connect()
      outcomes.push(client.query('select pg_sleep(0.05)').catch((error: unknown) => error))
      for (let n = 0; n < 5; n++)
        outcomes.push(
          client
            .query('insert into log values ($1, $2)', [`late-${n}`, canary('acme', n)])
            .catch((error: unknown) => error),
        )
      client.release()
    })
    await Promise.all(
      Array.from({ length: 8 }, (_, n) =>
        as('globex', () =>
          pool.query('insert into log values ($1, $2)', [`own-${n}`, canary('globex', n)]),
        ),
      ),
    )
    const settled = await Promise.all(outcomes)
    expect(settled.filter((outcome) => outcome instanceof Error)).not.toEqual([])
    const rows = await logOf('globex')
    expect(rows).toHaveLength(8)
    expect(foreignCanaries(rows, 'globex')).toEqual([])
    expect(foreignCanaries(await logOf('acme'), 'acme')).toEqual([])
    expect(world.destroyed).toEqual([{ tenantId: 'acme', reason: 'an unfinished statement' }])
    await expectOwnRows(pool)
  })

  it('D5 at the end of pool.transaction, they fail the unit and nothing is saved', async () => {
    const pool = open(max)
    const late: Promise<unknown>[] = []
    await expect(
      as('acme', () =>
        pool.transaction(async (query) => {
          await query('insert into log values ($1, $2)', ['first', canary('acme', 'first')])
          late.push(
            query('insert into log select $1, $2 from pg_sleep(0.05)', [
              'second',
              canary('acme', 2),
            ]).catch((error: unknown) => error),
          )
          late.push(
            query('insert into log values ($1, $2)', ['third', canary('acme', 3)]).catch(
              (error: unknown) => error,
            ),
          )
        }),
      ),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_UNIT_UNFINISHED' })
    expect((await Promise.all(late)).every((outcome) => outcome instanceof Error)).toBe(true)
    await expectOwnRows(pool)
    expect(await logOf('acme')).toEqual([])
    expect(await logOf('globex')).toEqual([])
  })

  it('D5 sent after the end of pool.transaction, they are refused', async () => {
    const pool = open(max)
    let kept: ((sql: string) => Promise<unknown>) | undefined
    const timer = Promise.withResolvers<unknown>()
    await as('acme', () =>
      pool.transaction(async (query) => {
        kept = (text) => query(text)
        await query('select 1')
        setTimeout(() => void query(EFFECT).then(timer.resolve, timer.resolve), 5)
      }),
    )
    expect(await timer.promise).toMatchObject({ code: 'ERR_TENANCY_UNIT_UNFINISHED' })
    await as('globex', async () => {
      const client = await pool.connect()
      await expect(kept?.(EFFECT)).rejects.toMatchObject({ code: 'ERR_TENANCY_UNIT_UNFINISHED' })
      client.release()
    })
    expect(await world.effects()).toEqual([])
  })
})

describe('D6 no way around the tenant', () => {
  const WAYS: Record<string, (pool: TenantPool) => Promise<unknown>> = {
    'pool.query': (pool) => pool.query(EFFECT),
    'pool.query with parameters': (pool) =>
      pool.query('insert into probe.effect (what) values ($1)', ['x']),
    'pool.query with a callback': (pool) =>
      new Promise((resolve, reject) => {
        pool.query(EFFECT, (error, result) => (error ? reject(error) : resolve(result)))
      }),
    'pool.query with a cursor': async (pool) =>
      pool.query(new Cursor(`${EFFECT} returning id`) as never),
    'pool.query with a stream': async (pool) =>
      pool.query(new QueryStream(`${EFFECT} returning id`) as never),
    'pool.connect': async (pool) => {
      const client = await pool.connect()
      return client.query(EFFECT).finally(() => client.release())
    },
    'pool.connect with a callback': (pool) =>
      new Promise((resolve, reject) => {
        pool.connect((error, client, done) => {
          if (error) reject(error)
          else resolve(client?.query(EFFECT).finally(() => done()))
        })
      }),
    'pool.transaction': (pool) => pool.transaction((query) => query(EFFECT)),
    'pg.Pool.prototype.query': (pool) =>
      (pg.Pool.prototype.query as (text: string) => Promise<unknown>).call(pool, EFFECT),
    'the Kysely builder': (pool) => kyselyOn(pool).selectFrom('item').selectAll().execute(),
    'a Kysely CTE': (pool) =>
      kyselyOn(pool)
        .with('one', (db) => db.selectFrom('item').selectAll())
        .selectFrom('one')
        .selectAll()
        .execute(),
    'Kysely sql': (pool) => sql.raw(EFFECT).execute(kyselyOn(pool)),
    'a Kysely transaction': (pool) =>
      kyselyOn(pool)
        .transaction()
        .setIsolationLevel('serializable')
        .execute((trx) => sql.raw(EFFECT).execute(trx)),
    'a Kysely stream': async (pool) => {
      for await (const row of kyselyOn(pool).selectFrom('item').selectAll().stream()) return row
      return undefined
    },
  }
  const kyselyOn = (pool: TenantPool): Kysely<Schema> =>
    new Kysely<Schema>({ dialect: new PostgresDialect({ pool, cursor: Cursor }) })

  it.each(Object.entries(WAYS))(
    'D6 %s outside of a tenant and in central work: refused, and not a byte is sent',
    async (_name, send) => {
      await using proxy = await createFaultProxy(world.db.url)
      const pool = open(2, { connectionString: proxy.url })
      const refused = async (): Promise<void> => {
        expect(await codeOf(send(pool))).toBe('ERR_TENANCY_CONTEXT_MISSING')
        expect(await codeOf(world.tenancy.central('a test', () => send(pool)))).toBe(
          'ERR_TENANCY_CONTEXT_MISSING',
        )
      }
      // No connection is opened for it; and one that is there and idle is not used.
      await refused()
      expect(proxy.connections).toBe(0)
      await as('acme', () => pool.query('select 1'))
      const { bytes } = proxy
      await refused()
      await sleep(20)
      expect({ bytes: proxy.bytes, connections: proxy.connections }).toEqual({
        bytes,
        connections: 1,
      })
      expect(await world.effects()).toEqual([])
      expect(pool.idleCount).toBe(pool.totalCount)
      await pool.end()
    },
  )

  // pg.Pool never answers a query object of a cursor either; its way is connect().
  const ANSWERED = Object.entries(WAYS).filter(
    ([name]) => !/pool.query with a (cursor|stream)/.test(name),
  )
  it.each(ANSWERED)('D6 %s inside of a tenant works, and sees that tenant', async (_name, send) => {
    const pool = open(2)
    for (const tenantId of ['acme', 'globex']) {
      const result = (await as(tenantId, () => send(pool))) as { rows?: unknown } | undefined
      expect(foreignCanaries(result?.rows ?? result, tenantId)).toEqual([])
    }
  })

  it('D6 clients that pool events hand out do not talk, whether idle or lent to a tenant', async () => {
    await using proxy = await createFaultProxy(world.db.url)
    const pool = open(1, { connectionString: proxy.url })
    const raw = new Map<string, pg.ClientBase>()
    const refusals: Promise<unknown>[] = []
    for (const event of ['connect', 'acquire', 'release', 'remove'] as const)
      pool.on(event as 'connect', (...args: unknown[]) => {
        const client = args.find((value) => value instanceof pg.Client) as pg.ClientBase
        raw.set(event, client)
        refusals.push(
          codeOf(client.query(EFFECT)),
          codeOf(client.query('insert into probe.effect (what) values ($1)', [event])),
        )
      })
    await as('acme', () => pool.query('select 1'))
    const { bytes } = proxy
    const all = (): Promise<unknown>[] =>
      [...raw.values()].flatMap((client) => [
        codeOf(client.query(EFFECT)),
        codeOf(client.query(new Cursor(`${EFFECT} returning id`)).read(1)),
      ])
    for (const code of await Promise.all(all())) expect(code).toMatch(/^ERR_TENANCY_/)
    expect(proxy.bytes).toBe(bytes)
    await as('globex', async () => {
      const client = await pool.connect()
      await client.query('begin')
      await client.query('select 1')
      for (const code of await Promise.all(all())) expect(code).toMatch(/^ERR_TENANCY_/)
      await client.query('commit')
      client.release()
    })
    await pool.end()
    for (const code of await Promise.all(refusals)) expect(code).toMatch(/^ERR_TENANCY_/)
    await eventually(() => raw.size === 4)
    for (const code of await Promise.all(refusals)) expect(code).toMatch(/^ERR_TENANCY_/)
    expect(await world.effects()).toEqual([])
  })

  it.each(POOL_SIZES)(
    'D6 pool of %i: Kysely, in every form, reads and writes the tenant of its caller',
    async (max) => {
      const pool = open(max)
      const db = kyselyOn(pool)
      const unit = async (tenantId: TenantId, n: number): Promise<void> => {
        const count = COUNTS[tenantId]
        const rows = itemsOf(tenantId, count)
        expect(await db.selectFrom('item').selectAll().orderBy('id').execute()).toEqual(rows)
        expect(
          (await sql`select id, owner from item where id <= ${99} order by id`.execute(db)).rows,
        ).toEqual(rows)
        const streamed = []
        for await (const row of db.selectFrom('item').selectAll().orderBy('id').stream(2))
          streamed.push(row)
        expect(streamed).toEqual(rows)
        for await (const row of db.selectFrom('item').selectAll().orderBy('id').stream(1)) {
          expect(row).toEqual(rows[0])
          break
        }
        await db
          .transaction()
          .setIsolationLevel('serializable')
          .execute(async (trx) => {
            await trx
              .insertInto('log')
              .values({ unit: `k${n}`, owner: canary(tenantId, n) })
              .execute()
            const { rows: isolation } = await sql<{
              transaction_isolation: string
            }>`show transaction_isolation`.execute(trx)
            expect(isolation).toEqual([{ transaction_isolation: 'serializable' }])
            expect(await trx.selectFrom('item').selectAll().orderBy('id').execute()).toEqual(rows)
          })
        await expect(
          db.transaction().execute(async (trx) => {
            await trx
              .insertInto('log')
              .values({ unit: `rolled${n}`, owner: canary(tenantId, n) })
              .execute()
            throw new Error('no')
          }),
        ).rejects.toThrow('no')
        await db
          .with('gone', (qb) => qb.deleteFrom('log').where('unit', '=', 'nothing').returningAll())
          .selectFrom('gone')
          .selectAll()
          .execute()
      }
      const jobs = Array.from({ length: 12 }, (_, n) => n)
      await Promise.all(
        jobs.flatMap((n) =>
          (['acme', 'globex', 'zeta'] as const).map((id) => as(id, () => unit(id, n))),
        ),
      )
      for (const id of ['acme', 'globex', 'zeta'] as const) {
        const rows = await logOf(id)
        expect(rows).toHaveLength(jobs.length)
        expect(foreignCanaries(rows, id)).toEqual([])
      }
      expect(world.destroyed).toEqual([])
    },
  )

  it('D6 pool.central is the one door: outside of every tenant, and announced from inside of one', async () => {
    const pool = open(1)
    const passed: unknown[] = []
    const stop = world.tenancy.events.on('isolation:bypassed', ({ door, from }) => {
      passed.push({ door, from: from?.tenant.id })
    })
    await expect(pool.central.query('select owner from item')).rejects.toMatchObject({
      code: '42P01',
    })
    expect(passed).toEqual([])
    await as('acme', async () => {
      expect((await pool.central.query('show search_path')).rows[0]).not.toEqual({
        search_path: '',
      })
    })
    await as('globex', () => pool.central.query('select 1'))
    expect(passed).toEqual([
      { door: 'pool.central', from: 'acme' },
      { door: 'pool.central', from: 'globex' },
    ])
    stop()
  })

  it('D6 a search_path in the connection string, or of the login, is not the path behind a scope', async () => {
    await world.db.query(`alter database "${world.db.name}" set search_path = acme`)
    try {
      const url = new URL(world.db.url)
      url.searchParams.set('options', '-c search_path=acme')
      const pool = open(1, { connectionString: url.href })
      await as('globex', async () => {
        expect((await pool.query('select owner from item where id = 1')).rows).toEqual([
          { owner: canary('globex', 1) },
        ])
        // COMMIT ends the scope; what is behind it finds nothing.
        await expect(pool.query('commit; select owner from item')).rejects.toMatchObject({
          code: '42P01',
        })
      })
    } finally {
      await world.db.query(`alter database "${world.db.name}" reset search_path`)
    }
  })
})

describe.each(POOL_SIZES)('D7 pool of %i: a tenant without a schema', (max) => {
  const WAYS: Record<string, (pool: TenantPool) => Promise<unknown>> = {
    'text without parameters': (pool) => pool.query(EFFECT),
    'text of two statements': (pool) => pool.query(`${EFFECT}; ${EFFECT}`),
    'text with parameters': (pool) =>
      pool.query('insert into probe.effect (what) values ($1)', ['x']),
    'a named statement': (pool) => pool.query({ name: 'effect', text: EFFECT }),
    'a callback': (pool) =>
      new Promise((resolve, reject) => {
        pool.query(EFFECT, (error, result) => (error ? reject(error) : resolve(result)))
      }),
    'a transaction': (pool) => pool.transaction((query) => query(EFFECT)),
    'a transaction with parameters': (pool) =>
      pool.transaction(
        (query) => query('insert into probe.effect (what) values ($1)', ['x']),
        'begin isolation level serializable',
      ),
    'a client': async (pool) => {
      const client = await pool.connect()
      await client.query(EFFECT).finally(() => client.release())
    },
    'a client in a transaction': async (pool) => {
      const client = await pool.connect()
      try {
        await client.query('begin')
        await client.query(EFFECT)
      } finally {
        await client.query('rollback')
        client.release()
      }
    },
    'an extended BEGIN': async (pool) => {
      const client = await pool.connect()
      try {
        await client.query({ text: 'begin', queryMode: 'extended' } as pg.QueryConfig)
        await client.query(EFFECT)
      } finally {
        await client.query('rollback')
        client.release()
      }
    },
    'a cursor': async (pool) => {
      const client = await pool.connect()
      const cursor = client.query(new Cursor(`${EFFECT} returning id`))
      try {
        await cursor.read(1)
      } finally {
        await cursor.close()
        client.release()
      }
    },
    'a stream': async (pool) => {
      const client = await pool.connect()
      try {
        await client.query(new QueryStream(`${EFFECT} returning id`)).toArray()
      } finally {
        client.release()
      }
    },
  }

  it.each(Object.entries(WAYS))(
    'D7 %s: refused before it runs, and the connection stays in use',
    async (_name, send) => {
      // The tempting shared copy: what a path that skips missing schemas would read.
      const pool = open(max)
      const pids = new Set(
        await Promise.all(
          Array.from({ length: max }, () =>
            as('acme', async () => {
              const { rows } = await pool.query<{ pid: number }>(
                'select pg_backend_pid() as pid from pg_sleep(0.02)',
              )
              return rows[0]?.pid
            }),
          ),
        ),
      )
      for (let n = 0; n < 3; n++)
        await expect(as(HOMELESS, () => send(pool))).rejects.toMatchObject({
          code: 'ERR_TENANCY_SCHEMA_MISSING',
          tenantId: HOMELESS,
        })
      expect(await world.effects()).toEqual([])
      expect(pool.totalCount).toBe(max)
      expect(pids).toContain(await as('globex', () => backendOf(pool)))
      expect(pool.destroyedCount).toBe(0)
      await expectOwnRows(pool)
    },
  )

  it('D7 a schema that the role may not use: refused, not skipped in favour of the shared one', async () => {
    const role = `${world.db.name}_${max}`
    await world.db.query(
      `create role ${role} login password 'secret'; grant usage on schema acme, public to ${role}; grant select on all tables in schema acme, globex to ${role};
       create table public.item (id int, owner text); grant select on public.item to ${role}; insert into public.item values (1, 'shared')`,
    )
    try {
      const url = Object.assign(new URL(world.db.url), { username: role, password: 'secret' })
      const pool = open(max, { connectionString: url.href })
      expect(
        (await as('acme', () => pool.query('select owner from item where id = 1'))).rows,
      ).toEqual([{ owner: canary('acme', 1) }])
      for (const send of [
        () => pool.query('select owner from item where id = 1'),
        () => pool.query('select owner from item where id = $1', [1]),
      ])
        expect(await codeOf(as('globex', send))).toMatch(/^ERR_TENANCY_SC(HEMA|OPE)_/)
      await pool.end()
    } finally {
      await world.db.query(`drop table public.item; drop owned by ${role}; drop role ${role}`)
    }
  })
})

describe('D8 a table both in a shared schema and with tenants', () => {
  it('D8 is refused at boot', async () => {
    const pool = open(1)
    const check = { schemas: Object.keys(COUNTS), sharedSchemas: pool.sharedSchemas }
    await assertNoShadowedTables(pool.central, check)
    await world.db.query(
      "create table public.log (unit text, owner text); insert into public.log values ('x', 'shared')",
    )
    try {
      await expect(assertNoShadowedTables(pool.central, check)).rejects.toMatchObject({
        code: 'ERR_TENANCY_SHARED_TABLE_SHADOWED',
        message: expect.stringContaining('public.log'),
      })
      // Also for a tenant that is still to get the table.
      await expect(
        assertNoShadowedTables(pool.central, { ...check, schemas: [], expected: ['log'] }),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_SHARED_TABLE_SHADOWED' })
    } finally {
      await world.db.query('drop table public.log')
    }
  })

  it('D8 is refused by a migration, which leaves the tenant as it was', async () => {
    const pool = open(1)
    await world.db.query('create table public.rates (id int)')
    try {
      const set = {
        name: 'shop',
        migrations: [
          createMigration('001', 'create table rates (id int); create table prices (id int)'),
        ],
      }
      for (const tenantId of ['acme', 'globex'])
        await expect(
          as(tenantId, () => migrateTenant(world.tenancy, pool, set)),
        ).rejects.toMatchObject({
          code: 'ERR_TENANCY_SHARED_TABLE_SHADOWED',
          message: expect.stringContaining('public.rates'),
        })
      const { rows } = await world.db.query(
        "select nspname, relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where relname in ('rates', 'prices', 'partywall_migrations')",
      )
      expect(rows).toEqual([{ nspname: 'public', relname: 'rates' }])
    } finally {
      await world.db.query('drop table public.rates')
    }
  })
})
