import { readFile } from 'node:fs/promises'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { TenantPool } from '@partywall/postgres'
import type { TestDatabase } from '@partywall/test-support'
import type { BenchResult } from './bench-result.ts'

const TABLES = 12
/** Tenants that are created in one transaction: the lock table bounds it. */
const AT_ONCE = 20

/** S18: how much memory of its own a server process has after its pool has touched every table of many tenants, with and without connections that are replaced. Read from /proc, so on Linux alone and with a server on this machine. */
export async function backendMemory(
  database: TestDatabase,
  tenants: number,
): Promise<BenchResult[]> {
  const ids = Array.from({ length: tenants }, (_, index) => `m${index}`)
  const tables = Array.from({ length: TABLES }, (_, table) => `t${table}`)
  for (let first = 0; first < tenants; first += AT_ONCE)
    await database.query(
      ids
        .slice(first, first + AT_ONCE)
        .map(
          (id) =>
            `create schema ${id}; ${tables.map((table) => `create table ${id}.${table} (id int primary key, body text)`).join(';')}`,
        )
        .join(';'),
    )
  await using tenancy = createTenancy({ store: memoryTenantStore(ids.map((id) => ({ id }))) })
  const touched = tables.map((table) => `select id, body from ${table}`).join(' union all ')
  const peakOf = async (maxTenantsPerConnection: number): Promise<number> => {
    const pool = new TenantPool(tenancy, {
      connectionString: database.url,
      max: 1,
      sharedSchemas: [],
      maxTenantsPerConnection,
    })
    let peak = 0
    for (const [index, id] of ids.entries())
      await tenancy.run(id, async () => {
        await pool.query(touched)
        if (index % 100 !== 99 && index !== ids.length - 1) return
        const { rows } = await pool.query<{ pid: number }>('select pg_backend_pid() as pid')
        peak = Math.max(peak, await anonymousMb(rows[0]?.pid ?? 0))
      })
    await pool.end()
    return peak
  }
  const peak = await peakOf(500)
  return [
    {
      id: 'S18',
      measure: `memory of a server process, ${tenants} tenants of ${TABLES} tables`,
      unit: 'MB',
      value: peak,
      parts: { 'connections never replaced': await peakOf(Number.MAX_SAFE_INTEGER), tenants },
    },
  ]
}

async function anonymousMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return Number(/RssAnon:\s+(\d+) kB/.exec(status)?.[1] ?? Number.NaN) / 1024
}
