import { once } from 'node:events'
import { PassThrough, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { canary, eventually, foreignCanaries } from '@partywall/test-support'
import type pg from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  backendOf,
  COUNTS,
  createTenantDatabase,
  HOMELESS,
  itemsOf,
  type TenantDatabase,
} from '../isolation/database-fixture.ts'
import {
  actAs,
  describeLibrary,
  expectIdle,
  type Item,
  logOf,
  openPool,
  ownItems,
  POOL_SIZES,
  refusalOf,
  TENANTS,
  withClient,
} from './library-contract.ts'

let world: TenantDatabase
beforeAll(async () => {
  world = await createTenantDatabase()
})
afterAll(() => world[Symbol.asyncDispose]())
beforeEach(async () => {
  world.destroyed.length = 0
  for (const id of TENANTS) await world.db.query(`truncate ${id}.log`)
})
const as: ReturnType<typeof actAs> = (tenantId, fn) => actAs(world)(tenantId, fn)

const COPY_ITEMS = 'copy (select id, owner from item order by id) to stdout'

async function textOf(stream: Readable): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += String(chunk)
  return text
}

const itemsIn = (text: string): Item[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [id, owner = ''] = line.split('\t')
      return { id: Number(id), owner }
    })

describeLibrary(
  () => world,
  (pool) => ({
    readItems: () =>
      withClient(pool, async (client) => itemsIn(await textOf(client.query(copyTo(COPY_ITEMS))))),
    writeLog: ({ unit, owner }, check) =>
      withClient(pool, async (client) => {
        await client.query('begin')
        try {
          const into = client.query(copyFrom('copy log from stdin'))
          await pipeline(Readable.from([`${unit}\t`, `${owner}\n`]), into)
          expect(into.rowCount).toBe(1)
          check(itemsIn(await textOf(client.query(copyTo(COPY_ITEMS)))))
          await client.query('commit')
        } catch (error) {
          await client.query('rollback')
          throw error
        }
      }),
  }),
)

