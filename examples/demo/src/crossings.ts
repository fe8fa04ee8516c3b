import type { Partywall } from 'partywall'
import { type CanaryRow, foreignRows } from './canary.ts'
import { type Answer, call, callRaw } from './http.ts'

/** An attempt to get at what is another tenant's. */
export interface Crossing {
  readonly attempt: string
  readonly answer: string
  readonly held: boolean
}

/** Tries to cross the wall between acme and globex, by HTTP. `address` has a default tenant, `strict` has none. */
export async function crossByHttp(address: string, strict: string): Promise<Crossing[]> {
  const acme = { 'X-Tenant-ID': 'acme' }
  const { host } = new URL(address)
  const attempts: [attempt: string, expected: number, answer: Promise<Answer>][] = [
    ['an unknown tenant', 404, call(address, '/orders', { headers: { 'X-Tenant-ID': 'initech' } })],
    [
      'header acme, host globex.localhost',
      400,
      call(address, '/orders', { headers: { ...acme, Host: 'globex.localhost' } }),
    ],
    [
      'the header twice',
      400,
      callRaw(address, '/orders', [`Host: ${host}`, 'X-Tenant-ID: acme', 'X-Tenant-ID: globex']),
    ],
    [
      'two tenants in one header',
      400,
      call(address, '/orders', { headers: { 'X-Tenant-ID': 'acme, globex' } }),
    ],
    [
      'SQL in the header',
      400,
      call(address, '/orders', { headers: { 'X-Tenant-ID': 'acme"; set role postgres; --' } }),
    ],
    ['no tenant, no default', 400, call(strict, '/orders')],
  ]
  return Promise.all(
    attempts.map(async ([attempt, expected, answer]) => {
      const { status, body } = await answer
      const { code = '' } = (body ?? {}) as { code?: string }
      return { attempt, answer: `${status} ${code}`, held: status === expected && code !== '' }
    }),
  )
}

/** As acme, points every connection of the pool at globex by SQL; then both read. */
export async function crossBySql(wall: Partywall, connections: number): Promise<Crossing> {
  const attempt = 'as acme: set search_path to globex'
  await wall.run('acme', () =>
    Promise.all(
      Array.from({ length: connections * 2 }, () =>
        // A Partywall that refuses the statement holds as well as one in which it has no effect.
        wall.pool.query('set search_path to globex').catch(() => undefined),
      ),
    ),
  )
  let rows = 0
  let foreign = 0
  const read = async (tenantId: string): Promise<void> => {
    const seen = await wall.run(tenantId, () =>
      wall.pool.query<CanaryRow>('select item from orders'),
    )
    rows += seen.rows.length
    foreign += foreignRows(seen.rows, tenantId).length
  }
  for (let round = 0; round < connections; round++)
    await Promise.all(['acme', 'globex', 'main', 'acme'].map(read))
  return {
    attempt,
    answer: `${rows} rows read afterwards, ${foreign} foreign`,
    held: foreign === 0 && rows > 0,
  }
}
