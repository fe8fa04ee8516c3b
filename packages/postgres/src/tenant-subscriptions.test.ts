import { once } from 'node:events'
import { type AddressInfo, connect as connectTcp, createServer, type Socket } from 'node:net'
import {
  createTenancy,
  type MemoryTenantStore,
  memoryTenantStore,
  type Tenancy,
} from '@partywall/core'
import {
  canary,
  collectWarnings,
  createTestDatabase,
  eventually,
  type TestDatabase,
} from '@partywall/test-support'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { channelName } from './internal/channel-name.ts'
import { ListeningConnection } from './internal/listening-connection.ts'
import { TenantPool } from './tenant-pool.ts'

const TENANTS = ['acme', 'globex'] as const
const APPLICATION = 'subscriptions'

let db: TestDatabase
let store: MemoryTenantStore
let tenancy: Tenancy
let pool: TenantPool

beforeEach(async () => {
  db = await createTestDatabase()
  for (const id of TENANTS)
    await db.query(
      `create schema ${id}; create table ${id}.item (id int, owner text); insert into ${id}.item values (1, '${canary(id, 1)}')`,
    )
  store = memoryTenantStore(TENANTS.map((id) => ({ id })))
  tenancy = createTenancy({ store })
  pool = new TenantPool(tenancy, {
    connectionString: db.url,
    max: 3,
    direct: { connectionString: db.url, application_name: APPLICATION },
  })
})

afterEach(async () => {
  if (!pool.ending) await pool.end()
  await tenancy.close()
  await db[Symbol.asyncDispose]()
})

const as = <T>(id: string, fn: () => Promise<T> | T): Promise<T> =>
  tenancy.context.outside(() => tenancy.run(id, async () => fn()))

/** The sessions of subscriptions, as the server sees them. */
const sessions = async (): Promise<number[]> => {
  const { rows } = await db.query<{ pid: number }>(
    'select pid from pg_stat_activity where datname = current_database() and application_name = $1',
    [APPLICATION],
  )
  return rows.map(({ pid }) => pid)
}

test('D14 the same channel of two tenants is two channels, and each listener runs in its own tenant', async () => {
  const heard: unknown[] = []
  for (const id of TENANTS)
    await as(id, () =>
      pool.listen('orders', async (payload) => {
        const { rows } = await pool.query<{ owner: string }>('select owner from item')
        heard.push([id, tenancy.current()?.tenant.id, payload, rows[0]?.owner])
      }),
    )
  expect(await sessions()).toHaveLength(1)
  for (const id of TENANTS) await as(id, () => pool.notify('orders', canary(id, 2)))
  // No parsing, no trimming; and the end of what both hear.
  for (const id of TENANTS) await as(id, () => pool.notify('orders', ' {"end":"ü"} '))
  await eventually(() => expect(heard).toHaveLength(4))
  expect(heard.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))).toEqual(
    TENANTS.flatMap((id) => [
      [id, id, ' {"end":"ü"} ', canary(id, 1)],
      [id, id, canary(id, 2), canary(id, 1)],
    ]),
  )
})

test('channels are injective in tenant and name, and at most 63 bytes', async () => {
  const long = 'c'.repeat(70)
  const names = [
    'a',
    'A',
    'a:b',
    ':',
    'ü'.repeat(30),
    long,
    `${long}x`,
    'c'.repeat(57),
    'c'.repeat(58),
    '"; listen x',
    "'",
  ]
  const physical = ['acme', 'acme-a', 'x'.repeat(63)].flatMap((id) =>
    names.map((name) => channelName(id, name)),
  )
  expect(new Set(physical).size).toBe(physical.length)
  expect(Math.max(...physical.map((name) => Buffer.byteLength(name)))).toBeLessThanOrEqual(63)
  // A tenant cannot spell the hash of another one's channel, nor any name without its own id.
  expect(channelName('x'.repeat(63), 'a')).toMatch(/^:[\w-]{43}$/)
  for (const bad of ['', 'a\0b', '\ud800', 5, undefined])
    expect(() => channelName('acme', bad as string)).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  // At the server, each of them arrives, and nowhere else.
  const heard: string[] = []
  await as('acme', async () => {
    for (const name of names) await pool.listen(name, (payload) => heard.push(`${name} ${payload}`))
    for (const name of names) await pool.notify(name, name)
  })
  await eventually(() => expect(heard).toEqual(names.map((name) => `${name} ${name}`)))
})

