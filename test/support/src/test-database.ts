import { randomBytes } from 'node:crypto'

import { Client, Pool, type QueryResult, type QueryResultRow } from 'pg'

/** A database of one test's own. */
export interface TestDatabase extends AsyncDisposable {
  readonly name: string
  /** A connection string of a superuser of this server, for this database. */
  readonly url: string
  /** Runs one statement outside of every tenant, on a small pool of the helper's own. Answers like `pg`. */
  query<Row extends QueryResultRow = Record<string, unknown>>(
    sql: string,
    values?: readonly unknown[],
  ): Promise<QueryResult<Row>>
}

/**
 * Makes an empty database with a new name on the Postgres of this run; disposing it (`await using`) closes what is still connected
 * to it and drops it. Needs `test/global-setup.ts`, or `PARTYWALL_TEST_POSTGRES_URL` outside of vitest.
 *
 * @param server - a superuser's connection string of another server.
 */
export async function createTestDatabase(
  server: string | undefined = process.env['PARTYWALL_TEST_POSTGRES_URL'],
): Promise<TestDatabase> {
  if (!server)
    throw new Error(
      'No Postgres was started: run this under vitest, or set PARTYWALL_TEST_POSTGRES_URL.',
    )
  // The number of the process makes a forgotten database traceable; the random part makes the name unique on a shared server.
  const name = `partywall_test_${process.pid}_${randomBytes(6).toString('hex')}`
  await asAdministrator(server, `create database ${name} template template0`)
  const url = Object.assign(new URL(server), { pathname: `/${name}` }).href
  const pool = new Pool({ connectionString: url, max: 4, allowExitOnIdle: true })
  // A test may restart the server or drop its connections; the next query reports what matters.
  pool.on('error', () => {})
  let disposed: Promise<void> | undefined
  const dispose = async (): Promise<void> => {
    await pool.end()
    await drop(server, name)
  }
  return {
    name,
    url,
    query: (sql, values) => pool.query(sql, values === undefined ? undefined : [...values]),
    [Symbol.asyncDispose]: () => (disposed ??= dispose()),
  }
}

async function asAdministrator(url: string, sql: string): Promise<void> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(sql)
  } finally {
    await client.end()
  }
}

/**
 * Drops a database once nobody is connected any more, after a second also under those who are. A pool of pg has ended when it has said goodbye, before its connections are closed; cut off in
 * between, one of them would report an error that nobody listens for.
 */
async function drop(server: string, name: string): Promise<void> {
  const client = new Client({ connectionString: server })
  await client.connect()
  try {
    for (let attempt = 0; attempt < 50; attempt++) {
      const { rowCount } = await client.query(
        'select from pg_stat_activity where datname = $1 limit 1',
        [name],
      )
      if (rowCount === 0) break
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    await client.query(`drop database if exists ${name} with (force)`)
  } finally {
    await client.end()
  }
}
