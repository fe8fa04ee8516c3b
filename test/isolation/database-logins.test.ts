import { physicalName } from '@partywall/core'
import {
  createGateRole,
  createTenantRole,
  createTenantSchema,
  type TenantPool,
} from '@partywall/postgres'
import { canary, eventually } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { createFleetWorld, type FleetWorld } from './fleet-fixture.ts'

/** Each tenant has a schema, a role and a login; the gate may become both. Ids are the same everywhere. */
let world: FleetWorld
let acme: string
let globex: string
let gate: string
let central: pg.Pool
const as = <T>(id: string, fn: () => Promise<T> | T): Promise<T> => world.as(id, fn)

beforeAll(async () => {
  world = await createFleetWorld((salt) => [{ id: `acme-${salt}` }, { id: `globex-${salt}` }])
  const { salt } = world
  acme = `acme-${salt}`
  globex = `globex-${salt}`
  gate = `gate_${salt}`
  central = new pg.Pool({ connectionString: world.home.url, max: 2 })
  await createGateRole(central, { name: gate, password: 'secret' })
  for (const id of [acme, globex]) {
    const tenant = world.tenant(id)
    await createTenantSchema(central, tenant)
    await world.createLogin(physicalName('role', id), `secret of ${id}`)
    await central.query(
      `create table "${id}".item (id int primary key, owner text not null); insert into "${id}".item values (1, '${canary(id, 1)}')`,
    )
    await createTenantRole(central, tenant, { gate, sharedSchemas: [] })
  }
})
afterAll(async () => {
  await central.query(`drop owned by "${gate}" cascade; drop role "${gate}"`)
  await central.end()
  await world[Symbol.asyncDispose]()
})

const openGate = (): TenantPool =>
  world.openPool({
    connectionString: Object.assign(new URL(world.home.url), {
      username: gate,
      password: 'secret',
    }).href,
    max: 1,
    role: 'per-tenant',
  })
const openLogins = (options: Parameters<FleetWorld['openPool']>[0] = {}): TenantPool =>
  world.openPool({
    max: 1,
    role: 'per-tenant',
    login: 'per-tenant',
    credentials: async ({ id }) => ({ password: `secret of ${id}` }),
    ...options,
  })

/** SQL that was written to get to the rows of somebody else, through whatever door there is. The last result of each is what it found. */
const attacks = (victim: string): string[] => {
  const role = physicalName('role', victim)
  const read = `execute 'select owner from "${victim}".item' into found; raise exception 'found %', found;`
  const block = (door: string): string => `do $$ declare found text; begin ${door}; ${read} end $$`
  return [
    block(`perform set_config('role', '${role}', false)`),
    block(`perform set_config('role', '${role}', true)`),
    block(`set role "${role}"`),
    block(`reset role; set role "${role}"`),
    block(`set session authorization "${role}"`),
    `set role "${role}"; do $$ declare found text; begin ${read} end $$`,
    `reset role; do $$ declare found text; begin ${read} end $$`,
    `reset session authorization; set role "${role}"; do $$ declare found text; begin ${read} end $$`,
    `select set_config('role', '${role}', true), query_to_xml('select owner from "${victim}".item', true, true, '')`,
    `select owner from "${victim}".item`,
  ]
}
const outcomeOf = async (pool: TenantPool, attack: string): Promise<string> =>
  as(acme, () => pool.query(attack)).then(
    (result) => JSON.stringify([result].flat().map(({ rows }) => rows)),
    (error: unknown) => `${(error as pg.DatabaseError).code} ${(error as Error).message}`,
  )

