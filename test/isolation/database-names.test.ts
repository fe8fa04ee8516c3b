import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createFleetWorld, type FleetWorld } from './fleet-fixture.ts'

describe('D17 connection targets are built from fields', () => {
  // What a connection string would make something else of.
  const NAMES = [
    'acme?host=evil.example',
    '?options=-c%20search_path%3Dvictim',
    '/../postgres',
    'a b\'c"d\\e;%00',
    'postgres://evil.example/x',
    'x'.repeat(63),
  ]
  const LITERAL = NAMES.map((name) => ({ name, database: '' }))
  let hostile: FleetWorld
  beforeAll(async () => {
    hostile = await createFleetWorld((salt) => [
      ...NAMES.map((name, n) => {
        // Names belong to the whole server: the salt makes them this run's, at the end of what they say.
        const database = `${name.slice(0, 54)}-${salt}`
        LITERAL[n] = { name, database }
        return { id: `own-${n}`, placement: { database } }
      }),
      ...NAMES.map((name, n) => ({
        id: `far-${n}`,
        placement: { cluster: 'named', database: `${name.slice(0, 54)}-${salt}` },
      })),
      { id: 'long', placement: { database: 'y'.repeat(64) } },
      { id: 'wide', placement: { database: 'é'.repeat(32) } },
      { id: 'nul', placement: { database: 'postgres\0options\0-c search_path=victim' } },
    ])
    for (const { database } of LITERAL) {
      await hostile.createDatabase(database)
      for (const kind of ['own', 'far'])
        await hostile.inDatabase(
          database,
          `create schema "${kind}-${LITERAL.findIndex((entry) => entry.database === database)}"`,
        )
      await hostile.inDatabase(database, `grant usage on schema "own-0" to public`).catch(() => 0)
    }
  }, 60_000)
  afterAll(() => hostile[Symbol.asyncDispose]())

  it.each(['a connection string', 'fields'])(
    'D17 a hostile database name reaches the server as it is, with %s',
    async (form) => {
      const admin = new URL(hostile.home.url)
      const fields = {
        host: admin.hostname,
        port: Number(admin.port),
        user: admin.username,
        password: decodeURIComponent(admin.password),
      }
      const settings = form === 'fields' ? fields : { connectionString: hostile.home.url }
      const pool = hostile.openPool({
        connectionString: undefined,
        ...settings,
        clusters: { named: settings },
      })
      for (const kind of ['own', 'far'])
        for (const [n, { database }] of LITERAL.entries()) {
          const { rows } = await hostile.as(`${kind}-${n}`, () =>
            pool.query(
              "select current_database() as database, current_setting('search_path') as path, inet_server_port() as port",
            ),
          )
          expect(rows).toEqual([
            { database, path: `"${kind}-${n}", "public", pg_temp`, port: fields.port },
          ])
        }
      await pool.end()
    },
  )

  it.each(['long', 'wide', 'nul'])('D17 a name that is none is refused: %s', async (id) => {
    const pool = hostile.openPool()
    await expect(hostile.as(id, () => pool.query('select 1'))).rejects.toMatchObject({
      code: 'ERR_TENANCY_OPTION_INVALID',
      tenantId: id,
    })
    expect(() => pool.centralOf(hostile.tenant(id))).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
    expect(pool.databaseCounts.databases).toBe(0)
    await pool.end()
  })

  it('D17 the environment speaks of the own server alone: nothing of it goes to a cluster', () => {
    for (const missing of [{}, { host: 'h' }, { user: 'u' }, { host: 'h', user: 'u', port: 0 }])
      expect(() => hostile.openPool({ clusters: { named: missing } })).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
      )
    expect(() =>
      hostile.openPool({
        clusters: { named: { host: 'h', user: 'u', options: '-c search_path=victim' } },
      }),
    ).toThrow(/search_path/)
    expect(pg.defaults.password).toBe(null)
  })
})
