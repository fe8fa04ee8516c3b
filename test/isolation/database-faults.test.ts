import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { TenancyError } from '@partywall/core'
import { createTenantDatabase, type TenantPool } from '@partywall/postgres'
import { canary, eventually } from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import {
  createFleetWorld,
  type FleetWorld,
  itemSql,
  type OtherServer,
  startOtherServer,
} from './fleet-fixture.ts'

const UNAVAILABLE = 'ERR_TENANCY_DATABASE_UNAVAILABLE'
/** Those that work, at home and elsewhere. */
const SOUND = ['sound-home', 'sound-database', 'sound-far'] as const
const BREAKER = { failures: 3, firstMs: 60, longestMs: 200 }

let world: FleetWorld
let far: OtherServer
/** Takes connections and never says a word. */
let mute: Listener
/** Takes connections and hangs up. */
let rude: Listener

interface Listener extends AsyncDisposable {
  readonly port: number
  readonly connections: number
}

async function listen(onSocket: (socket: Socket) => void): Promise<Listener> {
  let connections = 0
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    connections++
    sockets.add(socket)
    socket.on('error', () => undefined)
    onSocket(socket)
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return connections
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => {
        server.close(resolve)
      })
    },
  }
}

const as = <T>(id: string, fn: () => Promise<T> | T): Promise<T> => world.as(id, fn)
const failureOf = async (pool: TenantPool, id: string): Promise<TenancyError> => {
  const error: unknown = await as(id, () => pool.query('select 1')).then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!TenancyError.is(error)) throw new Error('not a TenancyError', { cause: error })
  return error
}
const ownerOf = async (pool: TenantPool, id: string): Promise<unknown> =>
  (await as(id, () => pool.query('select owner from item where id = 1'))).rows[0]?.owner
const expectSound = async (pool: TenantPool): Promise<void> => {
  for (const id of SOUND) expect(await ownerOf(pool, id)).toBe(canary(id, 1))
}

beforeAll(async () => {
  far = await startOtherServer()
  mute = await listen(() => undefined)
  rude = await listen((socket) => socket.destroy())
  world = await createFleetWorld((salt) => [
    { id: 'sound-home' },
    { id: 'sound-database', placement: { database: `sound_${salt}` } },
    { id: 'sound-far', placement: { cluster: 'far' } },
    { id: 'dns', placement: { cluster: 'dns' } },
    { id: 'refused', placement: { cluster: 'refused' } },
    { id: 'password', placement: { cluster: 'password' } },
    { id: 'vanished', placement: { cluster: 'far', database: 'vanished' } },
    { id: 'full', placement: { cluster: 'far', database: 'full' } },
    { id: 'roleless', placement: { database: `sound_${salt}` } },
    ...Array.from({ length: 40 }, (_, n) => ({
      id: `mute-${n}`,
      placement: { cluster: 'mute', database: `d${n}` },
    })),
    { id: 'rude', placement: { cluster: 'rude' } },
    { id: 'reborn', isolation: 'database', placement: { cluster: 'far', database: 'reborn' } },
  ])
  const { login, salt } = world
  await world.home.query(itemSql('sound-home', 'sound-home', 1, login))
  await world.createDatabase(`sound_${salt}`)
  await world.inDatabase(`sound_${salt}`, itemSql('sound-database', 'sound-database', 1, login))
  await far.query(`create role "${login}" login password 'secret'`)
  await far.query(itemSql('sound-far', 'sound-far', 1, login))
  await far.query('create database "full" connection limit 0')
}, 60_000)
afterAll(async () => {
  await world[Symbol.asyncDispose]()
  await far[Symbol.asyncDispose]()
  await mute[Symbol.asyncDispose]()
  await rude[Symbol.asyncDispose]()
})

