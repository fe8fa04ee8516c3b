import { createHash, randomBytes } from 'node:crypto'
import { isTenantId, physicalName } from '@partywall/core'
import { createTestDatabase, type TestDatabase } from '@partywall/test-support'
import fc from 'fast-check'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  TENANT_TYPES,
  tenantCheck,
  tenantCondition,
  tenantRoleGuard,
  tenantValue,
} from './expressions.ts'

const seed = 20_260_801
const salt = randomBytes(4).toString('hex')
const ROLES = ['none', 'per-tenant'] as const

let db: TestDatabase
let client: pg.Client

beforeAll(async () => {
  db = await createTestDatabase()
  client = new pg.Client({ connectionString: db.url })
  await client.connect()
  await client.query('set search_path to pg_catalog, pg_temp')
})
// Roles belong to the whole server: none of these is ever committed.
beforeEach(async () => {
  await client.query('begin')
})
afterEach(async () => {
  await client.query('rollback')
})
afterAll(async () => {
  await client.end()
  await db[Symbol.asyncDispose]()
})

/** Whether each id passes as the tenant of the role beside it. */
async function pass(pairs: readonly (readonly [id: string | null, user: string])[]) {
  const guard = tenantRoleGuard({ sql: 'id', printed: '' }, { sql: 'usename', printed: '' }).sql
  const { rows } = await client.query<{ passes: boolean | null }>(
    `select ${guard} as passes from unnest($1::text[], $2::name[]) pair (id, usename)`,
    [pairs.map(([id]) => id), pairs.map(([, user]) => user)],
  )
  return rows.map(({ passes }) => passes === true)
}

describe('the role of a tenant in SQL', () => {
  const id = fc
    .oneof(
      fc.stringMatching(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/),
      // Around the length at which names are cut, and alike up to there.
      fc
        .stringMatching(/^[a-z0-9]{1,8}$/)
        .map((end) => 'long-tenant-'.repeat(5).slice(0, 50) + end),
    )
    .filter(isTenantId)

  it(`is what physicalName makes of the id, and no other (seed ${seed})`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(id, id), { minLength: 50, maxLength: 200 }),
        async (ids) => {
          const pairs = ids.flatMap(([one, other]) => [
            [one, physicalName('role', one)] as const,
            [one, physicalName('role', other)] as const,
          ])
          expect(await pass(pairs)).toEqual(
            pairs.map(([tenantId, user]) => physicalName('role', tenantId) === user),
          )
        },
      ),
      { numRuns: 50, seed },
    )
  })

  it.each([54, 55, 56, 57, 58, 62, 63])('is exact for ids of %i bytes', async (length) => {
    const long = 'x'.repeat(length - 1)
    const pairs = [`${long}a`, `${long}b`].flatMap((one) =>
      [`${long}a`, `${long}b`].map((other) => [one, physicalName('role', other)] as const),
    )
    expect(await pass(pairs)).toEqual([true, false, false, true])
  })

  it('is not that of an id made to look like it', async () => {
    const long = 'y'.repeat(60)
    const cut = physicalName('role', long)
    expect(
      await pass([
        // Were every id hashed, the tenant acme-<hash of acme> could pass as acme.
        ['acme', `tenant-acme-${createHash('sha256').update('acme').digest('hex').slice(0, 12)}`],
        ['acme', 'tenant-acm'],
        ['acme', 'xxxxxxxacme'],
        ['acme', 'TENANT-acme'],
        ['acme', 'acme'],
        [null, 'tenant-'],
        [`${long}z`, cut],
        [`${long.slice(0, 43)}-000000000000`, cut],
        ['ACME', 'tenant-acme'],
        [`acme' or true --`, 'tenant-acme'],
      ]),
    ).toEqual(Array(10).fill(false))
  })
})

