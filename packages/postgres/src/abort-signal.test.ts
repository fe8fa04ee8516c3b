import { once } from 'node:events'
import { type AddressInfo, connect as connectTcp, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import {
  canary,
  createTestDatabase,
  eventually,
  seededRandom,
  type TestDatabase,
} from '@partywall/test-support'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { requestCancel } from './internal/cancel-request.ts'
import { TenantPool } from './tenant-pool.ts'
import type { TenantPoolOptions } from './tenant-pool-options.ts'

const TENANTS = ['acme', 'globex'] as const

let db: TestDatabase
let tenancy: Tenancy
let pools: TenantPool[]

beforeEach(async () => {
  db = await createTestDatabase()
  for (const id of TENANTS)
    await db.query(
      `create schema ${id}; create table ${id}.item (id int, owner text); insert into ${id}.item values (1, '${canary(id, 1)}')`,
    )
  tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
  for (const id of TENANTS) await as(id, () => undefined)
  pools = []
})

afterEach(async () => {
  for (const pool of pools) if (!pool.ending) await pool.end()
  await tenancy.close()
  await db[Symbol.asyncDispose]()
})

const open = (options: TenantPoolOptions = {}): TenantPool => {
  const pool = new TenantPool(tenancy, { connectionString: db.url, max: 1, ...options })
  pools.push(pool)
  return pool
}

const as = <T>(id: string, fn: () => Promise<T> | T): Promise<T> =>
  tenancy.context.outside(() => tenancy.run(id, async () => fn()))

const WHY = new Error('why')
const own = (id: string): unknown[] => [{ owner: canary(id, 1) }]
const read = (pool: TenantPool, id: string): Promise<unknown[]> =>
  as(id, async () => (await pool.query('select owner from item')).rows)

/** What the server is at, besides this question. */
const atWork = async (): Promise<number> => {
  const { rowCount } = await db.query(
    "select from pg_stat_activity where datname = current_database() and state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()",
  )
  return rowCount ?? 0
}

describe('a statement', () => {
  const FORMS: Record<
    string,
    (pool: TenantPool, text: string, signal: AbortSignal) => Promise<unknown>
  > = {
    'pool.query': (pool, text, signal) => pool.query({ text, signal }),
    'pool.query with values': (pool, text, signal) =>
      pool.query({ text: `${text} where $1 = 1`, signal }, [1]),
    'pool.query with a callback': (pool, text, signal) =>
      new Promise((resolve, reject) => {
        pool.query({ text, signal } as pg.QueryConfig, (error, result) =>
          error ? reject(error) : resolve(result),
        )
      }),
    'client.query': async (pool, text, signal) => {
      await using client = await pool.connect()
      return await client.query({ text, signal })
    },
    'query of a transaction': (pool, text, signal) =>
      pool.transaction((query) => query(text), { signal }),
    'unsafe session': (pool, text, signal) =>
      pool.unsafeSession((client) => client.query({ text, signal }), { reason: 'test' }),
  }

  test.each(Object.entries(FORMS))(
    '%s: under way, it is cancelled at the server; the connection serves the next tenant',
    async (_name, run) => {
      const pool = open()
      const controller = new AbortController()
      const running = as('acme', () => run(pool, 'select pg_sleep(60)', controller.signal))
      running.catch(() => undefined)
      await eventually(async () => expect(await atWork()).toBe(1))
      controller.abort(WHY)
      await expect(running).rejects.toBe(WHY)
      await eventually(async () => expect(await atWork()).toBe(0))
      expect(await read(pool, 'globex')).toEqual(own('globex'))
      expect([pool.destroyedCount, pool.totalCount]).toEqual([0, 1])
      // Not aborted, and aborted afterwards: nothing happens.
      const late = new AbortController()
      await as('acme', () => run(pool, 'select 1', late.signal))
      late.abort(WHY)
      expect(await read(pool, 'acme')).toEqual(own('acme'))
    },
  )

  test.each(Object.entries(FORMS))(
    '%s: aborted beforehand, nothing is sent',
    async (_name, run) => {
      const pool = open()
      await as('acme', () =>
        expect(run(pool, 'select pg_sleep(60)', AbortSignal.abort(WHY))).rejects.toBe(WHY),
      )
      expect(await read(pool, 'acme')).toEqual(own('acme'))
      expect(pool.destroyedCount).toBe(0)
    },
  )

  test('waiting for a connection, for its tenant’s turn, or on a busy client, it is never sent', async () => {
    for (const maxPerTenant of [1, 2]) {
      const pool = open({ max: 2, maxPerTenant })
      const busy = await as('acme', () => pool.connect())
      const other = maxPerTenant === 2 ? await as('acme', () => pool.connect()) : undefined
      const controller = new AbortController()
      const waiting = as('acme', () =>
        pool.query({
          text: "insert into item values (2, 'never')",
          signal: controller.signal,
        }),
      )
      const connecting = as('acme', () => pool.connect({ signal: controller.signal }))
      const transaction = as('acme', () =>
        pool.transaction(() => expect.unreachable(), { signal: controller.signal }),
      )
      const all = Promise.allSettled([waiting, connecting, transaction])
      await sleep(20)
      controller.abort(WHY)
      // At once: nobody has given a connection back.
      expect(await all).toMatchObject([{ reason: WHY }, { reason: WHY }, { reason: WHY }])
      await as('acme', async () => {
        const queued = new AbortController()
        const first = busy.query('select pg_sleep(0.1)')
        const second = busy.query({
          text: "insert into item values (3, 'never')",
          signal: queued.signal,
        })
        const third = busy.query('select owner from item')
        queued.abort(WHY)
        await expect(second).rejects.toBe(WHY)
        await first
        expect((await third).rows).toEqual(own('acme'))
      })
      busy.release()
      other?.release()
      expect(await read(pool, 'acme')).toEqual(own('acme'))
      expect([pool.waitingCount, pool.destroyedCount]).toEqual([0, 0])
      await pool.end()
    }
  })

  test('AbortSignal.timeout: the reason says so; the error of the statement stays its own', async () => {
    const pool = open()
    await as('acme', () =>
      expect(
        pool.query({ text: 'select pg_sleep(60)', signal: AbortSignal.timeout(100) }),
      ).rejects.toMatchObject({ name: 'TimeoutError' }),
    )
    await as('acme', () =>
      expect(
        pool.query({ text: 'select 1 / 0', signal: AbortSignal.timeout(1000) }),
      ).rejects.toMatchObject({ code: '22012' }),
    )
    expect(await read(pool, 'acme')).toEqual(own('acme'))
  })

  test('listeners do not gather on a signal that lives long', async () => {
    const pool = open()
    const { signal } = new AbortController()
    let listeners = 0
    for (const [name, by] of [
      ['addEventListener', 1],
      ['removeEventListener', -1],
    ] as const) {
      const original = signal[name].bind(signal) as (...args: unknown[]) => void
      Object.assign(signal, {
        [name]: (...args: unknown[]) => ((listeners += by), original(...args)),
      })
    }
    await as('acme', async () => {
      for (let n = 0; n < 5; n++) await pool.query({ text: 'select 1', signal })
      await pool.query({ text: 'select 1 / 0', signal }).catch(() => undefined)
      await using client = await pool.connect({ signal })
      await client.query({ text: 'select 1', signal })
    })
    expect(listeners).toBeLessThanOrEqual(0)
  })
})

describe('cancel requests on a way of their own', () => {
  /** A way to the server on which the first request is late, or is taken and has no effect. */
  const detour = async (
    first: 'late' | 'without effect',
  ): Promise<{ port: number; requests(): number; close(): void }> => {
    const target = new URL(db.url)
    let requests = 0
    const server = createServer((socket) => {
      socket.on('error', () => undefined)
      const number = ++requests
      if (number === 1 && first === 'without effect') {
        socket.end()
        return
      }
      socket.once('data', (data) => {
        setTimeout(
          () => {
            const upstream = connectTcp(Number(target.port || 5432), target.hostname, () =>
              upstream.write(data),
            )
            upstream.on('close', () => socket.end())
            upstream.on('error', () => undefined)
          },
          number === 1 ? 300 : 0,
        )
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return {
      port: (server.address() as AddressInfo).port,
      requests: () => requests,
      close: () => server.close(),
    }
  }

  test('K9 one that arrives when its statement has ended hits nobody: the connection waits for it', async () => {
    const way = await detour('late')
    const pool = open()
    const controller = new AbortController()
    const client = await as('acme', () => pool.connect())
    Object.assign(Object.getPrototypeOf(client) as object, { host: '127.0.0.1', port: way.port })
    client.release()
    const running = as('acme', () =>
      pool.query({ text: 'select owner, pg_sleep(0.1) from item', signal: controller.signal }),
    )
    const next = as('globex', () => pool.query('select owner, pg_sleep(0.6) from item'))
    await eventually(async () => expect(await atWork()).toBe(1))
    controller.abort(WHY)
    // It had come to its end, and that is what its caller is told.
    expect((await running).rows).toMatchObject(own('acme'))
    expect((await next).rows).toMatchObject(own('globex'))
    expect(way.requests()).toBe(1)
    way.close()
  })

  test('one that has no effect, because it was there before its statement, is repeated', async () => {
    const way = await detour('without effect')
    const pool = open()
    const controller = new AbortController()
    const client = await as('acme', () => pool.connect())
    Object.assign(Object.getPrototypeOf(client) as object, { host: '127.0.0.1', port: way.port })
    const running = as('acme', () =>
      client.query({ text: 'select pg_sleep(60)', signal: controller.signal }),
    )
    running.catch(() => undefined)
    await eventually(async () => expect(await atWork()).toBe(1))
    controller.abort(WHY)
    await expect(running).rejects.toBe(WHY)
    expect(way.requests()).toBe(2)
    client.release()
    way.close()
  })
})

describe('a transaction', () => {
  test('aborted between two statements, or behind a statement whose error was caught, saves nothing', async () => {
    const pool = open()
    for (const swallow of [false, true]) {
      const controller = new AbortController()
      await as('acme', () =>
        expect(
          pool.transaction(
            async (query) => {
              await query("insert into item values (2, 'never')")
              controller.abort(WHY)
              const next = query('select 1')
              if (swallow) await next.catch(() => undefined)
              else await next
            },
            { signal: controller.signal },
          ),
        ).rejects.toBe(WHY),
      )
    }
    expect(await read(pool, 'acme')).toEqual(own('acme'))
    expect([pool.totalCount, pool.destroyedCount]).toEqual([1, 0])
  })

  test('begins as it is told to, with a signal and without', async () => {
    const pool = open()
    const SHOW = 'show transaction_isolation'
    for (const options of [
      'begin isolation level serializable',
      { begin: 'begin isolation level serializable', signal: new AbortController().signal },
    ])
      await as('acme', async () =>
        expect((await pool.transaction((query) => query(SHOW), options)).rows).toEqual([
          { transaction_isolation: 'serializable' },
        ]),
      )
  })
})

test('K9 hundreds of statements that are aborted at every moment never hit the statement of the next tenant', async () => {
  const random = seededRandom()
  const pool = open({ max: 2, maxPerTenant: 2 })
  const outcomes = { reason: 0, result: 0 }
  const aborting = Array.from({ length: 400 }, async (_, index) => {
    const controller = new AbortController()
    const running = as(TENANTS[index % 2] ?? 'acme', () =>
      pool.query<{ owner: string }>({
        text: 'select owner, pg_sleep(0.002) from item',
        signal: controller.signal,
      }),
    )
    running.then(
      () => undefined,
      () => undefined,
    )
    await sleep(random.next() * 1500)
    controller.abort(WHY)
    try {
      const { rows } = await running
      expect(rows[0]?.owner).toBe(canary(TENANTS[index % 2] ?? '', 1))
      outcomes.result++
    } catch (error) {
      expect(error).toBe(WHY)
      outcomes.reason++
    }
  })
  const bystanders = Array.from({ length: 400 }, async (_, index) => {
    await sleep(random.next() * 1500)
    const id = TENANTS[index % 2] ?? 'acme'
    // Whatever hits it would be the cancellation of somebody else.
    const { rows } = await as(id, () => pool.query('select owner, pg_sleep(0.001) from item'))
    expect(rows[0]?.owner).toBe(canary(id, 1))
  })
  await Promise.all([...aborting, ...bystanders])
  expect(outcomes.reason).toBeGreaterThan(20)
  expect(outcomes.result).toBeGreaterThan(20)
  expect([pool.destroyedCount, pool.totalCount]).toEqual([0, 2])
})

test('the connection is kept until the server has taken the cancel request, and is destroyed if it never does', async () => {
  const pool = open()
  const { port } = new URL(db.url)
  const client = (await as('acme', () => pool.connect())) as unknown as {
    host: string
    port: number
    processID: number
    secretKey: number
    release(): void
    query: TenantPool['query']
  }
  const { host, processID, secretKey } = client
  // A request with a wrong secret is taken, and has no effect.
  expect(
    await requestCancel({
      host,
      port: Number(port || 5432),
      processId: processID,
      secretKey: secretKey ^ 1,
      ssl: false,
    }),
  ).toBe(true)
  expect(
    await requestCancel({ host: '127.0.0.1', port: 1, processId: 1, secretKey: 1, ssl: false }),
  ).toBe(false)
  const controller = new AbortController()
  const base = Object.getPrototypeOf(client) as { port: number }
  const running = as('acme', () =>
    client.query({ text: 'select pg_sleep(60)', signal: controller.signal }),
  )
  running.catch(() => undefined)
  await eventually(async () => expect(await atWork()).toBe(1))
  base.port = 1
  controller.abort(WHY)
  await expect(running).rejects.toBe(WHY)
  client.release()
  expect(await read(pool, 'globex')).toEqual(own('globex'))
  expect(pool.totalCount).toBe(1)
  await db.query(
    "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()",
  )
})

describe('using', () => {
  test('a client is released with its block, and destroyed where a transaction is left open', async () => {
    const pool = open()
    await as('acme', async () => {
      {
        using client = await pool.connect()
        await client.query('select 1')
      }
      expect([pool.idleCount, pool.destroyedCount]).toEqual([1, 0])
      {
        await using client = await pool.connect()
        await client.query("begin; insert into item values (2, 'never')")
      }
      expect(pool.destroyedCount).toBe(1)
      {
        using client = await pool.connect()
        client.release()
      }
      expect(await read(pool, 'acme')).toEqual(own('acme'))
    })
  })

  test('a pool ends with its block, also when it has ended before', async () => {
    let kept: TenantPool
    {
      await using pool = new TenantPool(tenancy, { connectionString: db.url })
      kept = pool
      expect(await read(pool, 'acme')).toEqual(own('acme'))
    }
    expect([kept.ending, kept.ended]).toEqual([true, true])
    await kept[Symbol.asyncDispose]()
  })
})
