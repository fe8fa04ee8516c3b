import { createTenantCache, memoryDriver } from '@partywall/cache'
import { createTenancy, memoryTenantStore } from '@partywall/core'
import { TenantPool } from '@partywall/postgres'
import { canary, type SeededRandom, type TestDatabase } from '@partywall/test-support'
import { Kysely, PostgresDialect } from 'kysely'

export interface SoakOptions {
  readonly db: TestDatabase
  /** The Chinook database as SQL text that can be loaded into any schema. */
  readonly chinook: string
  readonly random: SeededRandom
  /** Stops when so many statements and cache operations were verified, ... */
  readonly units: number
  /** ... or when this many milliseconds have passed. */
  readonly maxMs: number
  readonly tenants: number
  readonly connections: number
  /** Callers at one time. */
  readonly inFlight: number
  readonly onProgress?: (units: number, mismatches: number) => void
}

export interface SoakResult {
  /** Statements and cache operations whose every row was checked. */
  readonly units: number
  readonly mismatches: readonly string[]
  readonly loadMs: number
  readonly runMs: number
  readonly destroyed: number
}

interface Tables {
  artist: { artist_id: number; name: string }
  soak_log: { unit: number; owner: string }
}

/** How many artists, customers and tracks Chinook has; a tenant gets a few of its own on top. */
const ARTISTS = 275
const CUSTOMERS = 59
const TRACKS = 3503
const GENRES = 25

/**
 * Loads Chinook into a schema for each tenant, puts the tenant's canary into values that every statement reads, and runs mixed traffic over a few connections: with and without parameters, joins,
 * several statements in one text, named statements, writes, transactions that commit and roll back, errors, Kysely, and a cache beside it. Every row that comes back is compared with the canary of its
 * caller, and at the end everything that was written is read again from outside.
 */