describe.each(POOL_SIZES)('pg-copy-streams over a pool of %i', (max) => {
  const PLACES: Record<string, readonly [before: string[], after: string[]]> = {
    'outside of a transaction': [[], []],
    'as the first statement of a transaction': [['begin isolation level serializable'], ['commit']],
    'in the middle of a transaction': [
      ['begin', 'select 1'],
      ['select 1', 'commit'],
    ],
  }

  it.each(Object.entries(PLACES))('COPY both ways %s', async (_, [before, after]) => {
    const pool = openPool(world, max)
    await Promise.all(
      TENANTS.map((id) =>
        as(id, () =>
          withClient(pool, async (client) => {
            for (const sql of before) await client.query(sql)
            const out = client.query(copyTo(COPY_ITEMS))
            expect(itemsIn(await textOf(out))).toEqual(ownItems(world))
            expect(out.rowCount).toBe(COUNTS[id])
            for (const sql of after) await client.query(sql)
            for (const sql of before) await client.query(sql)
            await pipeline(
              Readable.from([`a\t${canary(id, 'a')}\nb\t${canary(id, 'b')}\n`]),
              client.query(copyFrom('copy log (unit, owner) from stdin')),
            )
            for (const sql of after) await client.query(sql)
            // The client is in step with the server.
            expect((await client.query('select count(*)::int from log')).rows).toEqual([
              { count: 2 },
            ])
          }),
        ),
      ),
    )
    for (const id of TENANTS)
      expect(await logOf(world, id)).toEqual(
        ['a', 'b'].map((unit) => ({ unit, owner: canary(id, unit) })),
      )
    await expectIdle(world, pool)
  })

  it('a queued statement runs behind the copy, in the same tenant', async () => {
    const pool = openPool(world, max)
    await as('acme', () =>
      withClient(pool, async (client) => {
        const out = client.query(copyTo(COPY_ITEMS))
        const behind = client.query('select count(*)::int from item')
        expect(itemsIn(await textOf(out))).toEqual(itemsOf('acme', COUNTS.acme))
        expect((await behind).rows).toEqual([{ count: COUNTS.acme }])
      }),
    )
    await expectIdle(world, pool)
  })

  it('a large copy arrives whole at a slow reader, and does not pile up in memory', async () => {
    const pool = openPool(world, max)
    // Each line differs, and none begins where a piece of the network does.
    const lineOf = (n: number): string =>
      `${n}:${String.fromCodePoint(97 + (n % 26)).repeat(900 + (n % 200))}`
    await as('globex', () =>
      withClient(pool, async (client) => {
        const out = client.query(
          copyTo(
            `copy (select n || ':' || repeat(chr(97 + n % 26), 900 + n % 200) from generate_series(1, 20000) n) to stdout`,
          ),
        )
        const slow = new PassThrough({ highWaterMark: 1024 })
        const copied = pipeline(out, slow)
        await sleep(50)
        const socket = (
          client as unknown as {
            connection: { stream: { isPaused(): boolean; bytesRead: number } }
          }
        ).connection.stream
        // 20 MB are on their way; what nobody reads stays with the server.
        expect(socket.isPaused()).toBe(true)
        const { bytesRead } = socket
        expect(bytesRead).toBeLessThan(2_000_000)
        let text = ''
        for await (const chunk of slow) {
          text += String(chunk)
          // The server is ahead whenever it can be.
          if (text.length % 100 === 0) await sleep(0)
        }
        await copied
        const lines = text.split('\n')
        expect(lines.length).toBe(20_001)
        expect(lines.slice(0, -1).filter((line, index) => line !== lineOf(index + 1))).toEqual([])
        expect(out.rowCount).toBe(20_000)
        expect((await client.query('select count(*)::int from item')).rows).toEqual([
          { count: COUNTS.globex },
        ])
      }),
    )
    await expectIdle(world, pool)
  })

  it('events of a copy run in the tenant of its caller', async () => {
    const pool = openPool(world, max)
    const heard: unknown[] = []
    const hear = (): unknown => heard.push(world.tenancy.current()?.tenant.id)
    // The connection is opened by somebody else.
    await as('zeta', () => pool.query('select 1'))
    await as('acme', () =>
      withClient(pool, async (client) => {
        const out = client.query(copyTo(COPY_ITEMS))
        out.on('data', hear)
        await once(out, 'end')
        hear()
        const broken = client.query(copyTo('copy nothing to stdout'))
        const failed = new Promise<void>((resolve) => {
          broken.on('error', () => {
            hear()
            resolve()
          })
        })
        broken.resume()
        await failed
      }),
    )
    expect(new Set(heard)).toEqual(new Set(['acme']))
    expect(heard.length).toBeGreaterThanOrEqual(3)
  })

  it('what the server refuses fails the stream, and the connection goes back', async () => {
    const pool = openPool(world, max)
    const pid = await as('acme', () => backendOf(pool))
    for (const [before, after] of Object.values(PLACES))
      await as('acme', () =>
        withClient(pool, async (client) => {
          const failures: [() => Promise<unknown>, string][] = [
            [() => textOf(client.query(copyTo('copy nothing to stdout'))), '42P01'],
            [
              () => textOf(client.query(copyTo('copy (select id / (id - 2) from item) to stdout'))),
              '22012',
            ],
            [
              () =>
                pipeline(
                  Readable.from(['no tab\n']),
                  client.query(copyFrom('copy log from stdin')),
                ),
              '22P04',
            ],
            [
              () =>
                pipeline(
                  Readable.from(['a\tb\n']),
                  client.query(copyFrom('copy nothing from stdin')),
                ),
              '42P01',
            ],
          ]
          for (const [fail, code] of failures) {
            for (const sql of before) await client.query(sql)
            await expect(fail()).rejects.toMatchObject({ code })
            if (after.length > 0) await client.query('rollback')
            expect((await client.query('select count(*)::int from item')).rows).toEqual([
              { count: COUNTS.acme },
            ])
          }
        }),
      )
    await expectIdle(world, pool)
    expect(await as('acme', () => backendOf(pool))).toBe(pid)
  })

  it('a source that fails ends the COPY FROM with nothing written', async () => {
    const pool = openPool(world, max)
    const source = async function* (): AsyncGenerator<string> {
      yield `a\t${canary('acme', 'a')}\n`
      await sleep(1)
      throw new Error('the source broke')
    }
    for (const [before, after] of Object.values(PLACES))
      await as('acme', () =>
        withClient(pool, async (client) => {
          for (const sql of before) await client.query(sql)
          await expect(
            pipeline(Readable.from(source()), client.query(copyFrom('copy log from stdin'))),
          ).rejects.toThrow('the source broke')
          if (after.length > 0) await client.query('rollback')
          expect((await client.query('select count(*)::int from log')).rows).toEqual([{ count: 0 }])
        }),
      )
    await expectIdle(world, pool)
  })

  it('a copy that is abandoned costs its connection, and reaches nobody', async () => {
    const pool = openPool(world, max)
    for (const abandon of [
      async (client: pg.PoolClient) => {
        const out = client.query(
          copyTo(
            `copy (select '${canary('acme', 'x')}', repeat('x', 1000) from generate_series(1, 20000)) to stdout`,
          ),
        )
        await once(out, 'readable')
        out.destroy()
      },
      async (client: pg.PoolClient) => {
        const into = client.query(copyFrom('copy log from stdin'))
        into.on('error', () => undefined)
        into.write(`a\t${canary('acme', 'a')}\n`)
        await sleep(5)
      },
    ]) {
      world.destroyed.length = 0
      await as('acme', () => withClient(pool, abandon))
      expect(world.destroyed).toEqual([{ tenantId: 'acme', reason: 'an unfinished statement' }])
      await as('globex', () =>
        withClient(pool, async (client) => {
          const text = await textOf(client.query(copyTo(COPY_ITEMS)))
          expect(itemsIn(text)).toEqual(ownItems(world))
          expect(foreignCanaries(text, 'globex')).toEqual([])
        }),
      )
      await eventually(async () => (await logOf(world, 'acme')).length === 0)
    }
  })

  it('neither runs for a tenant without a schema, nor on a client of somebody else', async () => {
    const pool = openPool(world, max)
    await as(HOMELESS, () =>
      withClient(pool, async (client) => {
        expect(
          await refusalOf(() => textOf(client.query(copyTo('copy (select 1) to stdout')))),
        ).toBe('ERR_TENANCY_SCHEMA_MISSING')
        expect(
          await refusalOf(() =>
            pipeline(Readable.from(['a\tb\n']), client.query(copyFrom('copy log from stdin'))),
          ),
        ).toBe('ERR_TENANCY_SCHEMA_MISSING')
      }),
    )
    await as('acme', () =>
      withClient(pool, async (client) => {
        for (const begin of ['select 1', 'begin'] as const) {
          await client.query(begin)
          const out = (): Promise<string> => textOf(client.query(copyTo(COPY_ITEMS)))
          const into = (): Promise<void> =>
            pipeline(Readable.from(['x\ty\n']), client.query(copyFrom('copy log from stdin')))
          for (const call of [out, into])
            expect(await refusalOf(() => as<unknown>('globex', call))).toBe(
              'ERR_TENANCY_CONTEXT_LOCKED',
            )
          expect(itemsIn(await out())).toEqual(ownItems(world))
        }
        await client.query('rollback')
      }),
    )
    for (const id of TENANTS) expect(await logOf(world, id)).toEqual([])
    await expectIdle(world, pool)
  })
})
