import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import {
  canary,
  createTestDatabase,
  createTestRedis,
  eventually,
  foreignCanaries,
  type TestDatabase,
} from '@partywall/test-support'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createPartywall, definePlugin, type Partywall, type PartywallConfig } from './index.ts'

let folder: string
let db: TestDatabase
const walls: Partywall[] = []

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'partywall-migrations-'))
  const migrations: Record<string, Record<string, string>> = {
    v1: { '001_notes': 'create table notes (id int primary key, text text not null)' },
    broken: { '001_notes': 'create table notes (id int primary key); select 1/0' },
  }
  migrations['v2'] = { ...migrations['v1'], '002_stars': 'alter table notes add stars int' }
  for (const [version, files] of Object.entries(migrations)) {
    const target = await mkdtemp(join(folder, `${version}-`))
    for (const [name, sql] of Object.entries(files))
      await writeFile(join(target, `${name}.sql`), sql)
    folders[version] = pathToFileURL(`${target}/`)
  }
})
const folders: Record<string, URL> = {}

beforeEach(async () => {
  db = await createTestDatabase()
})
afterEach(async () => {
  for (const wall of walls.splice(0)) await wall.close()
  await db[Symbol.asyncDispose]()
})
afterAll(() => rm(folder, { recursive: true, force: true }))

interface Notes {
  readonly notes: { readonly id: number; readonly text: string }
}

/** Writes the same ids in every tenant; the text is the canary. */
function notes(version = '1.0.0', migrations = 'v1', seeded: string[] = []) {
  return definePlugin<Notes>({
    name: 'notes',
    version,
    migrations: folders[migrations],
    requires: ['notes', 'notes.text'],
    async seed({ db, tenant }) {
      seeded.push(tenant.id)
      await db
        .insertInto('notes')
        .values({ id: 0, text: canary(tenant.id, 'seed') })
        .execute()
    },
    actions: {
      async add(id: number, { db, tenant, cache }) {
        const row = { id, text: canary(tenant.id, id) }
        await db.insertInto('notes').values(row).execute()
        await cache.set('last', row.text)
        return row
      },
      list: (_: undefined, { db }) => db.selectFrom('notes').selectAll().orderBy('id').execute(),
      last: (_: undefined, { cache }) => cache.get('last'),
      keys: (_: undefined, { cache }) => cache.keys(),
      clear: (_: undefined, { cache }) => cache.clear(),
      report: (_: undefined, { scheduler }) => scheduler.enqueue('report', { by: 'hand' }),
      schedules: (_: undefined, { scheduler }) => scheduler.list(),
      version: () => version,
    },
    jobs: {
      async report(data: { by: string }, { db, tenant }) {
        const text = canary(tenant.id, `report by ${data.by}, ${version}`)
        await db.insertInto('notes').values({ id: 1_000, text }).execute()
      },
    },
    schedules: { nightly: { job: 'report', cron: '0 3 * * *', data: { by: 'clock' } } },
  })
}

async function boot(config: PartywallConfig = {}): Promise<Partywall> {
  const wall = await createPartywall({
    database: { url: db.url },
    plugins: [notes()],
    tenants: [{ id: 'acme' }, { id: 'globex' }],
    log: () => undefined,
    ...config,
    tenancy: { authorize: () => true, ...config.tenancy },
  })
  walls.push(wall)
  return wall
}

const listOf = (wall: Partywall, id: string) =>
  wall.run(id, () => wall.plugins.call<Notes['notes'][]>('notes', 'list'))

