import type { Tenancy } from '@partywall/core'
import { schemaOf, type TenantPool } from '@partywall/postgres'
import type { Kysely } from 'kysely'
import { createTransactionKysely, type KyselyPeer } from './tenant-kysely.ts'

const LEDGER = `create table if not exists partywall_seeds (
  name text primary key,
  seeded_at timestamptz not null default now()
)`

/**
 * Runs `seed` in the active tenant unless it has been run there: the note of it and all that the seed writes by its `db` are one transaction, so that neither a crash nor a race skips or repeats it.
 * What a seed does by other means may be repeated after a crash.
 *
 * Resolves to whether it ran.
 */
export async function seedOnce(
  { tenancy, pool, kysely }: { tenancy: Tenancy; pool: TenantPool; kysely: KyselyPeer },
  name: string,
  seed: (db: Kysely<any>) => unknown,
): Promise<boolean> {
  const { tenant } = tenancy.require()
  return pool.transaction(async (query) => {
    await query("select pg_advisory_xact_lock(hashtextextended('partywall:seed:' || $1, 0))", [
      schemaOf(tenant),
    ])
    await query(LEDGER)
    const { rowCount } = await query(
      'insert into partywall_seeds (name) values ($1) on conflict do nothing',
      [name],
    )
    if (rowCount !== 1) return false
    await seed(createTransactionKysely(kysely, query))
    return true
  })
}