test('in a transaction, a notification is sent with the commit, or not at all', async () => {
  const heard: string[] = []
  await as('acme', async () => {
    await pool.listen('orders', (payload) => heard.push(payload))
    await pool
      .transaction(async (query) => {
        await query(pool.notifyStatement('orders', 'rolled back'))
        throw new Error('no')
      })
      .catch(() => undefined)
    await pool.transaction(async (query) => {
      await query(pool.notifyStatement('orders', 'committed'))
      await pool.notify('orders', 'at once')
    })
  })
  await eventually(() => expect(heard).toEqual(['at once', 'committed']))
})

test('closed subscriptions hear nothing more at once; the connection ends with the last, and comes back', async () => {
  const heard: string[] = []
  const controller = new AbortController()
  const one = await as('acme', () =>
    pool.listen('orders', (payload) => heard.push(`one ${payload}`)),
  )
  const two = await as('acme', () =>
    pool.listen('orders', (payload) => heard.push(`two ${payload}`), { signal: controller.signal }),
  )
  expect(two.channel).toBe('orders')
  await as('acme', () => pool.notify('orders', 'a'))
  await eventually(() => expect(heard).toEqual(['one a', 'two a']))
  const closing = one.close()
  expect(one.closed).toBe(true)
  await as('acme', () => pool.notify('orders', 'b'))
  await closing
  await eventually(() => expect(heard).toEqual(['one a', 'two a', 'two b']))
  controller.abort()
  expect(two.closed).toBe(true)
  await eventually(async () => expect(await sessions()).toEqual([]))
  await one.close()
  {
    await using again = await as('acme', () =>
      pool.listen('orders', (payload) => heard.push(`again ${payload}`)),
    )
    await as('acme', () => pool.notify('orders', 'c'))
    await eventually(() => expect(heard.at(-1)).toBe('again c'))
    expect(again.closed).toBe(false)
  }
  expect(heard).toHaveLength(4)
  await eventually(async () => expect(await sessions()).toEqual([]))
  const aborted = AbortSignal.abort(new Error('beforehand'))
  await expect(
    as('acme', () => pool.listen('x', () => undefined, { signal: aborted })),
  ).rejects.toThrow('beforehand')
})

test('F1 a connection that breaks is opened again, and every subscriber is told of the gap in its own tenant', async () => {
  const events: string[] = []
  for (const id of TENANTS)
    await as(id, () =>
      pool.listen(
        'orders',
        (payload) => events.push(`${tenancy.current()?.tenant.id} ${payload}`),
        {
          onGap: (state) => events.push(`${tenancy.current()?.tenant.id} ${state}`),
        },
      ),
    )
  const [pid] = await sessions()
  await db.query('select pg_terminate_backend($1)', [pid])
  await eventually(() => expect(events.filter((event) => event.endsWith('ended'))).toHaveLength(2))
  expect(events).toEqual(['acme begun', 'globex begun', 'acme ended', 'globex ended'])
  for (const id of TENANTS) await as(id, () => pool.notify('orders', canary(id, 3)))
  await eventually(() =>
    expect(events.slice(4).toSorted()).toEqual(TENANTS.map((id) => `${id} ${canary(id, 3)}`)),
  )
  expect(await sessions()).not.toContain(pid)
})

test('F1 a half-open socket is noticed by the sign of life that does not come', async () => {
  await using wire = await createSilencer(db.url)
  const events: string[] = []
  const connection = new ListeningConnection({
    config: { connectionString: wire.url },
    onMessage: (channel, payload) => events.push(`${channel} ${payload}`),
    onGap: (state) => events.push(state),
    keepsProcessAlive: false,
    keepAliveMs: 50,
    answerTimeoutMs: 200,
  })
  await connection.listen('a')
  await connection.listen('b')
  wire.silence()
  await eventually(() => expect(events).toContain('lost'))
  // Nobody answers: one who asks now is told, and those who listened go on waiting.
  await expect(connection.listen('c')).rejects.toThrow(/./)
  wire.speak()
  await eventually(() => expect(events.at(-1)).toBe('restored'))
  await db.query("select pg_notify('c', 'no'), pg_notify('b', 'yes')")
  await eventually(() => expect(events.at(-1)).toBe('b yes'))
  expect(events).not.toContain('c no')
  await connection.close()
  await connection.close()
  await expect(connection.listen('d')).rejects.toThrow(/./)
})

