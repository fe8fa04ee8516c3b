import { CopyIn, CopyOut, canary, eventually, outcomeOf } from '@partywall/test-support'
import type pg from 'pg'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import type { PoolVariant, VariantWorld } from '../isolation/variant-world.ts'

/** What a leased client is in the middle of. */
export interface LeasedState {
  readonly name: string
  /** Brings the client there. Returns what is under way, by name; nothing of it may settle before the fault comes. */
  enter(client: pg.PoolClient, tenantId: string): Promise<Record<string, Promise<unknown>>>
  /** The server runs a statement that can be cancelled. */
  readonly running?: boolean
  /** A transaction is open. */
  readonly transaction?: boolean
  /** It copies into a table, which the server refuses under row security. */
  readonly copiesIn?: boolean
}

const write = (client: pg.PoolClient, tenantId: string): Promise<unknown> =>
  client.query('insert into log values ($1, $2)', ['lost', canary(tenantId, 'lost')])
const SLEEP = 'select owner, pg_sleep(30) from item'

/** A cursor that has read its first row; the rest is read when the fault has come. */
async function openCursor(client: pg.PoolClient): Promise<Cursor> {
  const cursor = client.query(new Cursor('select owner from item, generate_series(1, 1000)'))
  await cursor.read(1)
  return cursor
}

const STATES: readonly LeasedState[] = [
  { name: 'nothing sent yet', enter: async () => ({}) },
  {
    name: 'idle behind a statement',
    enter: async (client) => {
      await client.query('select 1')
      return {}
    },
  },
  {
    name: 'a BEGIN that is held back',
    enter: async (client) => {
      await client.query('begin isolation level serializable')
      return {}
    },
  },
  {
    name: 'an open transaction',
    transaction: true,
    enter: async (client, tenantId) => {
      await client.query('begin')
      await write(client, tenantId)
      return {}
    },
  },
  {
    name: 'a failed transaction',
    transaction: true,
    enter: async (client, tenantId) => {
      await client.query('begin')
      await write(client, tenantId)
      await client.query('select nothing').catch(() => undefined)
      return {}
    },
  },
  {
    name: 'in the middle of a text statement',
    running: true,
    enter: async (client) => ({ statement: client.query(SLEEP) }),
  },
  {
    name: 'in the middle of a statement with parameters',
    running: true,
    enter: async (client) => ({ statement: client.query(`${SLEEP} where id = $1`, [1]) }),
  },
  {
    name: 'in the middle of a named statement that is prepared',
    running: true,
    enter: async (client) => {
      const text = 'select owner, pg_sleep($1) from item limit 1'
      for (let n = 0; n < 3; n++) await client.query({ name: 'sleeper', text, values: [0] })
      return { statement: client.query({ name: 'sleeper', text, values: [30] }) }
    },
  },
  {
    name: 'in the middle of a text of several statements',
    running: true,
    enter: async (client, tenantId) => ({
      text: client.query(
        `insert into log values ('lost', '${canary(tenantId, 'lost')}'); ${SLEEP}; select 1`,
      ),
    }),
  },
  {
    name: 'in the middle of a statement in a transaction',
    running: true,
    transaction: true,
    enter: async (client, tenantId) => {
      await client.query('begin')
      await write(client, tenantId)
      return { statement: client.query(SLEEP) }
    },
  },
  {
    name: 'with statements in line behind the one that runs',
    running: true,
    transaction: true,
    enter: async (client, tenantId) => {
      await client.query('begin')
      return {
        first: client.query(SLEEP),
        second: write(client, tenantId),
        third: client.query('commit'),
      }
    },
  },
  {
    name: 'in the middle of a cursor',
    enter: async (client) => {
      const cursor = await openCursor(client)
      return { rest: later(client, () => cursor.read(5_000)) }
    },
  },
  {
    name: 'in the middle of a cursor in a transaction',
    transaction: true,
    enter: async (client, tenantId) => {
      await client.query('begin')
      await write(client, tenantId)
      const cursor = await openCursor(client)
      return { rest: later(client, () => cursor.read(5_000)) }
    },
  },
  {
    name: 'in the middle of a stream',
    enter: async (client) => {
      const stream = client.query(
        new QueryStream('select owner from item, generate_series(1, 100000)', [], {
          batchSize: 10,
        }),
      )
      await stream[Symbol.asyncIterator]().next()
      // Of a stream nothing more is asked: on a broken connection, pg-query-stream waits for ever, here as with a plain pool.
      return {}
    },
  },
  {
    name: 'in the middle of COPY FROM STDIN',
    copiesIn: true,
    enter: async (client, tenantId) => {
      const copy = client.query(new CopyIn('copy log from stdin'))
      await copy.begun
      copy.write(`lost\t${canary(tenantId, 'lost')}\n`)
      return { copy: copy.done }
    },
  },
  {
    name: 'in the middle of COPY FROM STDIN in a transaction',
    copiesIn: true,
    transaction: true,
    enter: async (client, tenantId) => {
      await client.query('begin')
      await write(client, tenantId)
      const copy = client.query(new CopyIn('copy log from stdin'))
      await copy.begun
      copy.write(`lost\t${canary(tenantId, 'lost')}\n`)
      return { copy: copy.done }
    },
  },
  {
    name: 'in the middle of COPY TO STDOUT',
    running: true,
    enter: async (client) => {
      const copy = client.query(
        // Some rows at once, so that they are sent, and then a long wait.
        new CopyOut(
          'copy (select owner, case when n > 2000 then pg_sleep(30) end from item, generate_series(1, 3000) n order by n) to stdout',
        ),
      )
      await copy.begun
      return { copy: copy.done }
    },
  },
  {
    name: 'listening',
    enter: async (client) => {
      // Refused once the server has told what it was; the session listens all the same, until it is destroyed.
      const refusal = await outcomeOf(client.query('listen news'))
      if (refusal !== 'ERR_TENANCY_STATEMENT_REFUSED') throw new Error(`LISTEN: ${refusal}`)
      return {}
    },
  },
]

export function leasedStates({ isolation }: PoolVariant): readonly LeasedState[] {
  return isolation === 'row' ? STATES.filter(({ copiesIn }) => copiesIn !== true) : STATES
}

/** Does something once the client has noticed that its connection broke, or after a moment: what an application would do next. */
function later(client: pg.PoolClient, fn: () => Promise<unknown>): Promise<unknown> {
  return new Promise<void>((resolve) => {
    client.once('end', resolve)
    setTimeout(resolve, 300).unref()
  }).then(fn)
}

/** Waits until the server works on the statement of a session. */
export async function untilRunning(world: VariantWorld, pid: number): Promise<void> {
  await eventually(
    async () => {
      const { rowCount } = await world.db.query(
        "select from pg_stat_activity where pid = $1 and state = 'active' and wait_event = 'PgSleep'",
        [pid],
      )
      return rowCount === 1
    },
    { intervalMs: 2 },
  )
}