function open(options: Parameters<FleetWorld['openPool']>[0] = {}): TenantPool {
  const user = world.login
  const password = 'secret'
  const local = { host: '127.0.0.1', user, password }
  const { host, port } = far.fields
  return world.openPool({
    ...options,
    clusters: {
      far: { host, port, user, password, central: far.fields },
      dns: { ...local, host: 'nowhere.invalid' },
      refused: { ...local, port: 1 },
      password: { host, port, user, password: 'wrong' },
      mute: { ...local, port: mute.port },
      rude: { ...local, port: rude.port },
      ...options.clusters,
    },
    databases: {
      maxConnections: 8,
      maxPerDatabase: 4,
      connectTimeoutMs: 500,
      breaker: BREAKER,
      ...options.databases,
    },
  })
}

describe('F16 one tenant loses its database', () => {
  it.each([
    ['dns', /cannot be reached/, { code: expect.stringMatching(/ENOTFOUND|EAI_AGAIN/) }],
    ['refused', /cannot be reached/, { code: 'ECONNREFUSED' }],
    ['password', /refused the login/, { code: '28P01' }],
    ['vanished', /does not exist/, { code: '3D000' }],
    ['full', /as many connections/, { code: '53300' }],
    ['mute-0', /cannot be reached/, { message: expect.stringContaining('timeout') }],
    ['rude', /cannot be reached/, {}],
  ])(
    'F16 %s: a typed error for that tenant, which may be retried, and no other notices',
    async (id, message, cause) => {
      const pool = open()
      for (let n = 0; n < 2; n++) {
        const error = await failureOf(pool, id)
        expect(error).toMatchObject({
          code: UNAVAILABLE,
          status: 503,
          retryable: true,
          tenantId: id,
        })
        expect(error.message).toMatch(message)
        expect(error.cause).toMatchObject(cause)
        for (const secret of ['127.0.0.1', 'invalid', world.login, 'secret', 'wrong'])
          expect(error.message).not.toContain(secret)
        await expectSound(pool)
      }
      await expect(as(id, () => pool.connect())).rejects.toMatchObject({ code: UNAVAILABLE })
      await new Promise<void>((resolve) => {
        void as(id, () =>
          pool.connect((error) => resolve(expect(error).toMatchObject({ tenantId: id }))),
        )
      })
      await pool.end()
    },
  )

  it('F16 a whole server that does not answer takes a part of the fleet, and for a moment', async () => {
    const pool = open({ databases: { connectTimeoutMs: 3_000 } })
    const before = mute.connections
    const start = performance.now()
    const failures = Promise.all(Array.from({ length: 40 }, (_, n) => failureOf(pool, `mute-${n}`)))
    await eventually(() => pool.databaseCounts.waiting > 30)
    for (let n = 0; n < 5; n++) await expectSound(pool)
    // The others did not wait for its first timeout, and had most of the fleet to themselves.
    expect(performance.now() - start).toBeLessThan(2_500)
    expect(mute.connections - before).toBe(2)
    for (const error of await failures) expect(error.code).toBe(UNAVAILABLE)
    // Forty timeouts one after the other would be two minutes; after a few, nobody tries.
    expect(mute.connections - before).toBeLessThan(6)
    await expectSound(pool)
    await pool.end()
  })

  it('F16 the breaker: after three failures nobody tries, then one does; and again', async () => {
    const pool = open({ maxPerTenant: 10 })
    const start = rude.connections
    for (let n = 0; n < 3; n++) await failureOf(pool, 'rude')
    expect(rude.connections - start).toBe(3)
    const avoided = await failureOf(pool, 'rude')
    expect(avoided).toMatchObject({ code: UNAVAILABLE, retryable: true, tenantId: 'rude' })
    expect(avoided.message).toMatch(/not tried again yet/)
    expect(avoided.cause).toBeInstanceOf(Error)
    expect(rude.connections - start).toBe(3)
    // Its time has passed: of ten callers one tries.
    const probe = async (): Promise<number> => {
      const before = rude.connections
      const since = performance.now()
      await eventually(async () => {
        await Promise.all(Array.from({ length: 10 }, () => failureOf(pool, 'rude')))
        return rude.connections > before
      })
      expect(rude.connections - before).toBe(1)
      return performance.now() - since
    }
    await probe()
    // The time has doubled: 120 ms, then it stays at 200.
    expect(await probe()).toBeGreaterThan(100)
    expect(await probe()).toBeGreaterThan(180)
    expect(await probe()).toBeLessThan(600)
    await expectSound(pool)
    await pool.end()
  })

  it('F16 what comes back is served again, and its failures are forgotten', async () => {
    const pool = open()
    for (let n = 0; n < 5; n++) await failureOf(pool, 'reborn')
    const { login } = world
    await createTenantDatabase(pool.centralOf('far'), world.tenant('reborn'), { connect: [login] })
    await far.query(itemSql('public', 'reborn', 1, login), 'reborn')
    await eventually(async () => (await ownerOf(pool, 'reborn')) === canary('reborn', 1))
    // Gone under an open connection: whoever had it fails, the next gets a typed error.
    await far.query('drop database reborn with (force)')
    await eventually(async () => (await failureOf(pool, 'reborn')).code === UNAVAILABLE, {
      timeoutMs: 5_000,
    })
    await expectSound(pool)
    await pool.end()
  })

  it('F16 a role that is not there, in another database, is told and leaves the connection whole', async () => {
    const pool = open({ role: 'per-tenant' })
    await world.inDatabase(`sound_${world.salt}`, 'create schema if not exists roleless')
    await expect(as('roleless', () => pool.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCOPE_FAILED',
      tenantId: 'roleless',
    })
    await eventually(() => pool.databaseCounts.idle === 1)
    expect(pool.databaseCounts).toMatchObject({ total: 1, idle: 1 })
    expect(pool.destroyedCount).toBe(0)
    await pool.end()
  })

  it('F16 a server that stops and starts under the pool is used again', async () => {
    const pool = open()
    await expectSound(pool)
    const { rows } = await as('sound-far', () => pool.query('select pg_backend_pid() as pid'))
    await far.query(`select pg_terminate_backend(${rows[0].pid})`)
    await eventually(async () => (await ownerOf(pool, 'sound-far')) === canary('sound-far', 1))
    await pool.end()
  })
})

