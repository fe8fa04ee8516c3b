import assert from 'node:assert/strict'
import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { createTestDatabase, eventually, type TestDatabase } from '@partywall/test-support'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { TenantPool } from './tenant-pool.ts'
import type { TenantPoolOptions } from './tenant-pool-options.ts'

const TENANTS = Array.from({ length: 20 }, (_, index) => `t${index}`)
const SQL = 'select id, owner, $2::int as echo from item where id = $1'

let db: TestDatabase
let tenancy: Tenancy
let pools: TenantPool[] = []

beforeAll(async () => {
  db = await createTestDatabase()
  for (const id of TENANTS)
    await db.query(
      `create schema ${id};
       create table ${id}.item (id int primary key, owner text not null);
       insert into ${id}.item select n, 'canary:${id}:' || n from generate_series(1, 10) n;
       create table ${id}.log (unit int primary key, owner text not null default '${id}');
       create function ${id}.leaves_temporary(who text) returns int language plpgsql as $$ begin
         create temp table if not exists scratch (owner text); insert into scratch values (who);
         return (select count(*) from scratch where owner <> who); end $$`,
    )
  tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
})

beforeEach(() => {
  pools = []
})

afterEach(async () => {
  await Promise.all(pools.filter((pool) => !pool.ending).map((pool) => pool.end()))
})

afterAll(async () => {
  await tenancy.close()
  await db[Symbol.asyncDispose]()
})

function openPool(options: TenantPoolOptions = {}): TenantPool {
  const pool = new TenantPool(tenancy, {
    connectionString: db.url,
    max: 1,
    maxPerTenant: 4,
    sharedSchemas: [],
    pipelineDepth: 8,
    ...options,
  })
  pools.push(pool)
  return pool
}

/** Lets the pool see a statement run by itself: only then does it share a connection. */
async function know(pool: TenantPool, sql = SQL, values: unknown[] = [1, 0]): Promise<void> {
  await tenancy.run('t0', () => pool.query(sql, values))
}

const tenantOf = (unit: number): string => TENANTS[(unit * 7) % TENANTS.length] as string

