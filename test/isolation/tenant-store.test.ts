import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { createTenantSchema, PostgresTenantStore, TenantPool } from '@partywall/postgres'
import { createTestDatabase, eventually, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { itIsATenantStore } from './tenant-store-contract.ts'

describe('memoryTenantStore', () => {
  itIsATenantStore(async () => memoryTenantStore())
})

describe('PostgresTenantStore', () => {
  let db: TestDatabase
  beforeAll(async () => {
    db = await createTestDatabase()
  })
  afterAll(() => db[Symbol.asyncDispose]())
  const openPool = (config: pg.PoolConfig = {}): pg.Pool => {
    const pool = new pg.Pool({ connectionString: db.url, max: 4, ...config })
    pool.on('error', () => undefined)
    onTestFinished(() => pool.end())
    return pool
  }
  const openStore = async (): Promise<PostgresTenantStore> => {
    await db.query('drop schema if exists partywall cascade')
    const store = new PostgresTenantStore(openPool())
    await store.migrate()
    return store
  }

  itIsATenantStore(openStore)

  it('P2 sets itself up once, however many processes begin at the same time', async () => {
    await db.query('drop schema if exists partywall cascade')
    const stores = Array.from({ length: 6 }, () => new PostgresTenantStore(openPool({ max: 1 })))
    await Promise.all(stores.map((store) => store.migrate()))
    await stores[0]?.create({ id: 'acme' })
    await stores[1]?.migrate()
    expect((await stores[2]?.findById('acme'))?.id).toBe('acme')
  })

  it('P2 N processes race for one id: one owner', async () => {
    await openStore()
    const racers = await Promise.allSettled(
      Array.from({ length: 8 }, (_, n) =>
        new PostgresTenantStore(openPool({ max: 1 })).create({ id: 'acme', name: `racer ${n}` }),
      ),
    )
    expect(racers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect((await db.query('select id from partywall.tenants')).rows).toEqual([{ id: 'acme' }])
  })

  it('refuses to lose a tombstone, also by hand', async () => {
    const store = await openStore()
    await store.create({ id: 'acme' })
    await expect(db.query("delete from partywall.tenants where id = 'acme'")).rejects.toThrow(
      'never given out twice',
    )
    await store.delete('acme')
    await expect(db.query('delete from partywall.tenants')).rejects.toThrow('never given out twice')
    expect(await store.findById('acme')).toMatchObject({ status: 'deleted' })
  })

  it('reads long lists in pages, in order and without holding a connection', async () => {
    const store = await openStore()
    await db.query(
      "insert into partywall.tenants (id, name, status, isolation, placement, place, tags, ingress, settings) select 'tenant-' || n, 'x', 'active', 'schema', '{}', 'place ' || n, '{}', true, '{}' from generate_series(1, 1203) n",
    )
    const ids: string[] = []
    for await (const { id } of store.list()) ids.push(id)
    expect(ids).toHaveLength(1203)
    expect(ids).toEqual([...ids].sort())
  })

  it('I2 a suspension by one process takes effect at once in another, though that one has the tenant in its cache', async () => {
    const store = await openStore()
    await store.create({ id: 'acme' })
    await store.create({ id: 'globex' })
    await using tenancy = createTenancy({
      store: new PostgresTenantStore(openPool()),
      lookup: { maxAgeMs: 3_600_000 },
    })
    await tenancy.ready()
    const enter = (id: string): Promise<unknown> =>
      tenancy.run(id, async () => 'in').catch((error: unknown) => (error as { code?: string }).code)
    expect([await enter('acme'), await enter('globex')]).toEqual(['in', 'in'])
    await store.update('acme', { status: 'suspended' })
    await eventually(async () => (await enter('acme')) === 'ERR_TENANCY_TENANT_SUSPENDED', {
      timeoutMs: 2_000,
    })
    expect(await enter('globex')).toBe('in')
    // By hand as well.
    await db.query("update partywall.tenants set status = 'suspended' where id = 'globex'")
    await eventually(async () => (await enter('globex')) === 'ERR_TENANCY_TENANT_SUSPENDED', {
      timeoutMs: 2_000,
    })
  })

  it('F1 a subscription that is cut off is opened again, and says that anything may have changed', async () => {
    const store = await openStore()
    const heard: string[] = []
    await using _watch = await store.watch?.((id) => heard.push(id))
    for (let n = 0; n < 2; n++) {
      heard.length = 0
      await db.query(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'listen%'",
      )
      await store.create({ id: `missed-${n}` })
      // Once when it breaks, once when it is there again.
      await eventually(() => heard.filter((id) => id === '*').length >= 2)
      heard.length = 0
      await store.create({ id: `heard-${n}` })
      await eventually(() => heard.includes(`heard-${n}`))
    }
  })

  it('a subscription uses the password that a pool keeps out of sight', async () => {
    // A server that asks for a password, takes note of it and hangs up.
    const passwords: string[] = []
    const server = createServer((socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => {
        socket.write(Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 3]))
        socket.once('data', (data: Buffer) => {
          passwords.push(data.toString('utf8', 5, data.length - 1))
          socket.end()
        })
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const pool = new pg.Pool({
      host: '127.0.0.1',
      port,
      user: 'app',
      password: 'from the options',
      database: 'x',
    })
    await expect(new PostgresTenantStore(pool).watch?.(() => undefined)).rejects.toThrow(
      'terminated',
    )
    expect(passwords).toEqual(['from the options'])
    await pool.end()
    server.close()
  })

  it('P2 createTenantSchema: racers make one schema, and nobody takes over a foreign one', async () => {
    const store = memoryTenantStore([{ id: 'acme' }, { id: 'globex' }])
    await using tenancy = createTenancy({ store })
    const pool = new TenantPool(tenancy, { connectionString: db.url, central: { max: 4 } })
    onTestFinished(() => pool.end())
    const acme = await store.findById('acme')
    const globex = await store.findById('globex')
    if (acme === undefined || globex === undefined) throw new Error('no tenants')
    const made = await Promise.all(
      Array.from({ length: 6 }, () => createTenantSchema(pool.central, acme)),
    )
    expect(made.filter(Boolean)).toHaveLength(1)
    await db.query('create schema globex; create table globex.item (owner text)')
    await expect(createTenantSchema(pool.central, globex)).rejects.toMatchObject({
      code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
    })
  })
})
