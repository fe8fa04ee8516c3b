import { assertPooler } from '@partywall/postgres'
import { describe, expect, it } from 'vitest'
import { createPooledWorld } from './pooler-fixture.ts'
import { type PooledGround, residueRows, transactionRows } from './pooler-suite.ts'

/* Behind the pooler of the tests, which needs nothing to be installed: where there is no PgBouncer, this is what guards the rows. */
const GROUNDS: readonly PooledGround[] = [
  { by: 'tests', connections: 2, role: 'none' },
  { by: 'tests', connections: 1, role: 'per-tenant' },
]

it('D13 a pool that was not told of it is refused', async () => {
  await using world = await createPooledWorld({
    by: 'tests',
    counts: { acme: 3, globex: 5 },
    connections: 1,
  })
  await expect(assertPooler(world.openPool({ pooler: 'none' }))).rejects.toMatchObject({
    code: 'ERR_TENANCY_POOLER_UNSAFE',
  })
  expect(await assertPooler(world.openPool())).toMatchObject({ sessionState: 'leaks' })
})

describe.each(GROUNDS)('D13 transactions, $connections connection(s), role $role', (ground) => {
  transactionRows(ground)
})
describe.each(GROUNDS)('D13 residue, $connections connection(s), role $role', (ground) => {
  residueRows(ground)
})
