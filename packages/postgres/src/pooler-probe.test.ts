import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  createTestDatabase,
  eventually,
  startPgBouncer,
  startTestPooler,
  type TestDatabase,
  type TestPgBouncer,
  whyNoPgBouncer,
} from '@partywall/test-support'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type PoolerReport, probePooler } from './pooler-probe.ts'

const missing = await whyNoPgBouncer()
const missingNames = missing ?? (await whyNoPgBouncer([1, 21]))

let db: TestDatabase
beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db[Symbol.asyncDispose]())

/** Processes of the server that clients of this database have. */
const connected = async (): Promise<number[]> =>
  (
    await db.query<{ pid: number }>(
      "select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid() order by pid",
    )
  ).rows.map(({ pid }) => pid)

/** What every connection of a pooler has as a session setting or a prepared statement: all are held at one time, so that each is looked at. */
async function residue(
  url: string,
  connections: number,
  hold: 'begin' | '' = 'begin',
): Promise<unknown[]> {
  const clients = Array.from({ length: connections }, () => new pg.Client(url))
  const found: unknown[] = []
  const pids = new Set<number>()
  for (const client of clients) {
    await client.connect()
    await client.query(hold)
    const { rows } = await client.query<{
      pid: number
      seed: string
      source: string
      names: number
    }>(
      `select pg_backend_pid() as pid, current_setting('geqo_seed') as seed, source,
        (select count(*)::int from pg_prepared_statements where name !~ '^PGBOUNCER_') as names
      from pg_settings where name = 'geqo_seed'`,
    )
    for (const { pid, ...left } of rows) {
      pids.add(pid)
      if (left.source !== 'default' || left.names > 0) found.push({ pid, ...left })
    }
  }
  await Promise.all(clients.map((client) => client.end()))
  expect(pids.size).toBe(connections)
  return found
}

const known: Partial<PoolerReport> = { basePath: '"$user", public' }

describe('without a pooler', () => {
  test('each client has a server process of its own, and none stays', async () => {
    const before = await connected()
    expect(await probePooler(db.url)).toMatchObject({
      ...known,
      mode: 'none',
      sharesBackends: false,
      sessionState: 'own',
      startupParameters: 'passed',
      preparedStatements: true,
    })
    await eventually(async () => (await connected()).length === before.length)
  })

  test('takes a pool, whose password does not show, a config and an address', async () => {
    const { username, password, port, pathname } = new URL(db.url)
    const config = {
      user: username,
      password,
      host: '127.0.0.1',
      port: Number(port),
      database: pathname.slice(1),
    }
    const pool = new pg.Pool(config)
    for (const target of [pool, config, db.url])
      expect((await probePooler(target)).mode).toBe('none')
    expect(pool.totalCount).toBe(0)
    await pool.end()
  })

  test('sees the base path of the login, and the version', async () => {
    const role = `probed_${db.name}`
    await db.query(
      `create role ${role} login password 'secret'; alter role ${role} set search_path = ''`,
    )
    const url = Object.assign(new URL(db.url), { username: role, password: 'secret' }).href
    const { basePath, serverVersion } = await probePooler(url)
    expect(basePath).toBe('""')
    expect(serverVersion).toBeGreaterThanOrEqual(120_000)
    await db.query(`drop role ${role}`)
  })

  test('refuses options that are none', async () => {
    for (const options of [{ timeoutMs: 0 }, { maxClients: 2 }, { timeout: 5 } as never])
      await expect(probePooler(db.url, options)).rejects.toMatchObject({
        code: 'ERR_TENANCY_OPTION_INVALID',
      })
  })
})

describe('in bounded time', () => {
  test.each([
    ['an address where nobody listens', 'postgres://nobody@127.0.0.1:1/x'],
    ['a login that is refused', 'wrong password'],
  ])('%s', async (_what, address) => {
    const url = address.startsWith('postgres')
      ? address
      : Object.assign(new URL(db.url), { password: 'wrong' }).href
    const error = await probePooler(url).catch((cause: unknown) => cause)
    expect(error).toMatchObject({ code: 'ERR_TENANCY_DATABASE_UNAVAILABLE' })
    expect(String(error)).not.toContain(new URL(db.url).password)
  })

  test('a server that takes the connection and says nothing', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as { port: number }
    const start = performance.now()
    await expect(
      probePooler(`postgres://x:y@127.0.0.1:${port}/z`, { timeoutMs: 300 }),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_DATABASE_UNAVAILABLE' })
    expect(performance.now() - start).toBeLessThan(2_000)
    silent.close()
  })
})

