import { createTenancy, memoryTenantStore } from '@partywall/core'
import { createTestDatabase } from '@partywall/test-support'
import { expect, test } from 'vitest'
import { TenantPool } from './index.ts'

/** A parameter that is serialised when it is sent, as an encrypting type would be. */
class Secret {
  readonly #key: () => string
  constructor(key: () => string) {
    this.#key = key
  }
  toPostgres(): string {
    return this.#key()
  }
}

test('parameters of a query that had to wait are serialised in the context of its caller', async () => {
  await using database = await createTestDatabase()
  await database.query('create schema acme; create schema globex')
  await using tenancy = createTenancy({
    store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]),
  })
  const pool = new TenantPool(tenancy, { connectionString: database.url, max: 1 })
  try {
    const ask = (): Promise<unknown> =>
      pool
        .query('select $1::text as key', [new Secret(() => tenancy.current()?.tenant.id ?? 'none')])
        .then(({ rows }) => (rows as { key: string }[])[0]?.key)
    const client = await tenancy.run('acme', () => pool.connect())
    const waiting = ['globex', 'acme', 'globex'].map((id) => tenancy.run(id, ask))
    await new Promise((resolve) => setTimeout(resolve, 20))
    await tenancy.run('acme', () => client.release())
    expect(await Promise.all(waiting)).toEqual(['globex', 'acme', 'globex'])
  } finally {
    await pool.end()
  }
})