test('a tenant that is suspended hears nothing more; active again it is told of the gap; deleted, its subscription is closed', async () => {
  const events: string[] = []
  const [subscription] = await Promise.all(
    TENANTS.map((id) =>
      as(id, () =>
        pool.listen('orders', (payload) => events.push(`${id} ${payload}`), {
          onGap: (state) => events.push(`${id} ${state}`),
        }),
      ),
    ),
  )
  const notify = async (payload: string): Promise<void> => {
    // By whoever can send SQL: the tenant itself cannot any more.
    for (const id of TENANTS)
      await db.query('select pg_notify($1, $2)', [channelName(id, 'orders'), payload])
    await eventually(() => expect(events).toContain(`globex ${payload}`))
  }
  await store.update('acme', { status: 'suspended' })
  await eventually(() => expect(events).toEqual(['acme begun']))
  await notify('1')
  await store.update('acme', { status: 'active' })
  await eventually(() => expect(events).toContain('acme ended'))
  await notify('2')
  expect(events.filter((event) => event.startsWith('acme'))).toEqual([
    'acme begun',
    'acme ended',
    'acme 2',
  ])
  await store.delete('acme')
  await eventually(() => expect(subscription?.closed).toBe(true))
  await notify('3')
  expect(events).not.toContain('acme 3')
})

test('what a listener throws stops neither the others nor the connection', async () => {
  using warnings = collectWarnings()
  const heard: string[] = []
  await as('acme', async () => {
    await pool.listen('orders', () => {
      throw new Error('first')
    })
    await pool.listen('orders', () => Promise.reject(new Error('second')))
    await pool.listen('orders', (payload) => heard.push(payload))
    await pool.notify('orders', 'a')
    await pool.notify('orders', 'b')
  })
  await eventually(() => expect(heard).toEqual(['a', 'b']))
  await eventually(() => expect(warnings.withCode('PARTYWALL_LISTENER_FAILED')).toHaveLength(4))
})

test('refused: without a tenant, behind a pooler without a way past it, after the end; and errors of the server subscribe nothing', async () => {
  const nothing = (): void => undefined
  await expect(pool.listen('x', nothing)).rejects.toMatchObject({
    code: 'ERR_TENANCY_CONTEXT_MISSING',
  })
  await expect(pool.notify('x')).rejects.toMatchObject({ code: 'ERR_TENANCY_CONTEXT_MISSING' })
  await expect(tenancy.central('test', () => pool.listen('x', nothing))).rejects.toMatchObject({
    code: 'ERR_TENANCY_CONTEXT_MISSING',
  })
  await as('acme', () =>
    expect(pool.notify('x', 'p'.repeat(8000))).rejects.toMatchObject({ code: '22023' }),
  )
  await using pooled = new TenantPool(tenancy, { connectionString: db.url, pooler: 'transaction' })
  await as('acme', () =>
    expect(pooled.listen('x', nothing)).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
      tenantId: 'acme',
    }),
  )
  expect(
    () => new TenantPool(tenancy, { connectionString: db.url, direct: { host: '127.0.0.1' } }),
  ).toThrow(/direct needs/)
  await using lost = new TenantPool(tenancy, {
    connectionString: db.url,
    direct: { connectionString: 'postgres://127.0.0.1:1/x' },
  })
  await as('acme', () =>
    expect(lost.listen('x', nothing)).rejects.toMatchObject({ code: 'ECONNREFUSED' }),
  )
  const subscription = await as('acme', () => pool.listen('x', nothing))
  const late = await as('acme', () => {
    const listening = pool.listen('y', nothing)
    const ended = tenancy.context.outside(() => pool.end())
    return Promise.allSettled([listening, ended])
  })
  expect(late[0]).toMatchObject({ status: 'rejected', reason: { code: 'ERR_TENANCY_CLOSED' } })
  expect(subscription.closed).toBe(true)
  expect(await sessions()).toEqual([])
  await as('acme', () =>
    expect(pool.listen('x', nothing)).rejects.toMatchObject({ code: 'ERR_TENANCY_CLOSED' }),
  )
})

