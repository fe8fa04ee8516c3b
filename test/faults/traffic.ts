import type { TenantPool } from '@partywall/postgres'
import { canary, type SeededRandom, saysGone, seededRandom } from '@partywall/test-support'
import type pg from 'pg'
import Cursor from 'pg-cursor'
import { expect } from 'vitest'
import { type VariantWorld, VIEW_COLUMNS } from '../isolation/variant-world.ts'

export interface TrafficOptions {
  readonly callers: number
  /** Stops when so many units have ended, ... */
  readonly units?: number
  /** ... or when this says so. */
  readonly until?: AbortSignal
  readonly random?: SeededRandom
}

export interface Traffic {
  /** Replies whose every row was checked. */
  replies: number
  /** Replies that were not the caller's, or not to what it had asked. */
  readonly crossed: string[]
  /** Errors of units, in the order in which they came. */
  readonly errors: unknown[]
  /** How long the slowest unit took, in milliseconds. */
  slowestMs: number
  /** Writes, by what their caller was told. */
  readonly written: Map<string, 'acknowledged' | 'unknown'>
  /** When the last caller has stopped. */
  readonly ended: Promise<void>
}

/** Every reply says for whom it is and to which question: a number that no other question has. */
const ECHO = `select owner, $1::int as echo, ${VIEW_COLUMNS} from item where id = 1`
const asText = (sql: string, number: number): string => sql.replace('$1::int', `${number}::int`)

/**
 * Mixed units of all tenants over one pool, each with a number of its own that comes back in every row. What comes back is compared with the tenant, the session and the number of its caller; an error is
 * noted and the caller goes on.
 */
export function startTraffic(
  world: VariantWorld,
  pool: TenantPool,
  { callers, units = Number.POSITIVE_INFINITY, until, random = seededRandom() }: TrafficOptions,
): Traffic {
  const ended = Promise.withResolvers<void>()
  const traffic: Traffic = {
    replies: 0,
    crossed: [],
    errors: [],
    slowestMs: 0,
    written: new Map(),
    ended: ended.promise,
  }
  let number = 0
  const check = (tenantId: string, echo: number, rows: readonly unknown[]): void => {
    traffic.replies++
    const own = { owner: canary(tenantId, 1), echo, ...world.viewOf(tenantId) }
    const told = JSON.stringify(rows)
    if (told !== JSON.stringify([own]))
      traffic.crossed.push(`${tenantId} asked ${echo} and got ${told}`)
  }
  const kinds: ((tenantId: string, echo: number) => Promise<void>)[] = [
    async (id, echo) => check(id, echo, (await pool.query(ECHO, [echo])).rows),
    async (id, echo) => check(id, echo, (await pool.query(asText(ECHO, echo))).rows),
    async (id, echo) =>
      check(id, echo, (await pool.query({ name: 'echo', text: ECHO, values: [echo] })).rows),
    async (id, echo) => {
      const results = (await pool.query(
        `${asText(ECHO, echo)}; ${asText(ECHO, echo)}`,
      )) as unknown as pg.QueryResult[]
      for (const { rows } of results) check(id, echo, rows)
    },
    async (id, echo) => {
      await saved(id, echo, async (unit) => {
        const { rows } = await pool.query(
          `insert into log values ($1, $2) returning owner, ${echo}::int as echo, ${VIEW_COLUMNS}`,
          [unit, canary(id, 1)],
        )
        check(id, echo, rows)
      })
    },
    async (id, echo) => {
      await saved(id, echo, (unit) =>
        pool.transaction(async (query) => {
          check(id, echo, (await query(ECHO, [echo])).rows)
          await query('insert into log values ($1, $2)', [unit, canary(id, 1)])
          check(id, echo, (await query(asText(ECHO, echo))).rows)
        }),
      )
    },
    async (id, echo) => {
      const client = await pool.connect()
      try {
        const cursor = client.query(new Cursor(ECHO, [echo]))
        check(id, echo, await orEnd(client, cursor.read(5)))
        await orEnd(client, cursor.close())
        check(id, echo, (await client.query(ECHO, [echo])).rows)
      } finally {
        client.release()
      }
    },
    async (_id, echo) => {
      const code = await pool.query(`select ${echo} / (id - id) from item`).then(
        () => 'no error',
        (error: unknown) => {
          if ((error as { code?: string }).code !== '22012') throw error
          return '22012'
        },
      )
      if (code !== '22012') traffic.crossed.push(`a division by zero: ${code}`)
      traffic.replies++
    },
  ]
  const saved = async (
    tenantId: string,
    echo: number,
    write: (unit: string) => Promise<void>,
  ): Promise<void> => {
    const unit = `${tenantId} ${echo}`
    traffic.written.set(unit, 'unknown')
    await write(unit)
    traffic.written.set(unit, 'acknowledged')
  }
  const caller = async (): Promise<void> => {
    // oxlint-disable-next-line eslint/no-unmodified-loop-condition -- the signal changes
    while (number < units && until?.aborted !== true) {
      const echo = ++number
      const tenantId = random.pick(world.tenants)
      const begun = performance.now()
      try {
        await world.as(tenantId, () => random.pick(kinds)(tenantId, echo))
      } catch (error) {
        traffic.errors.push(error)
        // As an application does that was told to come back later.
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
      traffic.slowestMs = Math.max(traffic.slowestMs, performance.now() - begun)
    }
  }
  Promise.all(Array.from({ length: callers }, caller)).then(() => ended.resolve(), ended.reject)
  return traffic
}

/** On a connection that breaks or falls silent, the reads and the close of a pg-cursor may never settle, here as with a plain pool, and no `query_timeout` ends them. An application has to. */
function orEnd<T>(client: pg.PoolClient, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    client.once('end', () => reject(new Error('Connection terminated unexpectedly')))
    const timer = setTimeout(() => reject(new Error('Query read timeout')), 1_000)
    promise.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

/** What was acknowledged is there, once, in its tenant's place; what was not is there once or not at all; and there is nothing else. */
export async function expectExactLedger(
  world: VariantWorld,
  ...traffics: Traffic[]
): Promise<void> {
  const written = new Map(traffics.flatMap((traffic) => [...traffic.written]))
  const found = new Set<string>()
  const wrong: string[] = []
  for (const { place, unit, owner } of await world.logs()) {
    if (found.has(unit)) wrong.push(`twice: ${unit}`)
    found.add(unit)
    if (!written.has(unit)) wrong.push(`nobody wrote: ${unit}`)
    if (unit.split(' ')[0] !== place || owner !== canary(place, 1))
      wrong.push(`in the wrong place: ${unit} ${owner} in ${place}`)
  }
  for (const [unit, told] of written)
    if (told === 'acknowledged' && !found.has(unit)) wrong.push(`lost: ${unit}`)
  expect(wrong).toEqual([])
}

/** Every error says that the connection was not there, or is one of those that were asked for. */
export function expectExplained(traffic: Traffic, ...others: RegExp[]): void {
  const strange = traffic.errors.filter((error) => {
    const { code, message } = error as { code?: string; message?: string }
    return (
      !saysGone(error) &&
      !others.some((pattern) => pattern.test(code ?? '') || pattern.test(message ?? ''))
    )
  })
  expect(strange).toEqual([])
}
