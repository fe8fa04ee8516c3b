import { MikroORM } from '@mikro-orm/postgresql'
import { createGateRole } from '@partywall/postgres'
import { canary } from '@partywall/test-support'
import { PrismaPg } from '@prisma/adapter-pg'
import { drizzle } from 'drizzle-orm/node-postgres'
import knex from 'knex'
import pg from 'pg'
import postgres from 'postgres'
import { Sequelize } from 'sequelize'
import { DataSource } from 'typeorm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTenantDatabase, type TenantDatabase } from '../isolation/database-fixture.ts'
import { actAs, sqlStateOf, TENANTS } from './library-contract.ts'
import { PrismaClient } from './prisma/prisma-client.ts'

/** A library that is given the address of the database, not the pool, connects without a tenant. What it finds then is for the server to say. */
const QUERY = 'select owner from item'
async function thenClose(reading: Promise<unknown>, close: () => unknown): Promise<unknown> {
  try {
    return await reading
  } finally {
    await close()
  }
}
const LIBRARIES: Record<string, (url: string) => Promise<unknown>> = {
  pg: async (url) => {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    return thenClose(client.query(QUERY), () => client.end())
  },
  Drizzle: (url) => {
    const db = drizzle(url)
    return thenClose(db.execute(QUERY), () => db.$client.end())
  },
  Knex: (url) => {
    const db = knex({ client: 'pg', connection: url, log: { warn: () => undefined } })
    return thenClose(
      db.raw(QUERY).then((result: unknown) => result),
      () => db.destroy(),
    )
  },
  TypeORM: async (url) => {
    const source = await new DataSource({ type: 'postgres', url }).initialize()
    return thenClose(source.query(QUERY), () => source.destroy())
  },
  MikroORM: (url) => {
    const orm = new MikroORM({
      clientUrl: url,
      entities: [],
      discovery: { warnWhenNoEntities: false },
      ensureDatabase: false,
    })
    return thenClose(orm.em.fork().execute(QUERY), () => orm.close())
  },
  Sequelize: (url) => {
    const db = new Sequelize(url, { logging: false, dialectModule: pg, pool: { max: 1 } })
    return thenClose(db.query(QUERY), () => db.close())
  },
  'Prisma by itself': (url) => {
    const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url }) })
    return thenClose(prisma.item.findMany(), () => prisma.$disconnect())
  },
  'postgres.js': (url) => {
    const sql = postgres(url, { max: 1, onnotice: () => undefined })
    return thenClose(sql.unsafe(QUERY).execute(), () => sql.end())
  },
}

let world: TenantDatabase
let gate: string
let pathless: string
const urlOf = (role: string): string =>
  Object.assign(new URL(world.db.url), { username: role, password: 'secret' }).href

beforeAll(async () => {
  world = await createTenantDatabase()
  // The tempting copy: what a connection with the server's default path finds.
  await world.db.query(
    `create table public.item (id int primary key, owner text not null); insert into public.item values (1, '${canary('public', 1)}')`,
  )
  gate = `${world.db.name}_gate`
  pathless = `${world.db.name}_pathless`
  const central = new pg.Pool({ connectionString: world.db.url, max: 1 })
  await createGateRole(central, { name: gate, password: 'secret' })
  await central.query(
    `create role ${pathless} login password 'secret'; alter role ${pathless} set search_path = '';
     grant usage on schema ${TENANTS.join(', ')}, public to ${pathless}; grant select on all tables in schema ${TENANTS.join(', ')}, public to ${pathless}`,
  )
  await central.end()
})
afterAll(async () => {
  for (const role of [gate, pathless])
    await world.db.query(`drop owned by ${role}; drop role ${role}`)
  await world[Symbol.asyncDispose]()
})

describe.each(Object.entries(LIBRARIES))('%s with connections of its own', (name, read) => {
  it('finds nothing with a gate role, in or out of a tenant', async () => {
    const call = () => sqlStateOf(() => read(urlOf(gate)))
    // Its path is empty, and it may not use what is named.
    const refused = name === 'Prisma by itself' ? '42501' : '42P01'
    expect(await call()).toBe(refused)
    expect(await actAs(world)('acme', call)).toBe(refused)
  })

  it('finds nothing where the path of the login is empty, unless it names public itself', async () => {
    const found = await sqlStateOf(() => read(urlOf(pathless)))
    if (name === 'Prisma by itself')
      expect(found).toEqual({ fulfilled: [{ id: 1, owner: canary('public', 1) }] })
    else expect(found).toBe('42P01')
  })

  it('reads what is in public with any other login, whatever the tenant', async () => {
    const rows = await actAs(world)('acme', () => read(world.db.url))
    expect(JSON.stringify(rows)).toContain(canary('public', 1))
  })
})