describe('statements that share a connection', () => {
  it.each([1, 4])(
    'pool of %i: a thousand at once, of twenty tenants, each answered with its own row',
    async (max) => {
      const pool = openPool({ max })
      await know(pool)
      const crossed: unknown[] = []
      await Promise.all(
        Array.from({ length: 1_000 }, (_, unit) => {
          const id = tenantOf(unit)
          const row = 1 + (unit % 10)
          return tenancy.run(id, async () => {
            const { rows } = await pool.query<{ id: number; owner: string; echo: number }>(SQL, [
              row,
              unit,
            ])
            const [found] = rows
            if (rows.length !== 1 || found?.owner !== `canary:${id}:${row}` || found.echo !== unit)
              crossed.push({ id, row, unit, rows })
          })
        }),
      )
      expect(crossed).toEqual([])
      expect(pool.totalCount).toBeLessThanOrEqual(max)
      expect(pool.destroyedCount).toBe(0)
      expect(pool.idleCount).toBe(pool.totalCount)
    },
  )

  it('leave in one write what was asked in one turn of the event loop', async () => {
    const pool = openPool()
    await know(pool)
    const client = await tenancy.run('t0', () => pool.connect())
    // The only connection is taken: all of these wait, and leave together when it comes back.
    const waiting = Promise.all(
      Array.from({ length: 8 }, (_, unit) =>
        tenancy.run(tenantOf(unit), () => pool.query(SQL, [1, unit])),
      ),
    )
    const { stream } = (client as unknown as { connection: { stream: NodeJS.WritableStream } })
      .connection
    const write = vi.spyOn(stream, 'write')
    client.release()
    await waiting
    expect(write).toHaveBeenCalledTimes(1)
    write.mockRestore()
  })

  it('one that fails fails alone, with its own error', async () => {
    const pool = openPool()
    const insert = 'insert into log (unit) values ($1)'
    await know(pool)
    await know(pool, insert, [-1])
    const results = await Promise.all(
      Array.from({ length: 60 }, (_, unit) =>
        tenancy.run('t1', () =>
          unit % 3 === 0
            ? pool.query(insert, [Math.floor(unit / 6)]).then(
                () => 'saved',
                (error: { code?: string }) => error.code,
              )
            : pool.query<{ echo: number }>(SQL, [1, unit]).then(({ rows }) => rows[0]?.echo),
        ),
      ),
    )
    for (const [unit, result] of results.entries())
      if (unit % 3 === 0) expect(result).toBe(unit % 6 === 0 ? 'saved' : '23505')
      else expect(result).toBe(unit)
    const { rows } = await db.query('select unit, owner from t1.log order by unit')
    expect(rows).toEqual(Array.from({ length: 10 }, (_, unit) => ({ unit, owner: 't1' })))
    expect(pool.destroyedCount).toBe(0)
  })

  it('a tenant that cannot be entered fails alone', async () => {
    await using other = createTenancy({
      store: memoryTenantStore([...TENANTS, 'nowhere'].map((id) => ({ id }))),
    })
    const pool = new TenantPool(other, {
      connectionString: db.url,
      max: 1,
      sharedSchemas: [],
      pipelineDepth: 8,
    })
    pools.push(pool)
    await other.run('t0', () => pool.query(SQL, [1, 0]))
    const results = await Promise.all(
      Array.from({ length: 16 }, (_, unit) =>
        other.run(unit % 4 === 0 ? 'nowhere' : 't3', () =>
          pool.query<{ owner: string }>(SQL, [1, unit]).then(
            ({ rows }) => rows[0]?.owner,
            (error: { code?: string }) => error.code,
          ),
        ),
      ),
    )
    for (const [unit, result] of results.entries())
      expect(result).toBe(unit % 4 === 0 ? 'ERR_TENANCY_SCHEMA_MISSING' : 'canary:t3:1')
  })

  it('columns that change under a statement: nobody notices', async () => {
    await db.query('create table t4.wide (id int); insert into t4.wide values (1)')
    const pool = openPool({ max: 2 })
    const sql = 'select * from wide'
    await tenancy.run('t4', () => pool.query(sql))
    const run = (): Promise<unknown[]> =>
      Promise.all(
        Array.from({ length: 30 }, () =>
          tenancy.run('t4', () => pool.query(sql).then(({ rows }) => rows)),
        ),
      )
    expect((await run()).flat()).toEqual(Array.from({ length: 30 }, () => ({ id: 1 })))
    await run()
    await db.query("alter table t4.wide add column owner text default 'canary:t4'")
    expect((await run()).flat()).toEqual(
      Array.from({ length: 30 }, () => ({ id: 1, owner: 'canary:t4' })),
    )
  })

  it('parameters that run code run it as their caller, and what cannot be written down fails alone', async () => {
    const pool = openPool()
    await know(pool, 'select $1::text as who', ['x'])
    const client = await tenancy.run('t0', () => pool.connect())
    const seen = Promise.all(
      ['t1', 't2', 't3'].map((id) =>
        tenancy.run(id, () =>
          pool
            .query<{ who: string }>('select $1::text as who', [
              {
                toPostgres: () => {
                  if (id === 't2') throw new Error('no value')
                  return tenancy.require().tenant.id
                },
              },
            ])
            .then(
              ({ rows }) => rows[0]?.who,
              (error: Error) => error.message,
            ),
        ),
      ),
    )
    client.release()
    expect(await seen).toEqual(['t1', 'no value', 't3'])
  })

  it('one whose parameters cannot be written down takes nothing from those behind it, also as the first of a connection', async () => {
    const pool = openPool()
    await know(pool, 'select $1::text as who', ['x'])
    // Another connection, which knows nothing yet.
    await tenancy.run('t0', async () => (await pool.connect()).release(true))
    const results = await Promise.all(
      ['bad', 'good', 'good'].map((kind, unit) =>
        tenancy.run(tenantOf(unit), () =>
          pool
            .query<{ who: string }>('select $1::text as who', [
              { toPostgres: () => (kind === 'bad' ? assert.fail('no value') : kind) },
            ])
            .then(
              ({ rows }) => rows[0]?.who,
              (error: Error) => error.message,
            ),
        ),
      ),
    )
    expect(results).toEqual(['no value', 'good', 'good'])
    expect(pool.destroyedCount).toBe(0)
  })

  it('callbacks and row modes work as on any pool', async () => {
    const pool = openPool()
    await know(pool)
    const client = await tenancy.run('t0', () => pool.connect())
    const arrays = tenancy.run('t5', () =>
      pool.query({ text: SQL, values: [2, 9], rowMode: 'array' }),
    )
    const called = new Promise((resolve) => {
      void tenancy.run('t6', () =>
        pool.query(SQL, [3, 8], (error, result) =>
          resolve([error ?? undefined, result.rows, tenancy.require().tenant.id]),
        ),
      )
    })
    client.release()
    expect((await arrays).rows).toEqual([[2, 'canary:t5:2', 9]])
    expect(await called).toEqual([undefined, [{ id: 3, owner: 'canary:t6:3', echo: 8 }], 't6'])
  })
})