describe('a plugin in two tenants', () => {
  test('has rows, cache entries and jobs of each apart, under the same ids', async () => {
    const wall = await boot()
    const tenants = ['acme', 'globex']
    for (let id = 1; id <= 20; id++)
      await Promise.all(
        tenants.map((tenant) => wall.run(tenant, () => wall.plugins.call('notes', 'add', id))),
      )
    await Promise.all(
      tenants.map((tenant) => wall.run(tenant, () => wall.plugins.call('notes', 'report'))),
    )
    for (const tenant of tenants) {
      const rows = await eventually(async () => {
        const found = await listOf(wall, tenant)
        return found.length === 22 && found
      })
      expect(foreignCanaries(rows, tenant)).toEqual([])
      expect(rows[0]?.text).toBe(canary(tenant, 'seed'))
      expect(rows.at(-1)?.text).toBe(canary(tenant, 'report by hand, 1.0.0'))
      const last = await wall.run(tenant, () => wall.plugins.call('notes', 'last'))
      expect(last).toBe(canary(tenant, 20))
      const [nightly] = await wall.run(tenant, () =>
        wall.plugins.call<{ id: string; name: string }[]>('notes', 'schedules'),
      )
      expect(nightly).toMatchObject({ id: 'nightly', name: 'report' })
    }
    await expect(wall.plugins.call('notes', 'list')).rejects.toMatchObject({
      code: 'ERR_TENANCY_CONTEXT_MISSING',
    })
  })

  test('shares no cache entry with another plugin', async () => {
    const other = definePlugin({
      name: 'notes-2',
      version: '1.0.0',
      actions: {
        set: (_: undefined, { cache, tenant }) => cache.set('last', `other of ${tenant.id}`),
        get: (_: undefined, { cache }) => cache.get('last'),
      },
    })
    const wall = await boot({ plugins: [notes(), other] })
    for (const tenant of ['acme', 'globex'])
      await wall.run(tenant, async () => {
        await wall.plugins.call('notes-2', 'set')
        await wall.plugins.call('notes', 'add', 1)
        expect(await wall.plugins.call('notes', 'last')).toBe(canary(tenant, 1))
        expect(await wall.plugins.call('notes', 'keys')).toEqual(['last'])
        expect(await wall.plugins.call('notes', 'clear')).toBe(1)
        expect(await wall.plugins.call('notes-2', 'get')).toBe(`other of ${tenant}`)
      })
  })

  test('keeps its cache entries in Redis where one is given', async () => {
    await using redis = await createTestRedis()
    const wall = await boot({ redis: { url: redis.url } })
    for (const tenant of ['acme', 'globex'])
      await wall.run(tenant, async () => {
        await wall.plugins.call('notes', 'add', 1)
        await wall.redis?.set('own', canary(tenant, 'own'))
      })
    for (const tenant of ['acme', 'globex'])
      await wall.run(tenant, async () => {
        expect(await wall.plugins.call('notes', 'last')).toBe(canary(tenant, 1))
        expect(await wall.redis?.get('own')).toBe(canary(tenant, 'own'))
      })
    const keys = await redis.redis.keys('*')
    expect(keys.every((key) => /^(acme|globex):/.test(key))).toBe(true)
    expect(keys).toHaveLength(4)
  })

  test('wall.db and wall.pool act in the tenant of the caller, through one connection', async () => {
    const wall = await boot({ database: { url: db.url, max: 1 } })
    await Promise.all(
      ['acme', 'globex', 'acme', 'globex'].map((tenant) =>
        wall.run(tenant, async () => {
          expect(
            foreignCanaries(await wall.db.selectFrom('notes').selectAll().execute(), tenant),
          ).toEqual([])
          const { rows } = await wall.pool.query('select text from notes')
          expect(rows).toEqual([{ text: canary(tenant, 'seed') }])
        }),
      ),
    )
    await expect(wall.db.selectFrom('notes').selectAll().execute()).rejects.toMatchObject({
      code: 'ERR_TENANCY_CONTEXT_MISSING',
    })
  })
})

