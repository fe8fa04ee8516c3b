import { Client } from 'pg'
import { expect, inject, test } from 'vitest'

import { canary, createTestDatabase, createTestRedis, foreignCanaries } from './index.ts'

const TENANTS = ['acme', 'globex'] as const

test('two databases of one server share no row, and both are gone at the end', async () => {
  let names: string[]
  {
    await using first = await createTestDatabase()
    await using second = await createTestDatabase()
    names = [first.name, second.name]
    for (const [tenant, db] of [
      ['acme', first],
      ['globex', second],
    ] as const) {
      await db.query('create table orders (id int primary key, note text)')
      await db.query('insert into orders values ($1, $2)', [1, canary(tenant, 1)])
    }
    const rows = (await first.query<{ id: number; note: string }>('select * from orders')).rows
    expect(rows).toEqual([{ id: 1, note: 'canary:acme:1' }])
    expect(foreignCanaries(rows, 'acme')).toEqual([])
    expect(foreignCanaries(rows, 'globex')).toEqual(['acme'])
  }
  const client = new Client({ connectionString: inject('postgresUrl') })
  await client.connect()
  try {
    const { rows } = await client.query('select 1 from pg_database where datname = any($1)', [
      names,
    ])
    expect(rows).toEqual([])
  } finally {
    await client.end()
  }
})

test('a database is dropped although somebody is still connected', async () => {
  const db = await createTestDatabase()
  const visitor = new Client({ connectionString: db.url })
  const lost = Promise.withResolvers<Error>()
  visitor.on('error', lost.resolve)
  await visitor.connect()
  await db[Symbol.asyncDispose]()
  await db[Symbol.asyncDispose]()
  expect((await lost.promise).message).toMatch(/terminat/)
})

test('two files never see the Redis keys of each other, and flush removes only those of one', async () => {
  await using first = await createTestRedis()
  await using second = await createTestRedis()
  for (const [index, { redis }] of [first, second].entries())
    await redis.set('orders', canary(TENANTS[index] ?? '', 1))
  await first.flush()
  expect(await first.redis.get('orders')).toBeNull()
  expect(await second.redis.get('orders')).toBe('canary:globex:1')
})

test('the shared servers answer', async () => {
  expect(inject('postgresUrl')).toMatch(/^postgres/)
  expect(inject('redisUrl')).toMatch(/^redis/)
  expect(process.env['PARTYWALL_TEST_POSTGRES_URL']).toBe(inject('postgresUrl'))
})