describe('statements that do not', () => {
  it('share no connection until they are known, and never when they leave something behind', async () => {
    const pool = openPool({ max: 2, maxPerTenant: 2 })
    const leaving = 'select leaves_temporary($1) as strangers'
    for (let round = 0; round < 3; round++) {
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, unit) =>
          tenancy.run(tenantOf(unit), () =>
            pool.query<{ strangers: number }>(leaving, [tenantOf(unit)]),
          ),
        ),
      )
      for (const { rows } of results) expect(rows).toEqual([{ strangers: 0 }])
    }
  })

  it('a slow one has its connection to itself, and quick ones pass it by', async () => {
    const pool = openPool({ max: 2 })
    const slow = 'select pg_sleep($1), $2::int as echo'
    await know(pool)
    await know(pool, slow, [0.06, 0])
    const sleeping = tenancy.run('t0', () => pool.query(slow, [0.8, 1]))
    await Promise.all(
      Array.from({ length: 100 }, (_, unit) =>
        tenancy.run(tenantOf(unit), () => pool.query(SQL, [1, unit])),
      ),
    )
    expect(await Promise.race([sleeping.then(() => 'slept'), Promise.resolve('awake')])).toBe(
      'awake',
    )
    await sleeping
  })

  it('nobody joins a connection whose statement has been under way for long', async () => {
    const pool = openPool({ max: 2, maxPerTenant: 8 })
    // Quick when it was learned.
    const sometimes = 'select pg_sleep($1), $2::int as echo'
    await know(pool, sometimes, [0, 0])
    await know(pool)
    const client = await tenancy.run('t0', () => pool.connect())
    const sleeping = tenancy.run('t1', () => pool.query(sometimes, [0.6, 1]))
    await eventually(async () => {
      const { rows } = await db.query(
        "select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'",
      )
      return rows.length === 1
    })
    await new Promise((resolve) => setTimeout(resolve, 80))
    const quick = tenancy.run('t2', () => pool.query(SQL, [1, 7]))
    client.release()
    expect(await Promise.race([sleeping.then(() => 'slept'), quick.then(() => 'quick')])).toBe(
      'quick',
    )
    await sleeping
  })

  it('transactions are not starved by a flood of shared statements', async () => {
    const pool = openPool({ max: 1, maxPerTenant: 1 })
    await know(pool)
    const flooded = new AbortController()
    let flood = 0
    const flooding = Promise.all(
      Array.from({ length: 8 }, async (_, lane) => {
        while (!flooded.signal.aborted) {
          await tenancy.run(tenantOf(lane), () => pool.query(SQL, [1, lane]))
          flood++
        }
      }),
    )
    for (let round = 0; round < 20; round++)
      await tenancy.run('t9', () =>
        pool.transaction(async (query) => {
          const { rows } = await query<{ owner: string }>('select owner from item where id = 1')
          expect(rows).toEqual([{ owner: 'canary:t9:1' }])
        }),
      )
    flooded.abort()
    await flooding
    expect(flood).toBeGreaterThan(20)
  })
})

describe('faults', () => {
  it('a connection that is killed fails those who are on it, and the pool goes on', async () => {
    const pool = openPool({ max: 2 })
    await know(pool)
    const outcomes: string[] = []
    for (let round = 0; round < 5; round++) {
      const units = Array.from({ length: 64 }, (_, unit) => {
        const id = tenantOf(unit)
        return tenancy.run(id, () =>
          pool.query<{ owner: string; echo: number }>(SQL, [1, unit]).then(
            ({ rows }) => {
              if (rows[0]?.owner !== `canary:${id}:1` || rows[0].echo !== unit)
                outcomes.push(`crossed ${JSON.stringify(rows)}`)
              return 'answered'
            },
            () => 'failed',
          ),
        )
      })
      await db.query(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and query like '%from item%'",
      )
      await Promise.all(units)
    }
    expect(outcomes).toEqual([])
    // A server process that was told to end may take one more statement with it.
    const owner = await eventually(() =>
      tenancy.run('t1', async () => (await pool.query('select owner from item where id = 2')).rows),
    )
    expect(owner).toEqual([{ owner: 'canary:t1:2' }])
    await eventually(() => pool.waitingCount === 0 && pool.idleCount === pool.totalCount)
  })

  it('who waits too long is told, and is not run afterwards', async () => {
    const pool = openPool({ checkoutTimeoutMs: 100 })
    const insert = 'insert into log (unit) values ($1)'
    await know(pool, insert, [-2])
    const client = await tenancy.run('t0', () => pool.connect())
    await tenancy.run('t7', () =>
      expect(pool.query(insert, [1])).rejects.toMatchObject({
        code: 'ERR_TENANCY_POOL_EXHAUSTED',
      }),
    )
    client.release()
    await tenancy.run('t7', () => pool.query(insert, [2]))
    expect((await db.query('select unit from t7.log')).rows).toEqual([{ unit: 2 }])
  })

  it('at the end of the pool, who waits is told and who is under way is answered', async () => {
    const pool = openPool()
    await know(pool)
    const client = await tenancy.run('t0', () => pool.connect())
    const waiting = tenancy.run('t1', () => pool.query(SQL, [1, 1]))
    const ended = pool.end()
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_TENANCY_CLOSED' })
    client.release()
    await ended
  })

  it('query_timeout and depths that are none are refused', () => {
    expect(() => openPool({ query_timeout: 1_000 })).toThrow(/query_timeout/)
    expect(() => openPool({ pipelineDepth: 0 })).toThrow(/pipelineDepth/)
  })
})