describe.each(TENANT_TYPES)('a tenant of type %s', (type) => {
  const id = type.includes('int') ? '42' : '11111111-2222-3333-4444-555555555555'

  it.each(ROLES)('is printed as expected, with role %s', async (role) => {
    const condition = tenantCondition(type, role)
    const check = tenantCheck(type)
    await client.query(`create table public.item (tenant_id ${type} default ${tenantValue(type).sql}${check === undefined ? '' : `, constraint item_check ${check.sql}`});
      create policy tenant on public.item using (${condition.sql}) with check (${condition.sql})`)
    const { rows } = await client.query(
      `select pg_get_expr(p.polqual, p.polrelid) as using, pg_get_expr(p.polwithcheck, p.polrelid) as check,
        (select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d where d.adrelid = p.polrelid) as default,
        (select pg_get_constraintdef(k.oid) from pg_constraint k where k.conrelid = p.polrelid and k.contype = 'c') as constraint
      from pg_policy p where p.polrelid = 'public.item'::regclass`,
    )
    expect(rows).toEqual([
      {
        using: condition.printed,
        check: condition.printed,
        default: tenantValue(type).printed,
        constraint: check?.printed ?? null,
      },
    ])
  })

  it.each(ROLES)(
    'is the condition of an index, keeps its order, and is estimated for what it is, with role %s',
    async (role) => {
      const condition = tenantCondition(type, role)
      await client.query(`create table public.item (tenant_id ${type}, id int, note text, primary key (tenant_id, id));
        insert into public.item select '${id}', n, 'mine' from generate_series(1, 500) n;
        alter table public.item enable row level security;
        create policy tenant on public.item using (${condition.sql});
        analyze public.item;
        create role "tenant-${id}"; grant select, update on public.item to "tenant-${id}"; grant usage on schema public to "tenant-${id}";
        set local role "tenant-${id}"; set local enable_seqscan to off; set local app.tenant_id to '${id}'`)
      for (const sql of [
        'select note from public.item where id = 7',
        "update public.item set note = 'x' where id = 7",
        'select a.note from public.item a join public.item b on b.id = a.id + 1 where a.id = 7',
        'select a.note from (select 1) one left join public.item a on a.id = 7',
      ]) {
        const plan = (
          await client.query<{ 'QUERY PLAN': string }>(`explain (costs off) ${sql}`)
        ).rows.map((row) => row['QUERY PLAN'])
        const conditions = plan.filter((line) => line.includes('Index Cond'))
        expect(conditions.length, sql).toBeGreaterThan(0)
        for (const line of conditions) {
          expect(line).toMatch(/tenant_id\)?(?:::text)? = /)
          expect(line).not.toContain('CURRENT_USER')
        }
        // What is asked of each row is about the row and the role.
        const filters = plan.filter((line) => line.includes('Filter'))
        expect(filters.length > 0).toBe(role === 'per-tenant')
        for (const line of filters) {
          expect(line).toContain('CURRENT_USER')
          expect(line).not.toContain('current_setting')
        }
      }
      // The order of the keys behind the tenant is kept.
      const sorted = await client.query('explain (costs off) select from public.item order by id')
      expect(JSON.stringify(sorted.rows)).not.toContain('Sort')
      const estimate = await client.query('explain select from public.item')
      expect(JSON.stringify(estimate.rows)).toMatch(/rows=(?:500|498)/)
    },
  )
})

describe('aliases', () => {
  it.each([
    ['integer', '42', ['042', '+42', ' 42']],
    ['uuid', '11111111-2222-3333-4444-555555555555', ['11111111222233334444555555555555']],
  ] as const)('two ids that are one %s are two tenants', async (type, id, aliases) => {
    const condition = tenantCondition(type, 'none').sql
    await client.query(`create table public.item (tenant_id ${type}, id int, primary key (tenant_id, id));
      insert into public.item values ('${id}', 1);
      alter table public.item enable row level security; create policy tenant on public.item using (${condition}) with check (${condition});
      create role reader_${salt}; grant select, insert on public.item to reader_${salt}; grant usage on schema public to reader_${salt}; set local role reader_${salt}`)
    const rowsOf = async (tenantId: string): Promise<number | null> => {
      await client.query("select set_config('app.tenant_id', $1, true)", [tenantId])
      return (await client.query('select from public.item')).rowCount
    }
    expect(await rowsOf(id)).toBe(1)
    for (const alias of aliases) {
      expect(await rowsOf(alias)).toBe(0)
      await client.query('savepoint s')
      await expect(
        client.query(`insert into public.item values ('${id}', 2)`),
      ).rejects.toMatchObject({
        code: '42501',
      })
      await client.query('rollback to s')
    }
  })
})
