import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { canary } from '@partywall/test-support'
import type { PGStore } from 'connect-pg-simple'
import express from 'express'
import session, { type SessionData } from 'express-session'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import {
  COUNTS,
  createTenantDatabase,
  HOMELESS,
  type TenantDatabase,
} from '../isolation/database-fixture.ts'
import { actAs, expectIdle, openPool, POOL_SIZES, refusalOf, TENANTS } from './library-contract.ts'
import { centralSessionStore, tenantSessionStore } from './recipes/connect-pg-simple.ts'

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
  // The file that the package ships, for each tenant and for all of them.
  const table = await readFile(
    createRequire(import.meta.url).resolve('connect-pg-simple/table.sql'),
    'utf8',
  )
  for (const schema of [...TENANTS, 'probe'])
    await world.db.query(table.replaceAll('"session"', `"${schema}"."session"`))
})
afterAll(() => world[Symbol.asyncDispose]())
beforeEach(async () => {
  world.destroyed.length = 0
  await world.db.query([...TENANTS, 'probe'].map((id) => `truncate ${id}.session`).join(';'))
})
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

declare module 'express-session' {
  interface SessionData {
    owner: string
    count: number
  }
}
const data = (owner: string, count = 0): SessionData =>
  ({ cookie: { maxAge: 60_000 }, owner, count }) as unknown as SessionData
const get = (store: PGStore, sid: string): Promise<SessionData | null | undefined> =>
  promisify(
    store.get.bind(store) as (
      sid: string,
      callback: (error: unknown, data?: SessionData | null) => void,
    ) => void,
  )(sid)
const set = (store: PGStore, sid: string, value: SessionData): Promise<void> =>
  promisify(
    store.set.bind(store) as (
      sid: string,
      data: SessionData,
      callback: (error?: unknown) => void,
    ) => void,
  )(sid, value)
const destroy = (store: PGStore, sid: string): Promise<void> =>
  promisify(
    store.destroy.bind(store) as (sid: string, callback: (error?: unknown) => void) => void,
  )(sid)
const rowsIn = async (schema: string): Promise<unknown[]> =>
  (await world.db.query(`select sid, sess->>'owner' as owner from ${schema}.session order by sid`))
    .rows

const STORES = {
  'a table in each tenant': (max: number) => tenantSessionStore(openPool(world, max)),
  'one table for all of them': (max: number) =>
    centralSessionStore(world.tenancy, openPool(world, 1, { central: { max } }), {
      schemaName: 'probe',
    }),
}

