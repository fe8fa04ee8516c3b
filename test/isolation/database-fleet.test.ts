import { setTimeout as sleep } from 'node:timers/promises'
import type { TenantPool } from '@partywall/postgres'
import { canary, eventually, seededRandom } from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createFleetWorld, type FleetWorld, itemsOf } from './fleet-fixture.ts'

const DATABASES = 25
const TENANTS = 1_000
const CAP = 8
const count = (n: number): number => 1 + (n % 5)

let world: FleetWorld
let fleet: string
const databaseOf = (n: number): string => `fleet_${n % DATABASES}_${world.salt}`
const idOf = (n: number): string => `t-${n}`
const as = <T>(n: number, fn: () => Promise<T> | T): Promise<T> => world.as(idOf(n), fn)

beforeAll(async () => {
  world = await createFleetWorld((salt) =>
    Array.from({ length: TENANTS }, (_, n) => ({
      id: idOf(n),
      placement: { database: `fleet_${n % DATABASES}_${salt}` },
    })),
  )
  fleet = `fleet_${world.salt}`
  // Like the tenants' databases of a real fleet, the other databases are copies of one.
  await world.createDatabase(databaseOf(0))
  await world.inDatabase(databaseOf(0), `grant all on schema public to "${world.login}"`)
  for (let n = 1; n < DATABASES; n++) {
    await world.home.query(`create database ${databaseOf(n)} template ${databaseOf(0)}`)
  }
  for (let n = 0; n < DATABASES; n++) {
    const own = Array.from({ length: TENANTS / DATABASES }, (_, index) => index * DATABASES + n)
    await world.inDatabase(
      databaseOf(n),
      own
        .map(
          (tenant) => `create schema "${idOf(tenant)}";
            create table "${idOf(tenant)}".item as select n as id, 'canary:${idOf(tenant)}:' || n as owner from generate_series(1, ${count(tenant)}) n;
            grant usage on schema "${idOf(tenant)}" to "${world.login}"; grant all on "${idOf(tenant)}".item to "${world.login}";`,
        )
        .join('\n'),
    )
  }
}, 120_000)
afterAll(() => world[Symbol.asyncDispose]())

const open = (options: Parameters<FleetWorld['openPool']>[0] = {}): TenantPool =>
  world.openPool({
    application_name: fleet,
    ...options,
    databases: { maxConnections: CAP, maxPerDatabase: 3, ...options.databases },
  })
const items = async (pool: TenantPool, n: number): Promise<void> => {
  const { rows } = await as(n, () => pool.query('select id, owner from item order by id'))
  expect(rows).toEqual(itemsOf(idOf(n), count(n)))
}

describe('D16 the cap over all databases', () => {
  it(`D16 ${TENANTS} tenants in ${DATABASES} databases never have more than ${CAP} connections, whoever counts them`, async () => {
    // The server's own count is the judge: one connection too many is refused at once (53300).
    await world.home.query(`alter role "${world.login}" connection limit ${CAP}`)
    const pool = open()
    let most = 0
    pool.on('connect', () => {
      most = Math.max(most, pool.databaseCounts.total)
    })
    const random = seededRandom()
    let next = 0
    const worker = async (): Promise<void> => {
      while (next < TENANTS) {
        next++
        // In the order of the databases, which is the worst for whoever keeps connections; and at random.
        await items(pool, next % 3 === 0 ? random.integer(0, TENANTS - 1) : next - 1)
      }
    }
    await Promise.all(Array.from({ length: 40 }, worker))
    expect(most).toBeLessThanOrEqual(CAP)
    expect(most).toBeGreaterThan(CAP / 2)
    const { total, idle, waiting, databases } = pool.databaseCounts
    expect(waiting).toBe(0)
    expect(total).toBe(idle)
    // A pool is forgotten with its last connection.
    expect(databases).toBeLessThanOrEqual(CAP)
    expect(await world.backends(fleet)).toBe(total)
    await pool.end()
    expect(await world.backends(fleet)).toBe(0)
    await world.home.query(`alter role "${world.login}" connection limit -1`)
  }, 120_000)

  it('D16 a transaction keeps its connection and its database while all others come and go', async () => {
    const pool = open({ databases: { maxConnections: 2, maxPerDatabase: 1 } })
    await as(0, () =>
      pool.transaction(async (query) => {
        const place = async (): Promise<unknown> =>
          (
            await query(
              'select pg_backend_pid() as pid, current_database() as database, (select owner from item where id = 1) as owner',
            )
          ).rows[0]
        const before = await place()
        expect(before).toMatchObject({ database: databaseOf(0), owner: canary(idOf(0), 1) })
        await query("insert into item values (77, 'mine')")
        for (let n = 1; n < DATABASES; n++) await items(pool, n)
        expect(await place()).toEqual(before)
        // A neighbour in the same database has to wait for its own turn.
        const neighbour = items(pool, DATABASES)
        await sleep(20)
        expect(pool.databaseCounts.waiting).toBe(1)
        await query('delete from item where id = 77')
        return { neighbour }
      }),
    ).then(({ neighbour }) => neighbour)
    await pool.end()
  })

  it('D16 the connection that was used least recently makes room, and one that is in use never does', async () => {
    const pool = open({ databases: { maxConnections: 3, maxPerDatabase: 3 } })
    const pidOf = async (n: number): Promise<number> =>
      (await as(n, () => pool.query<{ pid: number }>('select pg_backend_pid() as pid'))).rows[0]
        ?.pid ?? 0
    const pids = [await pidOf(0), await pidOf(1), await pidOf(2)]
    expect(await pidOf(0)).toBe(pids[0])
    await pidOf(3)
    expect(await pidOf(0)).toBe(pids[0])
    expect(await pidOf(2)).toBe(pids[2])
    expect(await pidOf(1)).not.toBe(pids[1])
    await pool.end()
  })

  it('targets take turns: one caller of a second database is not behind a hundred of the first', async () => {
    const pool = open({
      maxPerTenant: 100,
      databases: { maxConnections: 1, maxPerDatabase: 1 },
    })
    const order: string[] = []
    const crowd = Array.from({ length: 100 }, async () => {
      await as(0, () => pool.query('select pg_sleep(0.002)'))
      order.push('crowd')
    })
    await eventually(() => order.length >= 5)
    const before = order.length
    await items(pool, 1)
    order.push('single')
    await Promise.all(crowd)
    expect(order.indexOf('single') - before).toBeLessThanOrEqual(4)
    await pool.end()
  })

  it('within a database the first comes first', async () => {
    const pool = open({ maxPerTenant: 50, databases: { maxConnections: 1, maxPerDatabase: 1 } })
    const asked: number[] = []
    const answered: number[] = []
    await Promise.all(
      Array.from({ length: 20 }, async (_, n) => {
        await as(n * DATABASES, () => {
          // The store is asked about the tenant first, which may take one longer than another.
          asked.push(n)
          return pool.query('select 1')
        })
        answered.push(n)
      }),
    )
    expect(asked).toHaveLength(20)
    expect(answered).toEqual(asked)
    await pool.end()
  })

  it('a connection that is idle for long is closed, and its pool forgotten', async () => {
    const pool = open({ databases: { idleTimeoutMs: 30 } })
    await items(pool, 0)
    expect(pool.databaseCounts).toMatchObject({ databases: 1, total: 1, idle: 1 })
    await eventually(() => pool.databaseCounts.databases === 0)
    expect(pool.databaseCounts.total).toBe(0)
    await pool.end()
  })
})
