import { randomBytes } from 'node:crypto'
import { startEmbeddedPostgres } from 'partywall'
import pg from 'pg'

/** A database of this run's own, gone after `stop`. */
export interface DemoDatabase {
  readonly url: string
  readonly about: string
  stop(): Promise<void>
}

/** A new database on the server of `DATABASE_URL`, or an embedded Postgres in a temporary directory. */
export async function startDatabase(server: string | undefined): Promise<DemoDatabase> {
  if (server === undefined || server === '') {
    const { url, stop } = await startEmbeddedPostgres()
    return { url, stop, about: 'embedded, in a temporary directory' }
  }
  const name = `partywall_demo_${process.pid}_${randomBytes(4).toString('hex')}`
  await administer(server, `create database ${name} template template0`)
  return {
    url: Object.assign(new URL(server), { pathname: `/${name}` }).href,
    about: `${new URL(server).host}, database ${name}`,
    stop: () => administer(server, `drop database if exists ${name} with (force)`),
  }
}

async function administer(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  try {
    await client.connect()
    await client.query(sql)
  } finally {
    await client.end()
  }
}