describe.each(Object.entries(STORES))('connect-pg-simple with %s', (_, open) => {
  it.each(POOL_SIZES)(
    'the same session id in three tenants is three sessions, over a pool of %i',
    async (max) => {
      const store = open(max)
      onTestFinished(() => store.close())
      // Different counts of the same ids.
      await Promise.all(
        TENANTS.flatMap((id) =>
          Array.from({ length: COUNTS[id] }, (_, n) =>
            as(id, () => set(store, `sid-${n}`, data(canary(id, n)))),
          ),
        ),
      )
      await Promise.all([
        ...Array.from({ length: 20 }, (_, n) => {
          const id = TENANTS[n % 3] ?? 'acme'
          const key = n % 7
          return as(id, async () =>
            expect((await get(store, `sid-${key}`))?.owner).toBe(
              key < COUNTS[id] ? canary(id, key) : undefined,
            ),
          )
        }),
        ...Array.from({ length: 12 }, (_, n) => {
          const id = TENANTS[n % 3] ?? 'acme'
          return as(id, () => set(store, 'sid-0', data(canary(id, 0), n)))
        }),
      ])
      await as('acme', () => destroy(store, 'sid-0'))
      for (const id of TENANTS)
        await as(id, async () =>
          expect((await get(store, 'sid-0'))?.owner).toBe(
            id === 'acme' ? undefined : canary(id, 0),
          ),
        )
    },
  )

  it('a cookie of one tenant is no session of another, by HTTP', async () => {
    const store = open(2)
    onTestFinished(() => store.close())
    const app = express()
    // The wall comes first; here, the shortest one.
    app.use((request, _response, next) => {
      world.tenancy.run(String(request.headers['x-tenant-id']), () => next()).catch(next)
    })
    app.use(
      session({
        store,
        secret: 'secret',
        resave: false,
        saveUninitialized: false,
        genid: () => 'the-same-for-everybody',
      }),
    )
    app.post('/login', (request, response) => {
      request.session.owner = canary(world.tenancy.require().tenant.id, 'user')
      response.end()
    })
    app.get('/', (request, response) => {
      request.session.count = (request.session.count ?? 0) + 1
      response.json({ owner: request.session.owner, count: request.session.count })
    })
    const server = app.listen(0, '127.0.0.1')
    onTestFinished(() => void server.close())
    await once(server, 'listening')
    const call = async (tenantId: string, path: string, init: RequestInit = {}) =>
      fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`, {
        ...init,
        headers: { ...init.headers, 'x-tenant-id': tenantId },
      })
    const login = await call('acme', '/login', { method: 'POST' })
    const cookie = login.headers.get('set-cookie')?.split(';')[0] ?? ''
    expect(cookie).toContain('the-same-for-everybody')
    const visit = async (tenantId: string): Promise<unknown> =>
      (await call(tenantId, '/', { headers: { cookie } })).json()
    expect(await visit('acme')).toEqual({ owner: canary('acme', 'user'), count: 1 })
    expect(await visit('globex')).toEqual({ count: 1 })
    expect(await visit('acme')).toEqual({ owner: canary('acme', 'user'), count: 2 })
    expect(await visit('globex')).toEqual({ count: 2 })
  })

  it('outside of every tenant it has no sessions', async () => {
    const store = open(1)
    onTestFinished(() => store.close())
    const calls = [() => get(store, 'sid'), () => set(store, 'sid', data('nobody'))]
    for (const call of calls) {
      expect(await refusalOf(call)).toBe('ERR_TENANCY_CONTEXT_MISSING')
      expect(await refusalOf(() => world.tenancy.central<unknown>('a test', call))).toBe(
        'ERR_TENANCY_CONTEXT_MISSING',
      )
    }
    for (const schema of [...TENANTS, 'probe']) expect(await rowsIn(schema)).toEqual([])
  })
})

describe('where the rows are', () => {
  it('in the schema of each tenant, and nowhere without one', async () => {
    const pool = openPool(world, 1)
    const store = tenantSessionStore(pool)
    for (const id of TENANTS) await as(id, () => set(store, 'sid', data(canary(id, 1))))
    for (const id of TENANTS)
      expect(await rowsIn(id)).toEqual([{ sid: 'sid', owner: canary(id, 1) }])
    expect(await refusalOf(() => as(HOMELESS, () => get(store, 'sid')))).toBe(
      'ERR_TENANCY_SCHEMA_MISSING',
    )
    await expectIdle(world, pool)
  })

  it('in one table, by keys that carry the tenant', async () => {
    const store = centralSessionStore(world.tenancy, openPool(world, 1), {
      schemaName: 'probe',
      pruneSessionInterval: false,
    })
    for (const id of TENANTS) await as(id, () => set(store, 'sid', data(canary(id, 1))))
    expect(await rowsIn('probe')).toEqual(
      TENANTS.map((id) => ({ sid: `${id}:sid`, owner: canary(id, 1) })),
    )
  })

  it('what has expired is pruned in each tenant, by forEach', async () => {
    const store = tenantSessionStore(openPool(world, 1))
    for (const id of TENANTS)
      await world.db.query(
        `insert into ${id}.session values ('old', '{}', now() - interval '1 day'), ('new', '{}', now() + interval '1 day')`,
      )
    await as('acme', () => promisify(store.pruneSessions.bind(store))())
    expect((await rowsIn('acme')).length).toBe(1)
    expect((await rowsIn('globex')).length).toBe(2)
    await world.tenancy.forEach({ ids: TENANTS }, () =>
      promisify(store.pruneSessions.bind(store))(),
    )
    for (const id of TENANTS) expect(await rowsIn(id)).toEqual([{ sid: 'new', owner: null }])
  })
})
