import { randomBytes } from 'node:crypto'
import { createTenant, type Tenant } from '@partywall/core'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createTenantDatabase, dropTenantDatabase } from './index.ts'
import { beginningLimit } from './internal/database-mark.ts'

const salt = randomBytes(4).toString('hex')
const acme = createTenant({ id: `acme-${salt}`, isolation: 'database' })
const globex = createTenant({ id: `globex-${salt}`, isolation: 'database' })
const CONFLICT = { code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT' }
const nameOf = ({ id }: Tenant): string => `tenant-${id}`

let db: TestDatabase
let central: pg.Pool

beforeAll(async () => {
  db = await createTestDatabase()
  central = new pg.Pool({ connectionString: db.url, max: 4 })
  await db.query(`create role "app_${salt}" login password 'secret'`)
})
afterAll(async () => {
  await db.query(`drop role "app_${salt}"`)
  await central.end()
  await db[Symbol.asyncDispose]()
})
afterEach(async () => {
  for (const { datname } of await databases())
    await db.query(`drop database "${datname}" with (force)`)
  expect(central.totalCount - central.idleCount).toBe(0)
  const { rows } = await db.query(
    "select 1 from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())",
  )
  expect(rows).toEqual([])
})

const databases = async (): Promise<
  { datname: string; mark: string | null; datallowconn: boolean; datconnlimit: number }[]
> =>
  (
    await db.query<{
      datname: string
      mark: string | null
      datallowconn: boolean
      datconnlimit: number
    }>(
      `select datname, shobj_description(oid, 'pg_database') as mark, datallowconn, datconnlimit
       from pg_database where datname like '%-' || $1 order by 1`,
      [salt],
    )
  ).rows
const markedAs = (tenant: Tenant): object => ({
  datname: nameOf(tenant),
  mark: `partywall tenant ${tenant.id}`,
  datallowconn: true,
  datconnlimit: -1,
})
const connectAs = async (database: string, user?: string): Promise<unknown> => {
  const url = new URL(db.url)
  url.pathname = `/${database}`
  if (user !== undefined) Object.assign(url, { username: user, password: 'secret' })
  const client = new pg.Client({ connectionString: url.href })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return (await client.query('select current_database() as name')).rows[0].name
  } catch (error) {
    return (error as pg.DatabaseError).code
  } finally {
    await client.end().catch(() => undefined)
  }
}

