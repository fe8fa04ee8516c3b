import { createTenancy, memoryTenantStore } from '@partywall/core'
import { canary, createTestDatabase } from '@partywall/test-support'
import { expect, test } from 'vitest'
import { TenantPool } from './index.ts'

test('a tenant whose schema is a shared one is not served, and the others are', async () => {
  await using database = await createTestDatabase()
  for (const schema of ['acme', 'common', 'public'])
    await database.query(
      `create schema if not exists ${schema}; create table ${schema}.item_of_${schema} (owner text); insert into ${schema}.item_of_${schema} values ('${canary(schema, 1)}')`,
    )
  await using tenancy = createTenancy({
    store: memoryTenantStore([
      { id: 'acme' },
      // Somebody signed up under the name of a shared schema.
      { id: 'common' },
      { id: 'placed', placement: { schema: 'public' } },
    ]),
  })
  const pool = new TenantPool(tenancy, {
    connectionString: database.url,
    sharedSchemas: ['common', 'public'],
  })
  for (const id of ['common', 'placed'])
    await expect(
      tenancy.run(id, () => pool.query('select 1')),
      id,
    ).rejects.toMatchObject({ code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT' })
  expect(
    (await tenancy.run('acme', () => pool.query('select owner from item_of_acme'))).rows,
  ).toEqual([{ owner: canary('acme', 1) }])
  await pool.end()
})

test('a pool is not ended inside a tenant, unless it was made there', async () => {
  await using database = await createTestDatabase()
  await database.query('create schema acme; create schema globex')
  await using tenancy = createTenancy({
    store: memoryTenantStore([{ id: 'acme' }, { id: 'globex' }]),
  })
  const pool = new TenantPool(tenancy, { connectionString: database.url })
  await expect(tenancy.run('acme', () => pool.end())).rejects.toMatchObject({
    code: 'ERR_TENANCY_CONTEXT_LOCKED',
  })
  expect((await tenancy.run('globex', () => pool.query('select 1'))).rowCount).toBe(1)
  await pool.end()
  await tenancy.run('acme', async () => {
    const own = new TenantPool(tenancy, { connectionString: database.url })
    await own.query('select 1')
    await own.end()
  })
})
