import { randomBytes } from 'node:crypto'
import { createTenancy, memoryTenantStore, type Tenancy, TenancyError } from '@partywall/core'
import {
  createTestDatabase,
  startPgBouncer,
  startTestPooler,
  type TestDatabase,
  whyNoPgBouncer,
} from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { assertPooler } from './assert-pooler.ts'
import { TenantPool } from './tenant-pool.ts'

const missing = await whyNoPgBouncer()

const salt = randomBytes(4).toString('hex')
/** A login with the server's default path, and one whose path is empty. */
const DEFAULT = { name: `default_${salt}`, password: 'secret' }
const EMPTY = { name: `empty_${salt}`, password: 'secret' }

let db: TestDatabase
let tenancy: Tenancy
beforeAll(async () => {
  db = await createTestDatabase()
  for (const { name, password } of [DEFAULT, EMPTY])
    await db.query(`create role ${name} login password '${password}'`)
  await db.query(`alter role ${EMPTY.name} set search_path = ''`)
  tenancy = createTenancy({ store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]) })
})
afterAll(async () => {
  await tenancy.close()
  await db.query(`drop role ${DEFAULT.name}; drop role ${EMPTY.name}`)
  await db[Symbol.asyncDispose]()
})

const urlOf = (url: string, { name, password }: typeof EMPTY): string =>
  Object.assign(new URL(url), { username: name, password }).href

/** `'safe'`, or what was refused: message and hint. */
async function verdict(url: string, pooler: 'none' | 'transaction'): Promise<string> {
  const pool = new TenantPool(tenancy, { connectionString: url, pooler })
  try {
    await assertPooler(pool)
    return 'safe'
  } catch (error) {
    if (!TenancyError.is(error, 'ERR_TENANCY_POOLER_UNSAFE')) throw error
    expect([error.status, error.retryable]).toEqual([500, false])
    return `${error.message} ${error.hint}`
  } finally {
    await pool.end()
  }
}

const NEEDS_OPTION = /`pooler: 'transaction'`.*alter role .* set search_path = ''/
const NEEDS_EMPTY_PATH = /"\$user", public.*alter role .* set search_path = ''.*RECONNECT/

describe('straight to the server', () => {
  test('both kinds of pool are safe, the one for poolers with an empty path only', async () => {
    expect(await verdict(urlOf(db.url, DEFAULT), 'none')).toBe('safe')
    expect(await verdict(urlOf(db.url, EMPTY), 'none')).toBe('safe')
    expect(await verdict(urlOf(db.url, EMPTY), 'transaction')).toBe('safe')
    expect(await verdict(urlOf(db.url, DEFAULT), 'transaction')).toMatch(NEEDS_EMPTY_PATH)
  })

  test('what cannot be told is not safe', async () => {
    const pool = new TenantPool(tenancy, { connectionString: 'postgres://nobody@127.0.0.1:1/x' })
    await expect(assertPooler(pool)).rejects.toMatchObject({
      code: 'ERR_TENANCY_DATABASE_UNAVAILABLE',
    })
    await pool.end()
  })
})

test('behind a pooler of any make, a pool that was not told is refused', async () => {
  for (const [login, told] of [
    [EMPTY, 'safe'],
    [DEFAULT, NEEDS_EMPTY_PATH],
  ] as const) {
    await using pooler = await startTestPooler({
      postgresUrl: urlOf(db.url, login),
      connections: 2,
    })
    expect(await verdict(pooler.url, 'none')).toMatch(NEEDS_OPTION)
    expect(await verdict(pooler.url, 'transaction')).toMatch(told)
  }
})

test('each cluster of a pool is looked at by its name', async () => {
  await using pooler = await startTestPooler({
    postgresUrl: urlOf(db.url, EMPTY),
    connections: 1,
  })
  const clusters = {
    near: { connectionString: urlOf(db.url, EMPTY) },
    far: { connectionString: pooler.url },
  }
  const pool = new TenantPool(tenancy, { connectionString: urlOf(db.url, EMPTY), clusters })
  expect((await assertPooler(pool)).mode).toBe('none')
  expect((await assertPooler(pool, { cluster: 'near' })).mode).toBe('none')
  await expect(assertPooler(pool, { cluster: 'far' })).rejects.toMatchObject({
    code: 'ERR_TENANCY_POOLER_UNSAFE',
    message: expect.stringMatching(/^Cluster far: /),
  })
  await expect(assertPooler(pool, { cluster: 'fra' })).rejects.toMatchObject({
    code: 'ERR_TENANCY_CLUSTER_UNKNOWN',
  })
  await pool.end()
})

describe.skipIf(missing)(`behind PgBouncer${missing ? ` (SKIPPED: ${missing})` : ''}`, () => {
  const ignoring = { ignore_startup_parameters: 'search_path' }
  const unclean = { ...ignoring, server_reset_query: '' }
  interface Case {
    readonly mode: 'session' | 'transaction' | 'statement'
    readonly settings: Readonly<Record<string, string>>
    /** With an empty path of the login: of a pool that was not told, and of one that was. */
    readonly empty: readonly (string | RegExp)[]
    /** With a path of the login. */
    readonly path: readonly (string | RegExp)[]
  }
  const told = [NEEDS_OPTION, 'safe']
  const pathTold = [NEEDS_OPTION, NEEDS_EMPTY_PATH]
  const never = [/pool_mode/, /pool_mode/]
  const cases: readonly Case[] = [
    { mode: 'transaction', settings: {}, empty: told, path: pathTold },
    { mode: 'transaction', settings: ignoring, empty: told, path: pathTold },
    { mode: 'session', settings: {}, empty: told, path: pathTold },
    { mode: 'session', settings: ignoring, empty: ['safe', 'safe'], path: pathTold },
    {
      mode: 'session',
      settings: unclean,
      empty: [/DISCARD ALL/, 'safe'],
      path: [/DISCARD ALL/, NEEDS_EMPTY_PATH],
    },
    { mode: 'statement', settings: {}, empty: never, path: never },
  ]
  test.each(cases)('$mode mode, $settings', async ({ mode, settings, empty, path }) => {
    await using pooler = await startPgBouncer({
      postgresUrl: db.url,
      poolMode: mode,
      poolSize: 20,
      users: [EMPTY, DEFAULT],
      settings,
    })
    for (const [login, expected] of [
      [EMPTY, empty],
      [DEFAULT, path],
    ] as const)
      for (const [index, option] of (['none', 'transaction'] as const).entries())
        expect(await verdict(pooler.urlOf(login), option), option).toMatch(
          expected[index] ?? 'nothing',
        )
  })
})