describe('createTenantDatabase', () => {
  it('creates and marks it, for its owner and those who may connect; repeating changes nothing else', async () => {
    const app = `app_${salt}`
    expect(await createTenantDatabase(central, acme)).toBe(true)
    expect(await databases()).toEqual([markedAs(acme)])
    expect(await connectAs(nameOf(acme), app)).toBe('42501')
    expect(await connectAs(nameOf(acme))).toBe(nameOf(acme))
    expect(await createTenantDatabase(central, acme, { connect: [app] })).toBe(false)
    expect(await connectAs(nameOf(acme), app)).toBe(nameOf(acme))
    expect(await createTenantDatabase(central, globex, { connect: [app] })).toBe(true)
    expect(await connectAs(nameOf(globex), app)).toBe(nameOf(globex))
    expect(await databases()).toEqual([markedAs(acme), markedAs(globex)])
  })

  it('survives racers: each database once, everybody happy', async () => {
    const created = await Promise.all(
      Array.from({ length: 12 }, (_, n) => createTenantDatabase(central, n % 2 ? acme : globex)),
    )
    expect(created.filter(Boolean)).toHaveLength(2)
    expect(await databases()).toEqual([markedAs(acme), markedAs(globex)])
  })

  it('goes on after a crash between its two statements, and takes nobody else for its own', async () => {
    const half = (tenant: Tenant, limit: number): Promise<unknown> =>
      db.query(
        `create database "${nameOf(tenant)}" template template0 allow_connections false connection limit ${limit}`,
      )
    await half(acme, beginningLimit(acme.id))
    expect(await createTenantDatabase(central, acme)).toBe(true)
    expect(await databases()).toEqual([markedAs(acme)])
    // Begun for somebody else.
    await half(globex, beginningLimit(acme.id))
    await expect(createTenantDatabase(central, globex)).rejects.toMatchObject(CONFLICT)
    await expect(dropTenantDatabase(central, globex, { confirm: globex.id })).rejects.toMatchObject(
      CONFLICT,
    )
    expect((await databases())[1]).toMatchObject({ mark: null, datallowconn: false })
  })

  it('refuses one of that name that is not marked as the tenant’s', async () => {
    await db.query(`create database "${nameOf(acme)}" template template0`)
    await expect(createTenantDatabase(central, acme)).rejects.toMatchObject(CONFLICT)
    await createTenantDatabase(central, globex)
    const thief = createTenant({
      id: 'thief',
      isolation: 'database',
      placement: { database: nameOf(globex) },
    })
    const own = createTenant({
      id: 'own',
      isolation: 'database',
      placement: { database: db.name },
    })
    for (const tenant of [thief, own]) {
      await expect(createTenantDatabase(central, tenant)).rejects.toMatchObject(CONFLICT)
      await expect(
        dropTenantDatabase(central, tenant, { confirm: tenant.id }),
      ).rejects.toMatchObject(CONFLICT)
    }
    expect(await databases()).toEqual([{ ...markedAs(acme), mark: null }, markedAs(globex)])
  })

  it('copies a template, and refuses what cannot be one, and tenants without a database', async () => {
    await createTenantDatabase(central, globex)
    const pool = new pg.Pool({
      connectionString: Object.assign(new URL(db.url), { pathname: `/${nameOf(globex)}` }).href,
    })
    await pool.query('create table plan (id int); insert into plan values (1)')
    await pool.end()
    // The connection of the pool may be on its way out.
    expect(await createTenantDatabase(central, acme, { template: nameOf(globex) })).toBe(true)
    const url = Object.assign(new URL(db.url), { pathname: `/${nameOf(acme)}` })
    const client = new pg.Client({ connectionString: url.href })
    await client.connect()
    expect((await client.query('select id from plan')).rows).toEqual([{ id: 1 }])
    await client.end()
    for (const options of [{ template: '' }, { template: 'x'.repeat(64) }, { connect: ['a\0b'] }])
      await expect(createTenantDatabase(central, acme, options)).rejects.toMatchObject({
        code: 'ERR_TENANCY_OPTION_INVALID',
      })
    for (const isolation of ['schema', 'row'] as const)
      await expect(
        createTenantDatabase(
          central,
          createTenant({ id: 'shared', isolation, placement: { database: nameOf(acme) } }),
        ),
      ).rejects.toMatchObject({ code: 'ERR_TENANCY_ISOLATION_UNSUPPORTED' })
    await expect(
      createTenantDatabase(central, createTenant({ id: `x-${salt}`, isolation: 'database' }), {
        template: `nothing-${salt}`,
      }),
    ).rejects.toMatchObject({ code: '3D000' })
  })
})

describe('dropTenantDatabase', () => {
  it('drops it under its sessions, and nobody else’s; repeating is harmless', async () => {
    for (const tenant of [acme, globex]) await createTenantDatabase(central, tenant)
    await expect(dropTenantDatabase(central, acme, { confirm: globex.id })).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
    })
    const url = Object.assign(new URL(db.url), { pathname: `/${nameOf(acme)}` })
    const client = new pg.Client({ connectionString: url.href })
    const broken = new Promise((resolve) => {
      client.on('error', resolve)
    })
    await client.connect()
    expect(await dropTenantDatabase(central, acme, { confirm: acme.id })).toBe(true)
    expect(await broken).toMatchObject({ code: '57P01' })
    expect(await dropTenantDatabase(central, acme, { confirm: acme.id })).toBe(false)
    expect(await databases()).toEqual([markedAs(globex)])
  })

  it('survives racers, also those who create', async () => {
    await createTenantDatabase(central, globex)
    for (let round = 0; round < 3; round++) {
      await createTenantDatabase(central, acme)
      const outcomes = await Promise.all(
        Array.from({ length: 6 }, (_, n) =>
          n % 2
            ? createTenantDatabase(central, acme)
            : dropTenantDatabase(central, acme, { confirm: acme.id }),
        ),
      )
      expect(outcomes.some(Boolean)).toBe(true)
      expect(await databases()).toContainEqual(markedAs(globex))
      expect((await databases()).filter(({ datallowconn }) => !datallowconn)).toEqual([])
    }
  })

  it('goes on after a crash, and nobody takes what is being dropped for sound', async () => {
    await createTenantDatabase(central, acme)
    await db.query(
      `comment on database "${nameOf(acme)}" is 'partywall tenant ${acme.id} (being dropped)'; alter database "${nameOf(acme)}" allow_connections false`,
    )
    await expect(createTenantDatabase(central, acme)).rejects.toMatchObject(CONFLICT)
    expect(await dropTenantDatabase(central, acme, { confirm: acme.id })).toBe(true)
    expect(await createTenantDatabase(central, acme)).toBe(true)
  })
})