test('behind a pooler with a way past it, subscriptions take that way', async () => {
  await db.query(`alter database ${db.name} set search_path = ''`)
  await using pooled = new TenantPool(tenancy, {
    connectionString: db.url,
    pooler: 'transaction',
    direct: { connectionString: db.url, application_name: APPLICATION },
  })
  const heard: string[] = []
  await as('acme', async () => {
    await pooled.listen('orders', (payload) => heard.push(payload))
    await pooled.notify('orders', 'a')
  })
  await eventually(() => expect(heard).toEqual(['a']))
  expect(await sessions()).toHaveLength(1)
})

test('LISTEN as a statement is refused, in both protocols and in texts of several statements, and its connection is not used again', async () => {
  const single = new TenantPool(tenancy, { connectionString: db.url, max: 1 })
  const refused = {
    code: 'ERR_TENANCY_STATEMENT_REFUSED',
    tenantId: 'acme',
    hint: expect.stringContaining('pool.listen'),
  }
  await as('acme', async () => {
    for (const query of [
      'listen orders',
      '/* no regular expression finds this */ LiStEn "orders"',
      { text: 'listen orders', queryMode: 'extended' },
      'select 1; listen orders; select 2',
      'listen orders; select 1',
    ])
      await expect(single.query(query as string)).rejects.toMatchObject(refused)
    expect(single.destroyedCount).toBe(5)
    const client = await single.connect()
    const heard: unknown[] = []
    client.on('notification', (message) => heard.push(message))
    client.on('error', (error) => heard.push(error))
    await client.query('begin')
    await expect(client.query('listen orders; select 1; select 2')).rejects.toMatchObject(refused)
    await client.query('commit')
    // What another session says, and even this one, is not for its ears.
    await db.query("notify orders, 'canary:globex:1'")
    expect((await client.query('select owner from item')).rows).toEqual([
      { owner: canary('acme', 1) },
    ])
    expect(heard).toEqual([])
    client.release()
  })
  expect(single.destroyedCount).toBe(6)
  // A function may listen behind our back; nobody hears it.
  await db.query(
    "create function acme.tune_in() returns void language plpgsql as $$ begin execute 'listen orders'; end $$",
  )
  await as('acme', () => single.query('select tune_in()'))
  await as('globex', async () => {
    const client = await single.connect()
    const heard: unknown[] = []
    client.on('notification', (message) => heard.push(message))
    await db.query("notify orders, 'canary:acme:1'")
    for (let n = 0; n < 3; n++) await client.query('select 1')
    expect(heard).toEqual([])
    client.release()
  })
  await single.end()
})

test('a subscription holds the process, unless allowExitOnIdle', async () => {
  const holds = async (allowExitOnIdle: boolean): Promise<boolean> => {
    await using own = new TenantPool(tenancy, { connectionString: db.url, allowExitOnIdle })
    const before = process
      .getActiveResourcesInfo()
      .filter((name) => name === 'TCPSocketWrap').length
    await as('acme', () => own.listen('x', () => undefined))
    return (
      process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length > before
    )
  }
  expect(await holds(false)).toBe(true)
  expect(await holds(true)).toBe(false)
})

/** A wire that can go dead without a word: sockets stay open, and nothing comes through. */
async function createSilencer(
  url: string,
): Promise<AsyncDisposable & { url: string; silence(): void; speak(): void }> {
  const target = new URL(url)
  const sockets = new Set<Socket>()
  let silent = false
  const server = createServer((client) => {
    const upstream = connectTcp(Number(target.port || 5432), target.hostname)
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from)
      from.on('error', () => undefined)
      from.on('data', (data) => void (silent || to.write(data)))
      from.on('close', () => to.destroy())
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: Object.assign(new URL(url), { hostname: '127.0.0.1', port: String(port) }).href,
    silence: () => void (silent = true),
    speak: () => void (silent = false),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
