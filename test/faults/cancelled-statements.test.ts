import type { TenantPool, TenantPoolOptions } from '@partywall/postgres'
import { CopyIn, canary, eventually, outcomeOf } from '@partywall/test-support'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import {
  countsOf,
  createVariantWorld,
  VARIANTS,
  type VariantWorld,
} from '../isolation/variant-world.ts'
import { backendOf, expectNominal, expectOwnRows, terminate, within } from './fault-fixture.ts'
import { leasedStates, untilRunning } from './leased-states.ts'

let world: VariantWorld

/** Long enough for every statement that is not meant to take longer, on a machine that is busy. In milliseconds. */
const PATIENCE_MS = 500

const { schema, pipelined, role, row, limits } = VARIANTS
describe.each([schema, pipelined, role, row, limits])(
  'F2 $name: statements that are cut short',
  (variant) => {
    beforeAll(async () => {
      world = await createVariantWorld(variant)
    })
    afterAll(() => world[Symbol.asyncDispose]())
    beforeEach(async () => {
      await endSleepers()
      await world.clearLogs()
    })

    const open = (max: number, options: TenantPoolOptions = {}): TenantPool => {
      const pool = world.openPool({ max, ...options })
      onTestFinished(() => void pool.end())
      return pool
    }
    const running = leasedStates(variant).filter((state) => state.running === true)
    const cases = variant.poolSizes.flatMap((max) => running.map((state) => ({ max, state })))

    it.each(cases)('F2 pool of $max, pg_cancel_backend: $state.name', async ({ max, state }) => {
      const [acme] = world.tenants
      const pool = open(max)
      const client = await world.as(acme, () => pool.connect())
      const pid = backendOf(client)
      const underWay = await world.as(acme, () => state.enter(client, acme))
      const outcomes = Object.values(underWay).map(outcomeOf)
      await untilRunning(world, pid)
      await world.db.query('select pg_cancel_backend($1)', [pid])
      const [first, ...behind] = await within(5_000, Promise.all(outcomes))
      expect(first).toBe('57014')
      // In a failed transaction the rest is skipped, and its COMMIT is answered, with ROLLBACK.
      for (const outcome of behind) expect(outcome).toMatch(/^(?:25P02|fulfilled)$/)
      if (state.transaction === true) await world.as(acme, () => client.query('rollback'))
      await expectOwnRows(world, client, acme)
      client.release()
      expect(pool.destroyedCount).toBe(0)
      await expectNominal(world, pool)
      expect(await world.logs()).toEqual([])
      if (max === 1) expect(await world.as(acme, () => processOf(pool))).toBe(pid)
    })

    it.each(
      variant.poolSizes.flatMap((max) =>
        leasedStates(variant)
          .filter(({ running }) => running !== true)
          .map((state) => ({ max, state })),
      ),
    )(
      'F2 pool of $max, pg_cancel_backend where nothing runs: $state.name',
      async ({ max, state }) => {
        const [acme] = world.tenants
        const pool = open(max)
        const client = await world.as(acme, () => pool.connect())
        const underWay = await world.as(acme, () => state.enter(client, acme))
        const outcomes = Object.values(underWay).map(outcomeOf)
        for (let n = 0; n < 3; n++)
          await world.db.query('select pg_cancel_backend($1)', [backendOf(client)])
        client.release(outcomes.length > 0 || state.name.includes('stream') ? true : undefined)
        await expectNominal(world, pool)
        expect(await world.logs()).toEqual([])
      },
    )

    it.skipIf(variant === row).each(variant.poolSizes)(
      'F2 pool of %i: a COPY FROM STDIN that is cancelled',
      async (max) => {
        const [acme] = world.tenants
        const pool = open(max)
        const client = await world.as(acme, () => pool.connect())
        const copy = client.query(new CopyIn('copy log from stdin'))
        await copy.begun
        copy.write(`lost\t${canary(acme, 'lost')}\n`)
        await world.db.query('select pg_cancel_backend($1)', [backendOf(client)])
        copy.end()
        expect(await within(5_000, outcomeOf(copy.done))).toBe('57014')
        await expectOwnRows(world, client, acme)
        client.release()
        expect(pool.destroyedCount).toBe(0)
        expect(await world.logs()).toEqual([])
      },
    )

    it.each(['select owner, pg_sleep(30) from item', 'select owner, pg_sleep($1) from item'])(
      'F2 the cancel request of pg, by a second connection: %s',
      async (text) => {
        const [acme, globex] = world.tenants
        const pool = open(1)
        const client = await world.as(acme, () => pool.connect())
        const settled = Promise.withResolvers<void>()
        const query = new pg.Query(
          // The types of pg know no callback here.
          {
            text,
            values: text.includes('$1') ? [30] : [],
            callback: (error: Error | null) => (error ? settled.reject(error) : settled.resolve()),
          } as pg.QueryConfig,
        )
        world.as(acme, () => void client.query(query)).catch(() => undefined)
        await untilRunning(world, backendOf(client))
        // Not in the types of pg.
        const messenger = new pg.Client(world.url) as unknown as {
          cancel(client: pg.ClientBase, query: pg.Query): void
        }
        messenger.cancel(client, query)
        expect(await within(5_000, outcomeOf(settled.promise))).toBe('57014')
        client.release()
        await expectOwnRows(world, pool, globex)
        await expectNominal(world, pool)
      },
    )

    // Refused together: a connection that is given up would take others' statements along.
    const noQueryTimeout = 'pipelineDepth' in variant.options
    it.skipIf(noQueryTimeout).each(variant.poolSizes)(
      'F2 pools of %i, query_timeout, in every state that runs: given up, the connection goes to nobody',
      async (max) => {
        const [acme, globex] = world.tenants
        const pids = await Promise.all(
          running.map(async (state) => {
            const pool = open(max, { query_timeout: PATIENCE_MS })
            const client = await world.as(acme, () => pool.connect())
            const pid = backendOf(client)
            const underWay = await world.as(acme, () => state.enter(client, acme))
            const outcomes = Object.values(underWay).map(outcomeOf)
            // COPY objects know no callback, and pg gives up nothing that has none.
            if (!('copy' in underWay))
              expect((await within(5_000, Promise.all(outcomes)))[0], state.name).toBe(
                'Query read timeout',
              )
            client.release()
            await expectNominal(world, pool)
            // The server may still be at it; nobody else may get its answer.
            const next = await eventually(() => world.as(globex, () => processOf(pool)))
            expect(next, state.name).not.toBe(pid)
            expect(pool.destroyedCount, state.name).toBeGreaterThan(0)
            return pid
          }),
        )
        await terminate(world, ...pids)
        expect(await world.logs()).toEqual([])
      },
    )

    const ONE_SHOTS: Record<string, (pool: TenantPool) => Promise<unknown>> = {
      text: (pool) => pool.query('select owner, pg_sleep(30) from item'),
      parameters: (pool) => pool.query('select owner, pg_sleep($1) from item', [30]),
      'two statements': (pool) => pool.query('select 1; select owner, pg_sleep(30) from item'),
      'a transaction': (pool) =>
        pool.transaction(async (query) => {
          await query('insert into log values ($1, $2)', ['lost', 'lost'])
          await query('select owner, pg_sleep(30) from item')
        }),
    }
    it.skipIf(noQueryTimeout).each(variant.poolSizes)(
      'F2 pools of %i, query_timeout of units: given up, the connection goes to nobody',
      async (max) => {
        const [acme, globex] = world.tenants
        await Promise.all(
          Object.entries(ONE_SHOTS).map(async ([name, send]) => {
            const pool = open(max, { query_timeout: PATIENCE_MS })
            const units = [acme, globex].map((id) => outcomeOf(world.as(id, () => send(pool))))
            // Those in line behind one that is given up come to their turn, and are given up as well.
            expect(await within(5_000, Promise.all(units)), name).toEqual(
              units.map(() => 'Query read timeout'),
            )
            await expectNominal(world, pool)
          }),
        )
        await endSleepers()
        expect(await world.logs()).toEqual([])
      },
    )

    /** Both ways to set a limit; where the scope brings one, it counts, and not that of the session. */
    const limitsOf = (session: TenantPoolOptions, scope: TenantPoolOptions): TenantPoolOptions[] =>
      variant === limits ? [scope] : variant === schema ? [session, scope] : [session]
    const statementLimits = limitsOf(
      { statement_timeout: PATIENCE_MS },
      { statementTimeoutMs: PATIENCE_MS },
    )
    it.each(statementLimits.flatMap((limit) => variant.poolSizes.map((max) => ({ max, limit }))))(
      'F2 pools of $max, $limit: units are cancelled by the server, the connections go on',
      async ({ max, limit }) => {
        const [acme, globex] = world.tenants
        await Promise.all(
          Object.entries(ONE_SHOTS).map(async ([name, send]) => {
            const pool = open(max, limit)
            const units = [acme, globex].map((id) => outcomeOf(world.as(id, () => send(pool))))
            expect(await within(5_000, Promise.all(units)), name).toEqual(units.map(() => '57014'))
            for (const id of world.tenants) {
              const ask = (): Promise<pg.QueryResult> =>
                world.as(id, () => pool.query('select id, owner from item order by id'))
              expect((await ask()).rows).toEqual(world.itemsOf(id))
            }
            expect(pool.destroyedCount, name).toBe(0)
          }),
        )
        expect(await world.logs()).toEqual([])
      },
    )

    it.each(
      limitsOf({ lock_timeout: 80 }, { lockTimeoutMs: 80 }).flatMap((limit) =>
        variant.poolSizes.map((max) => ({ max, limit })),
      ),
    )('F2 pool of $max, $limit: the connection goes on', async ({ max, limit }) => {
      const [acme, globex] = world.tenants
      const pool = open(max, limit)
      const admin = new pg.Client(world.db.url)
      await admin.connect()
      onTestFinished(() => admin.end())
      await admin.query(`begin; lock table ${world.nameOf(acme, 'item')}`)
      for (const send of [
        () => pool.query('select owner from item'),
        () => pool.query('select owner from item where id = $1', [1]),
        () => pool.transaction((query) => query('select owner from item')),
      ])
        expect(await within(5_000, outcomeOf(world.as(acme, send)))).toBe('55P03')
      if (variant !== row)
        expect(
          (await world.as(globex, () => pool.query('select owner from item where id = 1'))).rows,
        ).toEqual([{ owner: canary(globex, 1) }])
      await admin.query('rollback')
      expect(pool.destroyedCount).toBe(0)
    })

    it('F2 a cursor that is cancelled between two reads of it, and one that is in the middle of a read', async () => {
      const [acme, globex] = world.tenants
      const pool = open(1)
      const client = await world.as(acme, () => pool.connect())
      const pid = backendOf(client)
      const idle = client.query(new Cursor('select owner from item order by id'))
      await idle.read(1)
      await world.db.query('select pg_cancel_backend($1)', [pid])
      // The server was waiting for the client: there was nothing to cancel.
      expect(await idle.read(2)).toEqual([{ owner: canary(acme, 2) }, { owner: canary(acme, 3) }])
      await idle.close()
      const busy = client.query(new Cursor('select owner, pg_sleep(30) from item'))
      const reading = outcomeOf(busy.read(2))
      await untilRunning(world, pid)
      await world.db.query('select pg_cancel_backend($1)', [pid])
      expect(await within(5_000, reading)).toBe('57014')
      await expectOwnRows(world, client, acme)
      client.release()
      await eventually(() => countsOf(pool).idle === 1)
      await expectOwnRows(world, pool, globex)
      expect(pool.destroyedCount).toBe(0)
    })
  },
)

/** Ends what the server still does for callers who have given up, and what would hold locks. */
async function endSleepers(): Promise<void> {
  await world.db.query(
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and wait_event = 'PgSleep'",
    [world.application],
  )
}

async function processOf(pool: TenantPool): Promise<number | undefined> {
  return (await pool.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]?.pid
}
