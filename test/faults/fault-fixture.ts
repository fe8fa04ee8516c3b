import type { TenantPool } from '@partywall/postgres'
import { eventually } from '@partywall/test-support'
import type pg from 'pg'
import { expect } from 'vitest'
import { countsOf, type VariantWorld, VIEW_COLUMNS } from '../isolation/variant-world.ts'

// An uncaught exception or an unhandled rejection of any test fails the whole run (vitest.config.ts): that the process lives needs no assertion of its own.

/** How soon a pool must be as good as new. */
export const RECOVERY_MS = 5_000

const READ = `select id, owner, ${VIEW_COLUMNS} from item`

/** What a tenant must get for `READ`, in whatever form it asks. */
function expected(world: VariantWorld, tenantId: string): unknown[] {
  const view = world.viewOf(tenantId)
  return world.itemsOf(tenantId).map((row) => ({ ...row, ...view }))
}

/** Reads all rows of a tenant in both protocols: its own rows, and a session that is the tenant's, or an error. */
export async function expectOwnRows(
  world: VariantWorld,
  pool: Pick<TenantPool, 'query'>,
  tenantId: string,
): Promise<void> {
  await world.as(tenantId, async () => {
    const rows = expected(world, tenantId)
    expect((await pool.query(`${READ} order by id`)).rows).toEqual(rows)
    expect((await pool.query(`${READ} where id <= $1 order by id`, [99])).rows).toEqual(rows)
  })
}

/** Within five seconds: every tenant works, nobody waits, and every connection is at rest. */
export async function expectNominal(world: VariantWorld, pool: TenantPool): Promise<void> {
  const deadline = performance.now() + RECOVERY_MS
  for (const tenantId of world.tenants)
    await eventually(
      async () => {
        await expectOwnRows(world, pool, tenantId)
        return true
      },
      { timeoutMs: Math.max(1, deadline - performance.now()) },
    )
  await eventually(
    () => {
      const { total, idle, waiting } = countsOf(pool)
      expect([idle, waiting]).toEqual([total, 0])
      expect(total).toBeLessThanOrEqual(world.limitsOf(pool.options.max).total)
      return true
    },
    { timeoutMs: Math.max(1, deadline - performance.now()) },
  )
}

/** The process of the server behind a client. */
export function backendOf(client: pg.ClientBase): number {
  return (client as unknown as { processID: number }).processID
}

/** Ends sessions as an administrator does, and waits until their processes are gone. */
export async function terminate(world: VariantWorld, ...pids: number[]): Promise<void> {
  await world.db.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [pids])
  await eventually(
    async () => {
      const { rowCount } = await world.db.query(
        'select from pg_stat_activity where pid = any($1::int[])',
        [pids],
      )
      return rowCount === 0
    },
    { intervalMs: 2 },
  )
}

/** Rejects if something takes longer than a fault may: no call of an application hangs. */
export async function within<T>(ms: number, promise: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => late.reject(new Error(`Nothing came within ${ms} ms.`)), ms)
  try {
    return await Promise.race([promise, late.promise])
  } finally {
    clearTimeout(timer)
  }
}