describe('the start', () => {
  test('again: keeps rows, repeats no seed, and leaves records as they are', async () => {
    const seeded: string[] = []
    const config = {
      plugins: [notes('1.0.0', 'v1', seeded)],
      tenants: [{ id: 'acme', name: 'Acme' }, { id: 'globex' }],
    }
    const first = await boot(config)
    await first.tenants.update('acme', { name: 'Acme Corporation' })
    await first.run('acme', () => first.plugins.call('notes', 'add', 1))
    await first.close()
    const second = await boot(config)
    expect(await listOf(second, 'acme')).toHaveLength(2)
    expect(await listOf(second, 'globex')).toHaveLength(1)
    expect((await second.tenants.get('acme'))?.name).toBe('Acme Corporation')
    expect(seeded.sort()).toEqual(['acme', 'globex'])
  })

  test('by two processes at once', async () => {
    const seeded: string[] = []
    const config = { plugins: [notes('1.0.0', 'v1', seeded)] }
    const both = await Promise.all([boot(config), boot(config)])
    for (const wall of both) {
      expect(await listOf(wall, 'acme')).toHaveLength(1)
      expect(await listOf(wall, 'globex')).toHaveLength(1)
    }
    expect(seeded.sort()).toEqual(['acme', 'globex'])
  })

  test('applies what is pending to every active tenant, and to a suspended one when it resumes', async () => {
    const first = await boot()
    await first.tenants.create({ id: 'umbra' })
    await first.tenants.suspend('umbra')
    await first.close()
    const second = await boot({ plugins: [notes('2.0.0', 'v2')], tenants: [] })
    const columns = async (id: string) =>
      (
        await db.query('select from pg_attribute where attrelid = $1::regclass and attnum > 0', [
          `${id}.notes`,
        ])
      ).rowCount
    expect(await columns('acme')).toBe(3)
    expect(await columns('globex')).toBe(3)
    expect(await columns('umbra')).toBe(2)
    await expect(listOf(second, 'umbra')).rejects.toMatchObject({
      code: 'ERR_TENANCY_TENANT_SUSPENDED',
    })
    await second.tenants.resume('umbra')
    expect(await columns('umbra')).toBe(3)
    expect(await listOf(second, 'umbra')).toHaveLength(1)
  })

  test('D8 refuses a table that is shared as well as a tenant’s, before anything is created', async () => {
    await db.query('create table public.notes (id int)')
    await expect(boot()).rejects.toMatchObject({
      code: 'ERR_TENANCY_SHARED_TABLE_SHADOWED',
      message: expect.stringContaining('public.notes'),
    })
    const { rows } = await db.query(
      "select nspname from pg_namespace where nspname in ('acme', 'globex')",
    )
    expect(rows).toEqual([])
    await db.query('drop table public.notes')
    await boot()
  })

  test('refuses a default tenant that does not exist, and takes one that does', async () => {
    await expect(boot({ tenancy: { defaultTenant: 'main' } })).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
      hint: expect.stringContaining("[{ id: 'main' }]"),
    })
    await boot({ tenancy: { defaultTenant: 'acme' } })
  })

  test('with the default tenant public: its tables are in the schema public, and nobody shares them', async () => {
    const wall = await boot({ tenancy: { defaultTenant: 'public' } })
    for (const tenant of ['public', 'acme', 'globex'])
      expect(await listOf(wall, tenant)).toEqual([{ id: 0, text: canary(tenant, 'seed') }])
    expect((await db.query('select text from public.notes')).rows).toEqual([
      { text: canary('public', 'seed') },
    ])
    await db.query('drop table acme.notes')
    await expect(listOf(wall, 'acme')).rejects.toThrow(/"notes" does not exist/)
  })

  test('a migration that fails is told with its tenant, and leaves a tenant that can be created later', async () => {
    const broken = notes('1.0.0', 'broken')
    await expect(boot({ plugins: [broken] })).rejects.toMatchObject({
      code: 'ERR_TENANCY_MIGRATION_FAILED',
      tenantId: 'acme',
    })
    const wall = await boot()
    expect(await listOf(wall, 'acme')).toHaveLength(1)
  })

  test('a deleted tenant in the configuration is told', async () => {
    const wall = await boot()
    await wall.close()
    await db.query("update partywall.tenants set status = 'deleted' where id = 'acme'")
    await expect(boot()).rejects.toMatchObject({ code: 'ERR_TENANCY_TENANT_EXISTS' })
  })

  test('two copies of a plugin version, before anything is started', async () => {
    await expect(
      boot({ database: { url: 'postgres://127.0.0.1:1/nowhere' }, plugins: [notes(), notes()] }),
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_PLUGIN_CONFLICT' })
  })
})

