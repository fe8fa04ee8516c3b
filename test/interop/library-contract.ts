import { TenancyError } from '@partywall/core'
import type { TenantPool, TenantPoolOptions } from '@partywall/postgres'
import { canary, eventually } from '@partywall/test-support'
import type pg from 'pg'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  COUNTS,
  HOMELESS,
  itemsOf,
  type TenantDatabase,
  type TenantId,
} from '../isolation/database-fixture.ts'

export interface Item {
  readonly id: number
  readonly owner: string
}

export interface LogEntry {
  readonly unit: string
  readonly owner: string
}

/** What the contract asks of a library, in the library's own words: made once, outside of every tenant, and used by all of them. */
export interface LibraryUse {
  /** Every row of `item`, by id. */
  readonly readItems: () => Promise<readonly Item[]>
  /** One transaction: inserts the entry into `log`, gives every row of `item` to `check`, and is rolled back if that throws. */
  readonly writeLog: (entry: LogEntry, check: (items: readonly Item[]) => void) => Promise<unknown>
}

export const TENANTS = Object.keys(COUNTS) as TenantId[]
export const POOL_SIZES = [1, 4]

/** Runs as a tenant, from outside of whatever tenant is active: the next request, not a part of this one. */
export function actAs(
  world: TenantDatabase,
): <T>(tenantId: string, fn: () => Promise<T> | T) => Promise<T> {
  return (tenantId, fn) =>
    world.tenancy.context.outside(() => world.tenancy.run(tenantId, async () => fn()))
}

/** Opens a pool that is ended with the test. The whole of it is for any one tenant, so that a test can fill it from one. */
export function openPool(
  world: TenantDatabase,
  max: number,
  options: TenantPoolOptions = {},
): TenantPool {
  const pool = world.openPool({ max, ...options })
  onTestFinished(() => {
    if (!pool.ending) void pool.end()
  })
  return pool
}

/** Runs `fn` with a client of its own. */
export async function withClient<T>(
  pool: TenantPool,
  fn: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect()
  try {
    return await fn(client)
  } finally {
    client.release()
  }
}

/** The rows of `item` that the active tenant must see. */
export function ownItems(world: TenantDatabase): Item[] {
  const { id } = world.tenancy.require().tenant
  return itemsOf(id, COUNTS[id as TenantId])
}

export const logOf = async (world: TenantDatabase, tenantId: string): Promise<LogEntry[]> =>
  (await world.db.query<LogEntry>(`select unit, owner from "${tenantId}".log order by unit`)).rows

/** The code of the TenancyError that a library threw, or wrapped into an error of its own; else the error, for the message of a failed test. */
function tenancyCodeOf(error: unknown): unknown {
  for (let level = error, depth = 0; depth < 6 && typeof level === 'object' && level; depth++) {
    const { code, cause, original, driverError } = level as Record<string, unknown>
    if (TenancyError.is(level)) return level.code
    if (typeof code === 'string' && code.startsWith('ERR_TENANCY_')) return code
    level = cause ?? original ?? driverError
  }
  return error
}

/** The code of the TenancyError that a call fails with. */
export async function refusalOf(call: () => unknown): Promise<unknown> {
  try {
    return { fulfilled: await call() }
  } catch (error) {
    return tenancyCodeOf(error)
  }
}

/** The SQLSTATE that the server answered a call with, which libraries wrap in different ways; what the call resolves to, or another error, as it is. */
export async function sqlStateOf(call: () => Promise<unknown>): Promise<unknown> {
  try {
    return { fulfilled: await call() }
  } catch (error) {
    for (let level: unknown = error; typeof level === 'object' && level !== null; ) {
      const { code, cause, original, driverError } = level as Record<string, unknown>
      if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !code.startsWith('P'))
        return code
      level = cause ?? original ?? driverError
    }
    // Prisma has codes of its own, and tells that of the server somewhere inside.
    return /"(?:code|originalCode)":"(?!P)([0-9A-Z]{5})"/.exec(JSON.stringify(error))?.[1] ?? error
  }
}

const READS = 20
const TRANSACTIONS = 12
const CHANGED_MY_MIND = 'changed my mind'