describe('credentials', () => {
  it('a password function is asked at each new connection; one that fails or hangs is told', async () => {
    let password: () => string | Promise<string> = () => 'secret'
    let asked = 0
    const { host, port } = far.fields
    const pool = open({
      clusters: {
        far: {
          host,
          port,
          user: world.login,
          password: () => {
            asked++
            return password()
          },
        },
      },
      databases: { idleTimeoutMs: 10, breaker: 'off' },
    })
    expect(await ownerOf(pool, 'sound-far')).toBe(canary('sound-far', 1))
    expect(asked).toBe(1)
    await eventually(() => pool.databaseCounts.total === 0)
    await far.query(`alter role "${world.login}" password 'rotated'`)
    expect((await failureOf(pool, 'sound-far')).cause).toMatchObject({ code: '28P01' })
    password = () => Promise.resolve('rotated')
    expect(await ownerOf(pool, 'sound-far')).toBe(canary('sound-far', 1))
    await eventually(() => pool.databaseCounts.total === 0)
    password = () => Promise.reject(new Error('vault'))
    expect((await failureOf(pool, 'sound-far')).cause).toMatchObject({ message: 'vault' })
    password = () => new Promise(() => undefined)
    expect((await failureOf(pool, 'sound-far')).code).toBe(UNAVAILABLE)
    // Nothing hangs on: a login that failed gives its place back.
    await eventually(() => pool.databaseCounts.total === 0)
    await far.query(`alter role "${world.login}" password 'secret'`)
    await pool.end()
  })

  it('a cluster without a password does not get that of the environment, which is the own server’s', async () => {
    vi.stubEnv('PGPASSWORD', 'secret')
    const { host, port } = far.fields
    const pool = open({ clusters: { far: { host, port, user: world.login } } })
    expect((await failureOf(pool, 'sound-far')).code).toBe(UNAVAILABLE)
    vi.unstubAllEnvs()
    await pool.end()
  })

  it('what a hook throws is about one database: others of the server are tried', async () => {
    let fails = true
    const pool = open({
      onConnect: () => {
        if (fails) throw new Error('hook')
      },
    })
    for (let n = 0; n < 5; n++) expect((await failureOf(pool, 'vanished')).code).toBe(UNAVAILABLE)
    for (let n = 0; n < 3; n++)
      expect((await failureOf(pool, 'sound-far')).cause).toMatchObject({ message: 'hook' })
    fails = false
    expect(await ownerOf(pool, 'sound-database')).toBe(canary('sound-database', 1))
    expect((await failureOf(pool, 'full')).cause).toMatchObject({ code: '53300' })
    await pool.end()
  })

  it('setCluster: new connections are opened anew, those in use end at their release, idle ones at once', async () => {
    const pool = open({ maxPerTenant: 2, databases: { idleTimeoutMs: 'never' } })
    const { host, port } = far.fields
    const held = await as('sound-far', () => pool.connect())
    expect(await ownerOf(pool, 'sound-far')).toBe(canary('sound-far', 1))
    expect(pool.databaseCounts).toMatchObject({ total: 2, idle: 1 })
    await held.query('begin')
    const { rows: before } = await held.query('select pg_backend_pid() as pid')
    await far.query(`alter role "${world.login}" password 'rotated'`)
    const settings = {
      host,
      port,
      user: world.login,
      application_name: 'second',
      password: 'rotated',
    }
    pool.setCluster('far', settings)
    await eventually(() => pool.databaseCounts.total === 1)
    const asked = await as('sound-far', () =>
      pool.query("select owner, current_setting('application_name') as name from item"),
    )
    expect(asked.rows).toEqual([{ owner: canary('sound-far', 1), name: 'second' }])
    // The old one finishes in peace.
    expect((await held.query('select pg_backend_pid() as pid')).rows).toEqual(before)
    await held.query('commit')
    held.release()
    await eventually(() => pool.databaseCounts.total === 1)
    const names = await far.query(
      `select application_name as name from pg_stat_activity where usename = '${world.login}'`,
    )
    expect(names.rows).toEqual([{ name: 'second' }])
    await far.query(`alter role "${world.login}" password 'secret'`)
    // A cluster that was avoided is tried again at once, and one may be added.
    const { password: _, ...address } = settings
    for (let n = 0; n < 4; n++) await failureOf(pool, 'password')
    expect((await failureOf(pool, 'password')).message).toMatch(/not tried again/)
    pool.setCluster('password', { ...address, password: 'secret' })
    await expect(as('password', () => pool.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_SCHEMA_MISSING',
    })
    expect(() => pool.setCluster('far', { host: '' })).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
    await pool.end()
  })

  it('an attempt that began with old settings is made again with the new ones', async () => {
    const pool = open()
    const { host, port } = far.fields
    const before = mute.connections
    const slow = failureOf(pool, 'mute-1')
    await eventually(() => mute.connections > before)
    pool.setCluster('mute', { host, port, user: world.login, password: 'secret' })
    // The answer of the other server, and not the timeout of the first.
    expect((await slow).cause).toMatchObject({ code: '3D000' })
    await pool.end()
  })

  it('citus: schemas that central makes there are distributed, the statements of tenants change nothing', async () => {
    const { host, port } = far.fields
    const pool = open({
      clusters: {
        far: {
          host,
          port,
          user: world.login,
          password: 'secret',
          engine: 'citus',
          central: far.fields,
        },
      },
    })
    const setting = "select current_setting('citus.enable_schema_based_sharding', true) as value"
    expect((await pool.centralOf('far').query(setting)).rows).toEqual([{ value: 'on' }])
    expect((await as('sound-far', () => pool.query(setting))).rows).toEqual([{ value: null }])
    await pool.end()
  })
})
