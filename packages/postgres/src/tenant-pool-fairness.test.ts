import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { TenantPool, type TenantPoolOptions } from './index.ts'

const TENANTS = ['acme', 'globex', 'zeta']
let database: TestDatabase
let tenancy: Tenancy

beforeAll(async () => {
  database = await createTestDatabase()
  for (const id of TENANTS)
    await database.query(
      `create schema ${id}; create table ${id}.item (id int, owner text); insert into ${id}.item values (1, '${canary(id, 1)}')`,
    )
  tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
  for (const id of TENANTS) await tenancy.run(id, () => undefined)
})

afterAll(async () => {
  await tenancy.close()
  await database[Symbol.asyncDispose]()
})

async function withPool(
  options: TenantPoolOptions,
  fn: (pool: TenantPool) => Promise<void>,
): Promise<void> {
  const pool = new TenantPool(tenancy, { connectionString: database.url, ...options })
  try {
    await fn(pool)
  } finally {
    await pool.end()
  }
}

const read = (pool: TenantPool, id: string): Promise<unknown> =>
  tenancy.run(id, async () => (await pool.query('select owner from item')).rows)

test('one tenant cannot drain the pool: a connection is left for the others', () =>
  withPool({ max: 3 }, async (pool) => {
    const held = await tenancy.run('acme', () => Promise.all([pool.connect(), pool.connect()]))
    const order: string[] = []
    const more = ['first', 'second'].map((name) =>
      tenancy.run('acme', async () => {
        const client = await pool.connect()
        order.push(name)
        client.release()
      }),
    )
    expect(await read(pool, 'globex')).toEqual([{ owner: canary('globex', 1) }])
    expect(await read(pool, 'zeta')).toEqual([{ owner: canary('zeta', 1) }])
    expect(order).toEqual([])
    for (const client of held) client.release()
    await Promise.all(more)
    expect(order).toEqual(['first', 'second'])
    expect(pool.totalCount).toBeLessThanOrEqual(3)
  }))

test('a turn is given back after an error, a refusal and a connection that breaks', () =>
  withPool({ max: 2, maxPerTenant: 1 }, async (pool) => {
    for (let n = 0; n < 3; n++) {
      await expect(tenancy.run('acme', () => pool.query('select nope'))).rejects.toMatchObject({
        code: '42703',
      })
      await expect(
        tenancy.run('acme', () => pool.query('select pg_terminate_backend(pg_backend_pid())')),
      ).rejects.toThrow(/terminat/)
      await tenancy.run('acme', async () => {
        const client = await pool.connect()
        await client.query('begin')
        await client.query('select 1')
        client.release()
      })
    }
    expect(await read(pool, 'acme')).toEqual([{ owner: canary('acme', 1) }])
  }))

test('a server that cannot be reached gives every turn back', async () => {
  const pool = new TenantPool(tenancy, {
    host: '127.0.0.1',
    port: 1,
    max: 1,
    connectionTimeoutMillis: 2_000,
  })
  for (let n = 0; n < 3; n++)
    await expect(tenancy.run('acme', () => pool.query('select 1'))).rejects.toMatchObject({
      code: 'ECONNREFUSED',
    })
  await pool.end()
})

test('who waits too long is told, and does not take the connection that comes free later', () =>
  withPool({ max: 2, maxPerTenant: 1, checkoutTimeoutMs: 50 }, async (pool) => {
    const held = await tenancy.run('acme', () => pool.connect())
    const late = [
      tenancy.run('acme', () => pool.query('select 1')),
      tenancy.run('acme', () => pool.connect()),
    ]
    for (const outcome of await Promise.allSettled(late))
      expect(outcome).toMatchObject({ reason: { code: 'ERR_TENANCY_POOL_EXHAUSTED', status: 503 } })
    expect(await read(pool, 'globex')).toEqual([{ owner: canary('globex', 1) }])
    held.release()
    expect(await read(pool, 'acme')).toEqual([{ owner: canary('acme', 1) }])
    // The whole pool being busy counts as well.
    const all: pg.PoolClient[] = []
    for (const id of ['acme', 'globex']) all.push(await tenancy.run(id, () => pool.connect()))
    await expect(read(pool, 'zeta')).rejects.toMatchObject({ code: 'ERR_TENANCY_POOL_EXHAUSTED' })
    for (const client of all) client.release()
    expect(await read(pool, 'zeta')).toEqual([{ owner: canary('zeta', 1) }])
    expect(pool.idleCount).toBe(2)
  }))

test('a connection is replaced after as many tenants as it may serve, and that is no incident', () =>
  withPool({ max: 1, maxTenantsPerConnection: 2 }, async (pool) => {
    const pids: string[] = []
    for (const id of ['acme', 'acme', 'globex', 'zeta', 'zeta', 'acme'])
      pids.push(
        await tenancy.run(id, async () => {
          const { rows } = await pool.query<{ pid: string }>('select pg_backend_pid()::text as pid')
          return rows[0]?.pid ?? ''
        }),
      )
    expect(new Set(pids.slice(0, 3)).size).toBe(1)
    expect(new Set(pids.slice(3)).size).toBe(1)
    expect(pids[3]).not.toBe(pids[0])
    expect(pool.destroyedCount).toBe(0)
  }))

test('a limit that is none is refused', () => {
  for (const option of ['maxPerTenant', 'checkoutTimeoutMs', 'maxTenantsPerConnection'])
    for (const value of [0, -1, 1.5, '1'])
      expect(() => new TenantPool(tenancy, { [option]: value })).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
})