/**
 * 20 reads and 12 transactions at once, of two tenants and an adversary in turn; half of the transactions are rolled back. All write the same keys, so what lands with a neighbour is a wrong canary, a missing row or
 * a conflict. Afterwards every connection is back in the pool, and none had to be destroyed.
 */
async function expectInterleaved(
  world: TenantDatabase,
  pool: TenantPool,
  { readItems, writeLog }: LibraryUse,
): Promise<void> {
  const as = actAs(world)
  for (const id of TENANTS) await world.db.query(`truncate "${id}".log`)
  world.destroyed.length = 0
  const turn = (n: number): TenantId => TENANTS[n % TENANTS.length] as TenantId
  const reads = Array.from({ length: READS }, (_, n) => async () => {
    expect(await as(turn(n), readItems)).toEqual(itemsOf(turn(n), COUNTS[turn(n)]))
  })
  const transactions = Array.from({ length: TRANSACTIONS }, (_, n) => async () => {
    const id = turn(n)
    const round = Math.floor(n / TENANTS.length)
    const entry = { unit: `u${round}`, owner: canary(id, round) }
    const rolledBack = round % 2 === 1
    let seen: readonly Item[] = []
    const done = as(id, () =>
      writeLog(entry, (items) => {
        seen = items
        if (rolledBack) throw new Error(CHANGED_MY_MIND)
      }),
    )
    if (rolledBack) await expect(done).rejects.toThrow(CHANGED_MY_MIND)
    else await done
    expect(seen).toEqual(itemsOf(id, COUNTS[id]))
  })
  // Two reads, a transaction, two reads, ...
  const jobs = transactions.flatMap((job, n) => [...reads.slice(2 * n, 2 * n + 2), job])
  await Promise.all([...jobs, ...reads.slice(2 * TRANSACTIONS)].map(async (job) => job()))
  for (const id of TENANTS)
    expect(await logOf(world, id)).toEqual([
      { unit: 'u0', owner: canary(id, 0) },
      { unit: 'u2', owner: canary(id, 2) },
    ])
  await expectIdle(world, pool)
}

/** Every connection comes back, and none had to be thrown away. A failed statement is told before the end of its answer, so that may take a moment. */
export async function expectIdle(world: TenantDatabase, pool: TenantPool): Promise<void> {
  await eventually(() => pool.idleCount === pool.totalCount && pool.waitingCount === 0)
  expect(world.destroyed).toEqual([])
}

/** What every row of `docs/reference/interop.md` promises that is used over a pool. */
export function describeLibrary(
  getWorld: () => TenantDatabase,
  use: (pool: TenantPool) => LibraryUse | Promise<LibraryUse>,
): void {
  describe.each(POOL_SIZES)('over a pool of %i', (max) => {
    it('D15 reads and transactions of three tenants at once stay with their tenants', async () => {
      const world = getWorld()
      const pool = openPool(world, max)
      const library = await use(pool)
      for (let round = 0; round < 2; round++) await expectInterleaved(world, pool, library)
    })

    it('D6 outside of every tenant, in central work and without a schema nothing reaches a table', async () => {
      const world = getWorld()
      const as = actAs(world)
      const pool = openPool(world, max)
      const { readItems, writeLog } = await use(pool)
      const write = (): Promise<unknown> =>
        writeLog({ unit: 'stray', owner: 'nobody' }, () => undefined)
      for (const call of [readItems, write]) {
        expect(await refusalOf(call)).toBe('ERR_TENANCY_CONTEXT_MISSING')
        expect(await refusalOf(() => world.tenancy.central('a test', call))).toBe(
          'ERR_TENANCY_CONTEXT_MISSING',
        )
        expect(await refusalOf(() => as(HOMELESS, call))).toBe('ERR_TENANCY_SCHEMA_MISSING')
      }
      for (const id of TENANTS)
        expect((await logOf(world, id)).filter(({ unit }) => unit === 'stray')).toEqual([])
      // The pool and the library go on.
      await expectInterleaved(world, pool, { readItems, writeLog })
    })
  })
}