describe('behind a transaction pooler of any make', () => {
  test.each([
    ['that shows the numbers of the server', { connections: 1, key: 'server' }],
    ['that shows the numbers of the server, and has several', { connections: 3, key: 'server' }],
    ['that takes its connections in turns', { connections: 4, order: 'fifo' }],
    [
      'that has more connections, in turns, than the probe has clients',
      { connections: 12, order: 'fifo' },
    ],
    ['that gives a client what it had before', { connections: 5, order: 'sticky' }],
  ] as const)('%s', async (_what, options) => {
    await using pooler = await startTestPooler({ postgresUrl: db.url, ...options })
    const report = await probePooler(pooler.url)
    expect(report).toMatchObject({
      ...known,
      mode: 'transaction',
      sharesBackends: true,
      sessionState: 'leaks',
      startupParameters: 'accepted',
      preparedStatements: false,
    })
    expect(await residue(pooler.url, options.connections)).toEqual([])
  })
})

describe.skipIf(missing)(`behind PgBouncer${missing ? ` (SKIPPED: ${missing})` : ''}`, () => {
  interface Case {
    readonly what: string
    readonly poolMode: PoolerMode
    readonly poolSize: number
    readonly found?: Partial<PoolerReport>
    readonly settings?: Readonly<Record<string, string | number>>
  }
  type PoolerMode = 'session' | 'transaction' | 'statement'
  const turns = { server_round_robin: 1, min_pool_size: 4 }
  const ignoring = { ignore_startup_parameters: 'search_path' }
  const unclean = { server_reset_query: '' }
  const leaks = { sessionState: 'leaks', preparedStatements: false } as const
  const reset = { sessionState: 'reset', preparedStatements: true } as const
  const handedOn = { sessionState: 'leaks', preparedStatements: true } as const
  const accepted = { ...leaks, startupParameters: 'accepted' } as const
  const ignored = { ...reset, startupParameters: 'ignored' } as const
  const cleaned = { sessionState: 'reset', preparedStatements: false } as const
  const always = { server_reset_query_always: 1 }
  const cases: readonly Case[] = [
    { what: 'one connection', poolMode: 'transaction', poolSize: 1, found: leaks },
    { what: 'four connections', poolMode: 'transaction', poolSize: 4, found: leaks },
    { what: 'in turns', poolMode: 'transaction', poolSize: 4, found: leaks, settings: turns },
    { what: 'resets', poolMode: 'transaction', poolSize: 1, found: cleaned, settings: always },
    { what: 'deaf', poolMode: 'transaction', poolSize: 2, found: accepted, settings: ignoring },
    { what: 'one connection', poolMode: 'session', poolSize: 1, found: reset },
    { what: 'two connections', poolMode: 'session', poolSize: 2, found: reset },
    { what: 'many connections', poolMode: 'session', poolSize: 20, found: reset },
    { what: 'no reset', poolMode: 'session', poolSize: 20, found: handedOn, settings: unclean },
    { what: 'one, no reset', poolMode: 'session', poolSize: 1, found: handedOn, settings: unclean },
    { what: 'deaf', poolMode: 'session', poolSize: 20, found: ignored, settings: ignoring },
    { what: 'one connection', poolMode: 'statement', poolSize: 1, found: leaks },
    { what: 'four connections', poolMode: 'statement', poolSize: 4, found: leaks },
  ]

  test.each(cases)('$poolMode mode, $what ($poolSize)', async (given) => {
    const { poolMode, poolSize, found, settings } = given
    await using pooler = await startPgBouncer({
      postgresUrl: db.url,
      poolMode,
      poolSize,
      ...(missingNames === undefined ? { maxPreparedStatements: 0 } : {}),
      ...(settings === undefined ? {} : { settings }),
    })
    const start = performance.now()
    const report = await probePooler(pooler.url)
    expect(report).toMatchObject({
      ...known,
      mode: poolMode,
      sharesBackends: true,
      startupParameters: 'refused',
      ...found,
    })
    expect(report.evidence.length).toBeGreaterThan(0)
    expect(performance.now() - start).toBeLessThan(5_000)
    if (poolMode === 'statement' && poolSize === 1)
      expect(await residue(pooler.url, poolSize, '')).toEqual([])
    else if (poolMode !== 'statement' && poolSize <= 4)
      expect(await residue(pooler.url, poolSize)).toEqual([])
  })

  test.skipIf(missingNames)(
    `with prepared statements that the pooler carries along${missingNames ? ` (SKIPPED: ${missingNames})` : ''}`,
    async () => {
      await using pooler = await startPgBouncer({
        postgresUrl: db.url,
        poolMode: 'transaction',
        poolSize: 2,
        maxPreparedStatements: 50,
      })
      expect(await probePooler(pooler.url)).toMatchObject({
        mode: 'transaction',
        sessionState: 'leaks',
        preparedStatements: true,
      })
      expect(await residue(pooler.url, 2)).toEqual([])
    },
  )

  test('what it says of a session setting is what two clients of one connection see', async () => {
    const seen = async (pooler: TestPgBouncer): Promise<unknown> => {
      const [one, other] = [new pg.Client(pooler.url), new pg.Client(pooler.url)]
      await one.connect()
      await other.connect()
      await one.query("set search_path = 'acme'")
      const { rows } = await other.query('show search_path')
      await one.end()
      await other.end()
      return rows[0]?.search_path
    }
    const start = (always: number) =>
      startPgBouncer({
        postgresUrl: db.url,
        poolMode: 'transaction',
        poolSize: 1,
        settings: { server_reset_query_always: always },
      })
    await using leaking = await start(0)
    expect(await seen(leaking)).toBe('acme')
    expect((await probePooler(leaking.url)).sessionState).toBe('leaks')
    await using cleaning = await start(1)
    expect(await seen(cleaning)).toBe('"$user", public')
    expect((await probePooler(cleaning.url)).sessionState).toBe('reset')
  })

  test.each([1, 4])('beside an application that keeps %i connections busy', async (poolSize) => {
    await using pooler = await startPgBouncer({
      postgresUrl: db.url,
      poolMode: 'transaction',
      poolSize,
    })
    const strangers = new pg.Pool({ connectionString: pooler.url, max: 8 })
    let transactions = 0
    let stop = false
    const busy = Array.from({ length: 8 }, async () => {
      while (!stop) {
        const client = await strangers.connect()
        await client.query('begin')
        await client.query('select pg_sleep(random() * 0.004)')
        transactions++
        await client.query('commit')
        client.release()
      }
    })
    const reports = []
    for (let n = 0; n < 5; n++) reports.push(await probePooler(pooler.url))
    stop = true
    await Promise.all(busy)
    await strangers.end()
    expect(reports.map(({ mode }) => mode)).toEqual(Array(5).fill('transaction'))
    expect(reports.filter(({ sessionState }) => sessionState === 'leaks').length).toBeGreaterThan(0)
    expect(transactions).toBeGreaterThan(20)
    expect(await residue(pooler.url, poolSize)).toEqual([])
  })

  test('a pooler whose connections are all taken is no verdict', async () => {
    await using pooler = await startPgBouncer({
      postgresUrl: db.url,
      poolMode: 'transaction',
      poolSize: 1,
    })
    const stranger = new pg.Client(pooler.url)
    await stranger.connect()
    await stranger.query('begin')
    const start = performance.now()
    await expect(probePooler(pooler.url, { timeoutMs: 700 })).rejects.toMatchObject({
      code: 'ERR_TENANCY_DATABASE_UNAVAILABLE',
    })
    expect(performance.now() - start).toBeLessThan(2_500)
    // It goes on when there is one again.
    const waiting = probePooler(pooler.url)
    await sleep(700)
    await stranger.query('commit')
    expect((await waiting).mode).toBe('transaction')
    await stranger.end()
  })

  test('several poolers behind one address', async () => {
    const poolers = await Promise.all(
      [1, 2, 3].map(() =>
        startPgBouncer({ postgresUrl: db.url, poolMode: 'transaction', poolSize: 4 }),
      ),
    )
    let turn = 0
    const balancer = createServer((socket) => {
      const { port } = new URL(poolers[turn++ % poolers.length]?.url ?? '')
      const upstream = new (socket.constructor as typeof import('node:net').Socket)()
      upstream.connect(Number(port), '127.0.0.1')
      socket.pipe(upstream).pipe(socket)
      for (const end of [socket, upstream]) end.on('error', () => {})
    }).listen(0, '127.0.0.1')
    await once(balancer, 'listening')
    const { port } = balancer.address() as { port: number }
    const url = Object.assign(new URL(db.url), { port }).href
    expect(await probePooler(url)).toMatchObject({ mode: 'transaction', sharesBackends: true })
    balancer.close()
    for (const pooler of poolers) await pooler[Symbol.asyncDispose]()
  })
})