describe('D12 SQL that is written to switch roles', () => {
  it('reaches the other tenant through a gate: that is the limit of role: per-tenant', async () => {
    const pool = openGate()
    const outcomes: string[] = []
    for (const attack of attacks(globex)) outcomes.push(await outcomeOf(pool, attack))
    expect(
      outcomes.filter((outcome) => outcome.includes(canary(globex, 1))).length,
    ).toBeGreaterThan(2)
    await pool.end()
  })

  it('does not where each tenant has a login of its own', async () => {
    const pool = openLogins()
    for (const attack of attacks(globex)) {
      const outcome = await outcomeOf(pool, attack)
      expect(outcome).not.toContain(canary(globex, 1))
      // The server's own refusal, and not some accident on the way.
      expect(outcome).toMatch(/^42501 /)
    }
    for (const id of [acme, globex])
      expect((await as(id, () => pool.query('select id, owner from item'))).rows).toEqual([
        { id: 1, owner: canary(id, 1) },
      ])
    await pool.end()
  })
})

describe('logins', () => {
  it('have connections of their own, under the cap over all', async () => {
    const pool = openLogins({
      application_name: `logins_${world.salt}`,
      databases: { maxConnections: 1 },
    })
    const backend = async (id: string): Promise<unknown> =>
      (
        await as(id, () =>
          pool.query(
            'select pg_backend_pid() as pid, session_user::text as login, current_user::text as role',
          ),
        )
      ).rows[0]
    const first = await backend(acme)
    expect(first).toMatchObject({ login: `tenant-${acme}`, role: `tenant-${acme}` })
    const second = await backend(globex)
    expect(second).toMatchObject({ login: `tenant-${globex}`, role: `tenant-${globex}` })
    expect(second).not.toMatchObject({ pid: (first as { pid: number }).pid })
    expect(await world.backends(`logins_${world.salt}`)).toBe(1)
    // Nothing was opened as the pool's own user.
    expect(pool.totalCount).toBe(0)
    await pool.end()
  })

  it('are asked of credentials at each new connection; what fails is told for that tenant alone', async () => {
    const asked: string[] = []
    let broken: (() => never) | undefined
    const pool = openLogins({
      credentials: ({ id }) => {
        asked.push(id)
        // Nobody is the current tenant here.
        expect(world.tenancy.current()).toBeUndefined()
        return id === acme && broken !== undefined
          ? broken()
          : { user: physicalName('role', id), password: `secret of ${id}` }
      },
      databases: { idleTimeoutMs: 10, connectTimeoutMs: 200, breaker: 'off' },
    })
    for (const id of [acme, globex]) await as(id, () => pool.query('select 1'))
    expect(asked).toEqual([acme, globex])
    await eventually(() => pool.databaseCounts.total === 0)
    const fails = async (match: object): Promise<void> => {
      await expect(as(acme, () => pool.query('select 1'))).rejects.toMatchObject(match)
      expect((await as(globex, () => pool.query('select 1 as one'))).rows).toEqual([{ one: 1 }])
      await eventually(() => pool.databaseCounts.total === 0)
    }
    const code = 'ERR_TENANCY_DATABASE_UNAVAILABLE'
    broken = () => {
      throw new Error('vault')
    }
    await fails({ code, tenantId: acme, retryable: true, cause: { message: 'vault' } })
    broken = () => new Promise(() => undefined) as never
    await fails({ code, cause: { message: expect.stringContaining('200 ms') } })
    broken = () => ({ password: 'wrong' }) as never
    await fails({ code, cause: { code: '28P01' } })
    for (const answer of [undefined, {}, { password: 1 }, { user: 'a\0b', password: '' }]) {
      broken = () => answer as never
      await fails({ code: 'ERR_TENANCY_OPTION_INVALID', tenantId: acme })
    }
    // What pg takes for a missing password would be looked up in the environment, and let somebody in.
    vi.stubEnv('PGPASSWORD', `secret of ${acme}`)
    broken = () => ({ password: '' }) as never
    await fails({ code, cause: { message: expect.stringMatching(/password/) } })
    vi.unstubAllEnvs()
    broken = undefined
    expect((await as(acme, () => pool.query('select 1 as one'))).rows).toEqual([{ one: 1 }])
    await pool.end()
  })

  it('need credentials, and a word that is known', () => {
    for (const options of [{ credentials: undefined }, { login: 'own' as never }])
      expect(() => openLogins(options)).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
  })
})
