import { Client } from 'pg'
import { describe, expect, inject, test, vi } from 'vitest'

import {
  createTestDatabase,
  startPgBouncer,
  type TestPgBouncerOptions,
  whyNoPgBouncer,
} from './index.ts'

const missing = await whyNoPgBouncer()

async function backendsOf(url: string, clients: number): Promise<number[]> {
  const opened = Array.from({ length: clients }, () => new Client({ connectionString: url }))
  const pids: number[] = []
  for (const client of opened) {
    await client.connect()
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
    pids.push(rows[0]?.pid ?? 0)
  }
  await Promise.all(opened.map((client) => client.end()))
  return pids
}

test('a version that nothing has is a reason to skip, and it is said aloud', async () => {
  const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  const reason = await whyNoPgBouncer([99, 0])
  expect(reason).toMatch(/pgbouncer/)
  expect(said).toHaveBeenCalledExactlyOnceWith(expect.stringContaining(`SKIPPED: ${reason}`))
  said.mockRestore()
})

describe.skipIf(missing)(`a PgBouncer of the tests' own${missing ? ` (${missing})` : ''}`, () => {
  const start = (options: Partial<TestPgBouncerOptions> & Pick<TestPgBouncerOptions, 'poolMode'>) =>
    startPgBouncer({ postgresUrl: inject('postgresUrl'), poolSize: 4, ...options })

  test('hands one server connection from client to client in transaction mode', async () => {
    await using pooler = await start({ poolMode: 'transaction' })
    expect(new Set(await backendsOf(pooler.url, 3)).size).toBe(1)
    expect(await pooler.admin('SHOW SERVERS')).toHaveLength(1)
  })

  test('gives each client one of its own in session mode', async () => {
    await using pooler = await start({ poolMode: 'session' })
    expect(new Set(await backendsOf(pooler.url, 3)).size).toBe(3)
  })

  test('lets further users in, and takes further settings', async () => {
    await using db = await createTestDatabase()
    const user = { name: `pooled_${db.name}`, password: 'a "secret" & more' }
    await db.query(`create role ${user.name} login password '${user.password}'`)
    try {
      await using pooler = await start({
        postgresUrl: db.url,
        poolMode: 'transaction',
        users: [user],
        settings: { ignore_startup_parameters: 'statement_timeout' },
      })
      const client = new Client({
        connectionString: pooler.urlOf(user),
        statement_timeout: 1_000,
      })
      await client.connect()
      const { rows } = await client.query('select current_user::text as me, current_database() db')
      expect(rows).toEqual([{ me: user.name, db: db.name }])
      await client.end()
      await expect(
        new Client({ connectionString: pooler.urlOf({ ...user, password: 'other' }) }).connect(),
      ).rejects.toThrow(/password/)
    } finally {
      await db.query(`drop role ${user.name}`)
    }
  })

  test('is gone when it was disposed', async () => {
    const pooler = await start({ poolMode: 'transaction' })
    await pooler[Symbol.asyncDispose]()
    await expect(backendsOf(pooler.url, 1)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })
})