describe('what one tenant cannot do to the others', () => {
  test('take the schema that all share', async () => {
    const wall = await boot({ database: { url: db.url, sharedSchemas: ['common'] } })
    await expect(wall.tenants.create({ id: 'common' })).rejects.toMatchObject({
      code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT',
    })
    expect(await wall.tenants.get('common')).toBeUndefined()
    const { rows } = await db.query("select 1 from pg_namespace where nspname = 'common'")
    expect(rows).toEqual([])
  })

  test('destroy the database object of a plugin, or of the wall', async () => {
    const wall = await boot()
    await expect(wall.run('acme', () => wall.db.destroy())).rejects.toMatchObject({
      code: 'ERR_TENANCY_CONTEXT_LOCKED',
    })
    expect(await listOf(wall, 'globex')).toEqual([{ id: 0, text: canary('globex', 'seed') }])
    expect(
      await wall.run('globex', () => wall.db.selectFrom('notes').select('id').execute()),
    ).toEqual([{ id: 0 }])
  })
})

describe('wall.tenants', () => {
  test('a tenant of the configuration whose first start failed is created by the next one, with the record as it is then', async () => {
    const broken = {
      id: 'umbra',
      domains: ['z.example', 'a.example'],
      seed: () => Promise.reject(new Error('half way')),
    }
    await expect(boot({ tenants: [broken] })).rejects.toThrow('half way')
    const wall = await boot({
      tenants: [{ id: 'umbra', name: 'Umbra', domains: ['z.example', 'a.example'] }],
    })
    expect(await wall.tenants.get('umbra')).toMatchObject({ status: 'active', name: 'Umbra' })
    expect(await listOf(wall, 'umbra')).toEqual([{ id: 0, text: canary('umbra', 'seed') }])
  })

  test('create tells its steps in order, and refuses a tenant that is ready', async () => {
    const wall = await boot()
    const steps: string[] = []
    const tenant = await wall.tenants.create(
      { id: 'umbra', tags: ['beta'] },
      {
        seed: ({ db, tenant }) =>
          db
            .updateTable('notes')
            .set({ text: canary(tenant.id, 'own') })
            .execute(),
        onStep: (step, ms) => steps.push(ms >= 0 ? step : 'never'),
      },
    )
    expect(tenant).toMatchObject({ id: 'umbra', status: 'active', tags: ['beta'] })
    expect(steps).toEqual(['record', 'schema', 'migrations', 'seeds', 'schedules', 'status'])
    expect(await listOf(wall, 'umbra')).toEqual([{ id: 0, text: canary('umbra', 'own') }])
    expect(await listOf(wall, 'acme')).toEqual([{ id: 0, text: canary('acme', 'seed') }])
    await expect(wall.tenants.create({ id: 'umbra' })).rejects.toMatchObject({
      code: 'ERR_TENANCY_TENANT_EXISTS',
    })
    const ids: string[] = []
    for await (const { id } of wall.tenants.list()) ids.push(id)
    expect(ids).toEqual(['acme', 'globex', 'umbra'])
  })

  test('create goes on after a crash at any step, and neither skips nor repeats a seed', async () => {
    const wall = await boot()
    for (const crashAfter of ['record', 'schema', 'migrations', 'seeds', 'schedules']) {
      const id = `crash-${crashAfter}`
      const creation = wall.tenants.create(
        { id },
        {
          onStep: (step) => {
            if (step === crashAfter) throw new Error(`crash after ${step}`)
          },
        },
      )
      await expect(creation).rejects.toThrow(`crash after ${crashAfter}`)
      await expect(listOf(wall, id)).rejects.toMatchObject({ code: 'ERR_TENANCY_TENANT_SUSPENDED' })
      // Whoever else asks for the id does not get what the first one began, nor does another record.
      for (const [input, resume] of [
        [{ id }, false],
        [{ id, name: 'Bob' }, true],
      ] as const)
        await expect(wall.tenants.create(input, { resume })).rejects.toMatchObject({
          code: 'ERR_TENANCY_TENANT_EXISTS',
        })
      expect(await wall.tenants.create({ id }, { resume: true })).toMatchObject({
        status: 'active',
        name: id,
      })
      expect(await listOf(wall, id)).toEqual([{ id: 0, text: canary(id, 'seed') }])
    }
  })

  test('of two customers who sign up with one id at the same time, one gets it', async () => {
    const wall = await boot()
    const outcomes = await Promise.allSettled(
      ['alice', 'bob'].map((owner) => wall.tenants.create({ id: 'shop', settings: { owner } })),
    )
    const won = outcomes.flatMap((outcome) =>
      outcome.status === 'fulfilled' ? [outcome.value] : [],
    )
    expect(won).toHaveLength(1)
    expect(await wall.tenants.get('shop')).toEqual(won[0])
  })

  test('a creation that is resumed twice at once ends once', async () => {
    const wall = await boot()
    const crash = new Error('crash')
    await expect(
      wall.tenants.create(
        { id: 'later' },
        {
          onStep: (step) => {
            if (step === 'seeds') throw crash
          },
        },
      ),
    ).rejects.toBe(crash)
    const [first, second] = await Promise.all([
      wall.tenants.create({ id: 'later' }, { resume: true }),
      wall.tenants.create({ id: 'later' }, { resume: true }),
    ])
    expect([first.status, second.status]).toEqual(['active', 'active'])
    // Also when it has long come to its end.
    expect(await wall.tenants.create({ id: 'later' }, { resume: true })).toEqual(first)
    expect(await listOf(wall, 'later')).toHaveLength(1)
    await wall.tenants.suspend('later')
    await expect(wall.tenants.suspend('later')).resolves.toMatchObject({ status: 'suspended' })
  })

  test('a seed that fails half way leaves nothing behind and runs again', async () => {
    const wall = await boot()
    let attempt = 0
    const seed: NonNullable<NonNullable<PartywallConfig['tenants']>[number]['seed']> = async ({
      db,
      tenant,
    }) => {
      await db
        .insertInto('notes')
        .values({ id: 1, text: canary(tenant.id, 1) })
        .execute()
      if (++attempt === 1) throw new Error('half way')
    }
    await expect(wall.tenants.create({ id: 'umbra' }, { seed })).rejects.toThrow('half way')
    await wall.tenants.create({ id: 'umbra' }, { seed, resume: true })
    expect(await listOf(wall, 'umbra')).toHaveLength(2)
    expect(attempt).toBe(2)
  })

  test('seeds that call plugins do not wait for each other when the pool is small', async () => {
    const wall = await boot({ database: { url: db.url, max: 1 } })
    await Promise.all(
      Array.from({ length: 8 }, (_, index) =>
        wall.tenants.create(
          { id: `new-${index}` },
          { seed: ({ plugins }) => plugins.call('notes', 'add', 7) },
        ),
      ),
    )
    for (let index = 0; index < 8; index++) {
      const rows = await listOf(wall, `new-${index}`)
      expect(rows.map(({ text }) => text)).toEqual([
        canary(`new-${index}`, 'seed'),
        canary(`new-${index}`, 7),
      ])
    }
  })

  test('a transaction inside a seed is refused, because its COMMIT would be that of the seed', async () => {
    const wall = await boot()
    await expect(
      wall.tenants.create(
        { id: 'umbra' },
        { seed: ({ db }) => db.transaction().execute(async () => undefined) },
      ),
    ).rejects.toThrow(/runs in a transaction already/)
  })

  test('update moves one tenant to another release, and leaves it where it is if a migration fails', async () => {
    const config = {
      plugins: [notes('1.0.0', 'v1'), notes('2.0.0', 'v2'), notes('3.0.0', 'broken')],
    }
    const pin = (version: string) => ({ release: { name: version, plugins: { notes: version } } })
    const wall = await boot({
      ...config,
      tenants: [
        { id: 'acme', ...pin('1.0.0') },
        { id: 'globex', ...pin('1.0.0') },
      ],
    })
    const versionOf = (id: string) => wall.run(id, () => wall.plugins.call('notes', 'version'))
    await wall.tenants.update('acme', pin('2.0.0'))
    expect([await versionOf('acme'), await versionOf('globex')]).toEqual(['2.0.0', '1.0.0'])
    for (const [id, version] of [
      ['acme', '2.0.0'],
      ['globex', '1.0.0'],
    ] as const) {
      await wall.run(id, () => wall.plugins.call('notes', 'report'))
      const text = canary(id, `report by hand, ${version}`)
      await eventually(async () => (await listOf(wall, id)).some((note) => note.text === text))
      await wall.run(id, () => wall.pool.query('delete from notes where id = 1000'))
    }
    expect(await listOf(wall, 'acme')).toEqual([
      { id: 0, text: canary('acme', 'seed'), stars: null },
    ])
    expect(await listOf(wall, 'globex')).toEqual([{ id: 0, text: canary('globex', 'seed') }])
    await expect(wall.tenants.update('acme', pin('3.0.0'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_MIGRATION_CHANGED',
    })
    expect(await versionOf('acme')).toBe('2.0.0')
  })

  test('suspend and resume: requests and jobs are refused, and back afterwards', async () => {
    const wall = await boot()
    expect((await wall.tenants.suspend('acme')).status).toBe('suspended')
    expect((await wall.tenants.suspend('acme')).status).toBe('suspended')
    await expect(listOf(wall, 'acme')).rejects.toMatchObject({
      code: 'ERR_TENANCY_TENANT_SUSPENDED',
    })
    expect(await listOf(wall, 'globex')).toHaveLength(1)
    await wall.tenants.resume('acme')
    expect(await listOf(wall, 'acme')).toHaveLength(1)
    for (const call of [
      wall.tenants.suspend('nobody'),
      wall.tenants.update('nobody', { name: 'x' }),
    ])
      await expect(call).rejects.toMatchObject({ code: 'ERR_TENANCY_TENANT_UNKNOWN' })
    await expect(wall.tenants.update('acme', { status: 'active' } as never)).rejects.toMatchObject({
      code: 'ERR_TENANCY_TENANT_INVALID',
    })
  })
})

describe('requests', () => {
  const resolve = (wall: Partywall, headers: Record<string, string>, authority = 'localhost') =>
    wall.tenancy.resolve({
      method: 'GET',
      target: '/',
      authority,
      raw: undefined,
      header: (name) => headers[name],
    })

  test('enabled: false: the default tenant, whatever a request says', async () => {
    const wall = await boot({ tenancy: { enabled: false, subdomain: true, defaultTenant: 'acme' } })
    const scope = await resolve(wall, { 'x-tenant-id': 'globex' }, 'globex.localhost')
    expect(scope?.tenant.id).toBe('acme')
  })

  test('header, subdomain and default', async () => {
    const wall = await boot({ tenancy: { subdomain: 'myapp.com', defaultTenant: 'acme' } })
    expect((await resolve(wall, { 'x-tenant-id': 'globex' }))?.tenant.id).toBe('globex')
    expect((await resolve(wall, {}, 'globex.myapp.com'))?.tenant.id).toBe('globex')
    expect((await resolve(wall, {}, 'globex.localhost'))?.tenant.id).toBe('globex')
    expect((await resolve(wall, {}, 'globex.other.com'))?.tenant.id).toBe('acme')
  })
})

describe('close', () => {
  test('refuses everything afterwards, ends every connection, and may be repeated', async () => {
    const wall = await boot()
    await wall.run('acme', () => wall.pool.query('select 1'))
    await Promise.all([wall.close(), wall.close()])
    await wall[Symbol.asyncDispose]()
    const closed = { code: 'ERR_TENANCY_CLOSED' }
    await expect(wall.run('acme', () => 1)).rejects.toMatchObject(closed)
    await expect(wall.tenants.create({ id: 'late' })).rejects.toMatchObject(closed)
    await expect(wall.tenants.get('acme')).rejects.toMatchObject(closed)
    await expect(wall.scheduler.start()).rejects.toMatchObject(closed)
    // The helper of the test has one connection, the one that asks.
    const others =
      'select query from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()'
    await eventually(async () => (await db.query(others, [db.name])).rows.length === 0)
  })

  test('from inside a tenant', async () => {
    await using redis = await createTestRedis()
    const wall = await boot({ redis: { url: redis.url } })
    await wall.run('acme', () => wall.close())
    await expect(wall.run('acme', () => 1)).rejects.toMatchObject({ code: 'ERR_TENANCY_CLOSED' })
  })
})