export async function runSoak(options: SoakOptions): Promise<SoakResult> {
  const { db, random, tenants, connections, inFlight } = options
  const started = performance.now()
  const ids = Array.from({ length: tenants }, (_, index) => `shop-${index}`)
  for (const [index, id] of ids.entries()) await db.query(schemaSql(id, index, options.chinook))
  await db.query('analyze')
  const loadMs = performance.now() - started

  await using tenancy = createTenancy({ store: memoryTenantStore(ids.map((id) => ({ id }))) })
  const pool = new TenantPool(tenancy, { connectionString: db.url, max: connections })
  const kysely = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
  const cache = createTenantCache(tenancy, { driver: memoryDriver() })
  const mismatches: string[] = []
  const written = ids.map(() => new Set<number>())
  let units = 0
  let serial = 0

  const soak = (tenant: number, id: string): (() => Promise<void>)[] => {
    const mark = canary(id, '')
    const report = (what: string, rows: unknown): void => {
      if (mismatches.length < 20)
        mismatches.push(`${id}: ${what}: ${JSON.stringify(rows)?.slice(0, 300)}`)
      else mismatches.length++
    }
    /** One unit: all rows are the caller's, and there are as many as there should be. */
    const verify = (what: string, rows: readonly { owner: string }[], length: number): void => {
      units++
      if (rows.length !== length) return report(`${what}, ${rows.length} rows`, rows)
      for (const row of rows) if (!row.owner.startsWith(mark)) return report(what, row)
    }
    const code = async (
      what: string,
      expected: string,
      promise: Promise<unknown>,
    ): Promise<void> => {
      units++
      const got = await promise.then(
        () => 'no error',
        (error: unknown) => (error as { code?: string }).code,
      )
      if (got !== expected) report(`${what}, ${got}`, undefined)
    }
    const INSERT = 'insert into soak_log values ($1, $2) returning owner'
    const byParameter = async (): Promise<void> => {
      const { rows } = await pool.query<{ owner: string }>(
        'select name as owner from artist where artist_id = $1',
        [random.integer(1, ARTISTS)],
      )
      verify('parameter', rows, 1)
    }
    const byText = async (): Promise<void> => {
      const { rows } = await pool.query<{ owner: string }>(
        `select email as owner from customer where customer_id = ${random.integer(1, CUSTOMERS)}`,
      )
      verify('text', rows, 1)
    }
    const byName = async (): Promise<void> => {
      const { rows } = await pool.query<{ owner: string }>({
        name: 'track-by-id',
        text: 'select composer as owner from track where track_id = $1',
        values: [random.integer(1, TRACKS)],
      })
      verify('name', rows, 1)
    }
    const cached = async (): Promise<void> => {
      const key = `artist:${random.integer(1, 50)}`
      const rows = [{ owner: (await cache.get<string>(key)) ?? mark }]
      verify('cache', rows, 1)
      await cache.set(key, canary(id, key))
    }
    return [
      ...Array.from({ length: 9 }, () => byParameter),
      ...Array.from({ length: 5 }, () => byText),
      ...Array.from({ length: 2 }, () => byName),
      ...Array.from({ length: 2 }, () => cached),
      async () => {
        const { rows } = await pool.query<{ owner: string }>(
          `select t.composer as owner from track t join album a using (album_id) join artist r using (artist_id) join genre g using (genre_id)
           where t.track_id = $1 and r.name like $2`,
          [random.integer(1, TRACKS), `${mark}%`],
        )
        verify('join', rows, 1)
      },
      // As many rows as no other tenant has.
      async () => {
        const { rows } = await pool.query<{ owner: string }>('select name as owner from genre')
        verify('count', rows, GENRES + tenant)
      },
      async () => {
        const results = (await pool.query(
          'select name as owner from artist where artist_id = 1; select email as owner from customer where customer_id < 4',
        )) as unknown as { rows: { owner: string }[] }[]
        verify('first of two', results[0]?.rows ?? [], 1)
        verify('second of two', results[1]?.rows ?? [], 3)
      },
      async () => {
        const unit = serial++
        const { rows } = await pool.query<{ owner: string }>(INSERT, [unit, canary(id, unit)])
        written[tenant]?.add(unit)
        verify('insert', rows, 1)
      },
      async () => {
        const unit = serial++
        await pool.transaction(async (query) => {
          verify(
            'in commit',
            (await query<{ owner: string }>(INSERT, [unit, canary(id, unit)])).rows,
            1,
          )
          verify(
            'in commit',
            (await query<{ owner: string }>('select owner from soak_log where unit = $1', [unit]))
              .rows,
            1,
          )
          verify(
            'in commit',
            (await query<{ owner: string }>('select name as owner from artist where artist_id < 3'))
              .rows,
            2,
          )
        })
        written[tenant]?.add(unit)
      },
      async () => {
        const unit = serial++
        const client = await pool.connect()
        try {
          await client.query('begin isolation level repeatable read')
          verify('in rollback', (await client.query(INSERT, [unit, canary(id, unit)])).rows, 1)
          await client.query('rollback')
          verify(
            'behind rollback',
            (await client.query('select owner from soak_log where unit = $1', [unit])).rows,
            0,
          )
        } finally {
          client.release()
        }
      },
      () =>
        code(
          'division',
          '22012',
          pool.query('select 1 / (artist_id - artist_id) from artist where artist_id = $1', [1]),
        ),
      () => code('no table', '42P01', pool.query('select * from no_such_table')),
      async () => {
        const rows = await kysely
          .selectFrom('artist')
          .select('name as owner')
          .where('artist_id', '=', random.integer(1, ARTISTS))
          .execute()
        verify('kysely', rows, 1)
      },
      async () => {
        const unit = serial++
        await kysely.transaction().execute(async (trx) => {
          const row = { unit, owner: canary(id, unit) }
          verify(
            'kysely insert',
            await trx.insertInto('soak_log').values(row).returning('owner').execute(),
            1,
          )
        })
        written[tenant]?.add(unit)
      },
    ]
  }

  const begun = performance.now()
  const deadline = begun + options.maxMs
  const traffic = ids.map((id, index) => ({ id, kinds: soak(index, id) }))
  const caller = async (): Promise<void> => {
    while (units < options.units && performance.now() < deadline) {
      const { id, kinds } = random.pick(traffic)
      // A visit of a few units, as a request makes them.
      await tenancy.run(id, async () => {
        for (let n = 0; n < 4; n++) await random.pick(kinds)()
      })
    }
  }
  const progress = setInterval(() => options.onProgress?.(units, mismatches.length), 10_000)
  try {
    await Promise.all(Array.from({ length: inFlight }, caller))
  } finally {
    clearInterval(progress)
  }
  const runMs = performance.now() - begun
  for (const [index, id] of ids.entries()) {
    const { rows } = await db.query<{ unit: number; owner: string }>(
      `select unit, owner from "${id}".soak_log`,
    )
    const expected = written[index] ?? new Set()
    for (const { unit, owner } of rows)
      if (!expected.delete(unit) || owner !== canary(id, unit))
        mismatches.push(`${id}: found ${unit} ${owner}`)
    for (const unit of expected) mismatches.push(`${id}: lost ${unit}`)
  }
  const { destroyedCount: destroyed } = pool
  await pool.end()
  return { units, mismatches, loadMs, runMs, destroyed }
}

function schemaSql(id: string, index: number, chinook: string): string {
  const mark = canary(id, '')
  return `create schema "${id}"; set local search_path to "${id}"; ${chinook};
    alter table artist alter name type text; alter table customer alter email type text; alter table genre alter name type text;
    update artist set name = '${mark}' || artist_id;
    update customer set email = '${mark}' || customer_id;
    update track set composer = '${mark}' || track_id;
    update genre set name = '${mark}' || genre_id;
    insert into genre select 1000 + n, '${mark}' || (1000 + n) from generate_series(1, ${index}) n;
    create table soak_log (unit integer primary key, owner text not null);`
}
