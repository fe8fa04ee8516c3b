import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createTestDatabase, createTestRedis } from '@partywall/test-support'
import { expect, test } from 'vitest'

const MAIN = fileURLToPath(new URL('./main.ts', import.meta.url))

test('the demo, on a given server: no foreign row, everything held, exit code 0, nothing left', async () => {
  await using db = await createTestDatabase()
  await using redis = await createTestRedis()
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=source', MAIN, '--requests', '400'],
    { env: { ...process.env, DATABASE_URL: db.url, REDIS_URL: redis.url } },
  )
  expect(stdout).toContain('foreign rows: 0')
  expect(stdout.match(/ held$/gm)).toHaveLength(7)
  expect(stdout).not.toContain('CROSSED')
  const name = /database (partywall_demo_\w+)/.exec(stdout)?.[1]
  const { rows } = await db.query('select from pg_database where datname = $1', [name])
  expect(name).toBeDefined()
  expect(rows).toEqual([])
  expect(await redis.redis.keys('*')).toEqual([])
}, 60_000)
