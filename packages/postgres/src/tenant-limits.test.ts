import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TenantPool } from './tenant-pool.ts'

let db: TestDatabase
let tenancy: Tenancy

beforeAll(async () => {
  db = await createTestDatabase()
  for (const id of ['acme', 'globex'])
    await db.query(
      `create schema ${id}; create table ${id}.item (id int primary key, owner text); insert into ${id}.item values (1, 'canary:${id}:1')`,
    )
  tenancy = createTenancy({
    store: memoryTenantStore([
      { id: 'acme', settings: { statementTimeoutMs: 150, lockTimeoutMs: 100 } },
      { id: 'globex' },
    ]),
  })
})

afterAll(async () => {
  await tenancy.close()
  await db[Symbol.asyncDispose]()
})

const setting =
  (name: 'statementTimeoutMs' | 'lockTimeoutMs') =>
  ({ settings }: { settings: Readonly<Record<string, unknown>> }): number | 'none' =>
    (settings[name] as number | undefined) ?? 'none'

const SHOWN =
  "select current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock"

describe.each(['none', 'transaction'] as const)('limits of time, pooler %s', (pooler) => {
  const openPool = async (
    options: ConstructorParameters<typeof TenantPool>[1] = {},
  ): Promise<TenantPool> => {
    // A pooler refuses the setting at the start; the login brings it, and here the database does.
    if (pooler === 'transaction') await db.query(`alter database ${db.name} set search_path = ''`)
    return new TenantPool(tenancy, { connectionString: db.url, max: 1, pooler, ...options })
  }

  it('are those of the tenant, in and outside of transactions, and end with the statement', async () => {
    await using pool = closing(
      await openPool({
        statementTimeoutMs: setting('statementTimeoutMs'),
        lockTimeoutMs: setting('lockTimeoutMs'),
      }),
    )
    for (let round = 0; round < 3; round++) {
      await tenancy.run('acme', async () => {
        expect((await pool.query(SHOWN)).rows).toEqual([{ statement: '150ms', lock: '100ms' }])
        await pool.transaction(async (query) => {
          await query('select 1')
          expect((await query(SHOWN)).rows).toEqual([{ statement: '150ms', lock: '100ms' }])
        })
        // A text of several statements.
        const results = (await pool.query(`${SHOWN}; ${SHOWN}`)) as unknown as { rows: unknown[] }[]
        expect(results[1]?.rows).toEqual([{ statement: '150ms', lock: '100ms' }])
      })
      await tenancy.run('globex', async () => {
        expect((await pool.query(SHOWN)).rows).toEqual([{ statement: '0', lock: '0' }])
        expect((await pool.query('select owner from item')).rows).toEqual([
          { owner: 'canary:globex:1' },
        ])
      })
    }
  })

  it('a statement that takes longer is cancelled, for that tenant alone, and the connection goes on', async () => {
    await using pool = closing(
      await openPool({ statementTimeoutMs: setting('statementTimeoutMs') }),
    )
    await tenancy.run('acme', () =>
      expect(pool.query('select pg_sleep(5)')).rejects.toMatchObject({ code: '57014' }),
    )
    await tenancy.run('acme', () =>
      expect(pool.query('select 1; select pg_sleep(5)')).rejects.toMatchObject({ code: '57014' }),
    )
    await tenancy.run('globex', () => pool.query('select pg_sleep(0.4)'))
    expect(pool.destroyedCount).toBe(0)
  })

  it('a lock that is not given in time fails the statement', async () => {
    await using pool = closing(await openPool({ max: 3, lockTimeoutMs: 100 }))
    await tenancy.run('acme', () =>
      pool.transaction(async (query) => {
        await query('select * from item where id = 1 for update')
        await expect(
          pool.query('update item set owner = owner where id = 1'),
        ).rejects.toMatchObject({ code: '55P03' })
      }),
    )
  })

  it('what is no limit is refused before anything is sent', async () => {
    await using pool = closing(await openPool({ statementTimeoutMs: () => 0 }))
    await tenancy.run('acme', () =>
      expect(pool.query('select 1')).rejects.toMatchObject({
        code: 'ERR_TENANCY_OPTION_INVALID',
        tenantId: 'acme',
      }),
    )
    expect(pool.totalCount).toBe(0)
    expect(() => new TenantPool(tenancy, { lockTimeoutMs: -1 })).toThrow(/lockTimeoutMs/)
  })
})

/** Ends a pool with its block. */
function closing(pool: TenantPool): TenantPool & AsyncDisposable {
  return Object.assign(pool, { [Symbol.asyncDispose]: () => pool.end() })
}
