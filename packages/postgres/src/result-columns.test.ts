import { createTenancy, memoryTenantStore, type Tenancy } from '@partywall/core'
import { canary, createTestDatabase, type TestDatabase } from '@partywall/test-support'
import pg from 'pg'
import Cursor from 'pg-cursor'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { TenantPool } from './tenant-pool.ts'

// A connection does not ask for the columns of a statement that it has prepared. Whatever happens to tables meanwhile, the answers must be those of a client that asks each time.

let db: TestDatabase
let tenancy: Tenancy
let pool: TenantPool
/** Asks for the columns each time. */
let bare: pg.Client
/** Who changes things meanwhile. */
let other: pg.Client

const SCHEMA = (id: string): string =>
  `create schema ${id};
   create table ${id}.item (id int, owner varchar(40), price numeric(8,2)); insert into ${id}.item values (1, '${canary(id, 1)}', 1.50), (2, '${canary(id, 2)}', null);
   create table ${id}.empty (); insert into ${id}.empty default values;
   create view ${id}.seen as select id, owner from ${id}.item;
   create function ${id}.found() returns table (id int, owner text) language sql as 'select id, owner from ${id}.item order by id';
   create function ${id}.told() returns table (id int, owner text) language plpgsql as 'begin return query select i.id, i.owner::text from ${id}.item i order by 1; end';
   create procedure ${id}.asked(inout id int) language plpgsql as 'begin id := id + 1; end'`

beforeAll(async () => {
  db = await createTestDatabase()
  for (const id of ['acme', 'globex']) await db.query(SCHEMA(id))
  tenancy = createTenancy({ store: memoryTenantStore(['acme', 'globex'].map((id) => ({ id }))) })
})

beforeEach(async () => {
  pool = new TenantPool(tenancy, { connectionString: db.url, max: 1 })
  bare = await connect()
  other = await connect()
})

afterEach(async () => {
  await Promise.all([bare.end(), other.end(), pool.end()])
  await db.query('drop schema acme cascade')
  await db.query(SCHEMA('acme'))
})

afterAll(async () => {
  await tenancy.close()
  await db[Symbol.asyncDispose]()
})

async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: db.url })
  await client.connect()
  await client.query('set search_path = acme, public, pg_temp')
  return client
}

type Run = (
  client: Pick<pg.ClientBase, 'query'>,
  text: string,
  values?: unknown[],
) => Promise<unknown>

const answerOf = (results: pg.QueryResult | pg.QueryResult[]): unknown =>
  [results].flat().map(({ command, rowCount, rows, fields }) => ({
    command,
    rowCount,
    rows,
    fields: fields.map((field) => ({ ...field })),
  }))

const config =
  (settings: object): Run =>
  async (client, text, values) =>
    answerOf(await client.query({ text, values, ...settings } as pg.QueryConfig))

const RUNS: Record<string, Run> = {
  text: async (client, text, values) => answerOf(await client.query(text, values)),
  extended: config({ queryMode: 'extended' }),
  'array rows': config({ rowMode: 'array', queryMode: 'extended' }),
  'pages of one row': config({ rows: 1 }),
  binary: config({ binary: true, queryMode: 'extended' }),
  cursor: async (client, text, values) => {
    const cursor = client.query(new Cursor(text, values))
    const rows: unknown[] = []
    for (;;) {
      const some = await cursor.read(1)
      if (some.length === 0) break
      rows.push(...some)
    }
    await cursor.close()
    return rows
  },
}

const outcome = async (run: () => Promise<unknown>): Promise<unknown> => {
  try {
    return await run()
  } catch (error) {
    const { code, position, column, table, constraint } = error as pg.DatabaseError
    return { code, position, column, table, constraint }
  }
}

interface Change {
  readonly text: string
  readonly values?: unknown[]
  /** From another session, in the schema acme. */
  readonly change: string
  /** The table is another one afterwards: only then `tableID` and `columnID` may be those of the old one. */
  readonly recreated?: true
  /** The statement is an error afterwards. */
  readonly fails?: true
}

const CHANGES: Record<string, Change> = {
  'a column more': {
    text: 'select * from item order by id',
    change: 'alter table item add column note text default $$n$$',
  },
  'a column less': {
    text: 'select * from item order by id',
    change: 'alter table item drop column price',
  },
  'a column less, by name': {
    text: 'select id, price from item order by id',
    change: 'alter table item drop column price',
    fails: true,
  },
  'a column renamed': {
    text: 'select * from item order by id',
    change: 'alter table item rename column owner to holder',
  },
  'two columns that change names': {
    text: 'select * from item order by id',
    change:
      'alter table item rename column owner to x; alter table item rename column id to owner; alter table item rename column x to id; update item set owner = owner',
  },
  'another type': {
    text: 'select id, owner, price from item order by id',
    change: 'drop view seen; alter table item alter column id type text',
  },
  'another length of the type': {
    text: 'select owner from item order by id',
    change: 'drop view seen; alter table item alter column owner type varchar(50)',
  },
  'another precision': {
    text: 'select price from item order by id',
    change: 'alter table item alter column price type numeric(10,4)',
  },
  'a column dropped and made anew': {
    text: 'select id, owner from item order by id',
    change:
      "alter table item drop column owner cascade; alter table item add column owner varchar(40) default 'canary:acme:new'",
    recreated: true,
  },
  'a table dropped and made anew': {
    text: 'select * from item order by id',
    change:
      "drop table item cascade; create table item (id int, owner varchar(40), price numeric(8,2)); insert into item values (3, 'canary:acme:3', 3)",
    recreated: true,
  },
  'a table that is another one': {
    text: 'select * from item',
    change:
      "drop table item cascade; create table item (what jsonb); insert into item values ('[1]')",
  },
  'a table that is gone': {
    text: 'select * from item',
    change: 'drop table item cascade',
    fails: true,
  },
  'a table swapped by names': {
    text: 'select * from item order by id',
    change:
      "create table next (like item); insert into next values (9, 'canary:acme:9', 9); alter table item rename to old; alter table next rename to item",
    recreated: true,
  },
  'with values': {
    text: 'select *, $1::int as given from item order by id',
    values: [1],
    change: 'alter table item add column note text',
  },
  'a view with a column more': {
    text: 'select * from seen order by id',
    change: 'create or replace view seen as select id, owner, price from item',
  },
  'a view made anew': {
    text: 'select * from seen',
    change: 'drop view seen; create view seen as select 1.5 as a, $$b$$::text as b',
  },
  'a function in SQL': {
    text: 'select * from found()',
    change:
      "drop function found; create function found() returns table (a text) language sql as 'select owner from item'",
  },
  'a function in PL/pgSQL': {
    text: 'select * from told()',
    change:
      "drop function told; create function told() returns table (a text, b int) language plpgsql as 'begin return query select owner::text, item.id from item order by 2; end'",
  },
  'a whole row': {
    text: 'select item from item order by id',
    change: 'alter table item add column note text',
  },
  'no columns, then one': {
    text: 'select * from empty',
    change: 'alter table empty add column id int default 1',
  },
  'nothing returned': {
    text: 'delete from item where id = 99',
    change: 'alter table item add column note text',
  },
  'returning everything': {
    text: 'update item set id = id where id = 1 returning *',
    change: 'alter table item add column note text',
  },
  'a statement by TABLE': { text: 'table item', change: 'alter table item drop column price' },
  'a statement in WITH': {
    text: 'with x as (select * from item) select * from x order by id',
    change: 'alter table item add column note int',
  },
  'a comment in front': {
    text: '/* c */ select * from item order by id',
    change: 'alter table item add column note text',
  },
  'a setting': { text: 'show server_version_num', change: 'select 1' },
  'a plan': {
    text: 'explain (costs off) select * from empty',
    change: 'create index on item (id)',
  },
  'a procedure': {
    text: 'call asked(1)',
    change:
      "drop procedure asked; create procedure asked(inout id int, inout more text default 'm') language plpgsql as 'begin id := id + 2; end'",
  },
  'a row type of an enum': {
    text: 'select * from item order by id',
    change:
      "alter table item add column kind text; create type mood as enum ('a'); alter table item alter column kind type mood using null",
  },
}

/** Where the table is another one, the columns may still point at the old one. */
const without = (answer: unknown, recreated: true | undefined): unknown =>
  recreated
    ? JSON.parse(
        JSON.stringify(answer, (key, value: unknown) =>
          key === 'tableID' || key === 'columnID' ? undefined : value,
        ),
      )
    : answer

describe.each(Object.entries(CHANGES))('%s', (what, { text, values, change, recreated, fails }) => {
  test.each(Object.entries(RUNS))(
    '%s: the answers are those of a client that asks',
    async (name, run) => {
      // With pages, pg sends no Sync behind an error, and waits for ever.
      if (name === 'pages of one row' && fails === true) return
      await tenancy.run('acme', async () => {
        await using client = await pool.connect()
        const both = async (when: string): Promise<void> => {
          const ours = await outcome(() => run(client, text, values))
          const theirs = await outcome(() => run(bare, text, values))
          expect(without(ours, recreated), `${what}, ${when}`).toEqual(without(theirs, recreated))
        }
        for (let n = 0; n < 4; n++) await both(`before ${n}`)
        await other.query(change)
        for (let n = 0; n < 3; n++) await both(`after ${n}`)
      })
      // CALL may leave anything, so its connection is not used again.
      if (!text.startsWith('call')) expect(pool.destroyedCount).toBe(0)
    },
  )

  test('in a transaction: the answer of a client that asks, or the error of a plan that is out of date', async () => {
    for (const run of [RUNS['text'], RUNS['extended'], RUNS['cursor']] as Run[]) {
      await tenancy.run('acme', async () => {
        await using client = await pool.connect()
        let before: unknown
        for (let n = 0; n < 4; n++) before = await outcome(() => run(client, text, values))
        await client.query('begin')
        await client.query('select 1')
        await other.query('begin')
        await other.query(change)
        await other.query('commit')
        const ours = (await outcome(() => run(client, text, values))) as { code?: string }
        await client.query('rollback')
        const theirs = await outcome(() => run(bare, text, values))
        // A function is looked up when a statement is prepared, and changes of it are heard of at the next transaction.
        const allowed = [theirs, ...(/found\(\)|told\(\)|^call/.test(text) ? [before] : [])]
        if (ours.code !== '0A000')
          expect(allowed.map((answer) => without(answer, recreated))).toContainEqual(
            without(ours, recreated),
          )
        // And from then on, whatever that transaction was.
        expect(without(await outcome(() => run(client, text, values)), recreated)).toEqual(
          without(theirs, recreated),
        )
      })
      await other.query('drop schema acme cascade')
      await other.query(SCHEMA('acme'))
      await bare.query('discard plans')
    }
  })
})

test('the tableID of a column may be that of the table before: this is the one difference', async () => {
  const TEXT = 'select * from item'
  const ids = async (client: Pick<pg.ClientBase, 'query'>): Promise<unknown> =>
    (await client.query(TEXT)).fields.map(({ tableID }) => tableID)
  await tenancy.run('acme', async () => {
    await using client = await pool.connect()
    for (let n = 0; n < 3; n++) expect(await ids(client)).toEqual(await ids(bare))
    const before = await ids(bare)
    await other.query('alter table item rename to old; create table item (like old)')
    expect(await ids(bare)).not.toEqual(before)
    expect(await ids(client)).toEqual(before)
    // Another connection, or a statement that is prepared anew, has it right.
    client.release(true)
    expect(await ids(pool)).toEqual(await ids(bare))
  })
})

test('EXECUTE and FETCH answer with the columns of whatever their name stands for now', async () => {
  await tenancy.run('acme', async () => {
    await using client = await pool.connect()
    const both = async (query: string | object): Promise<void> => {
      const ours = await outcome(async () => answerOf(await client.query(query as string)))
      expect(ours).toEqual(await outcome(async () => answerOf(await bare.query(query as string))))
    }
    for (const definition of [
      'select 1 as one',
      "select 'x'::text as a, 2 as b",
      'delete from item where id = 99',
      'select',
    ]) {
      await both(`prepare p as ${definition}`)
      for (let n = 0; n < 3; n++) await both('execute p')
      for (let n = 0; n < 3; n++) await both({ text: 'execute p', queryMode: 'extended' })
      await both('deallocate p')
      if (definition.startsWith('delete')) continue
      await both('begin')
      await both(`declare c cursor with hold for ${definition}`)
      for (let n = 0; n < 3; n++) await both({ text: 'fetch 1 from c', queryMode: 'extended' })
      await both('commit')
      for (let n = 0; n < 3; n++) await both('fetch 1 from c')
      await both('close c')
    }
  })
})

test('what the session forgets is learnt again: DISCARD, DEALLOCATE, a rolled-back change, errors in between', async () => {
  const TEXT = 'select *, $1::int as given from item order by id'
  await tenancy.run('acme', async () => {
    await using client = await pool.connect()
    const both = async (...steps: string[]): Promise<void> => {
      const on = async (target: Pick<pg.ClientBase, 'query'>): Promise<unknown[]> => {
        const answers: unknown[] = []
        for (const step of steps)
          answers.push(await outcome(async () => answerOf(await target.query(step))))
        return answers
      }
      expect(await on(client)).toEqual(await on(bare))
    }
    const same = async (): Promise<void> => {
      for (let n = 0; n < 3; n++)
        expect(await outcome(() => (RUNS['text'] as Run)(client, TEXT, [1]))).toEqual(
          await outcome(() => (RUNS['text'] as Run)(bare, TEXT, [1])),
        )
    }
    await same()
    await client.query('deallocate all')
    await same()
    await client.query('discard plans')
    await same()
    await both('begin', 'alter table item add column note text', 'rollback')
    await same()
    await both('select 1 / 0', 'select nothing', 'select 1 from item where id = any(5)')
    await same()
    expect(await outcome(() => client.query(TEXT, ['no number']))).toMatchObject({ code: '22P02' })
    await same()
    // Changed and read in one transaction; rolled back, and read again.
    await client.query('begin')
    await client.query('alter table item add column note text')
    await outcome(() => client.query(TEXT, [1]))
    await client.query('rollback')
    await same()
    await other.query('alter table item add column later text')
    await same()
  })
})

test('the path of a transaction of the caller’s own: the answer of that schema, or the error of a plan that is out of date', async () => {
  const TEXT = 'select * from item where id > $1'
  await other.query('create schema elsewhere; create table elsewhere.item (id int, other text)')
  await tenancy.run('acme', async () => {
    await using client = await pool.connect()
    for (let n = 0; n < 3; n++) await client.query(TEXT, [0])
    await client.query('begin')
    await client.query('set local search_path = elsewhere')
    const inside = (await outcome(async () => answerOf(await client.query(TEXT, [0])))) as {
      code?: string
    }
    if (inside.code !== '0A000')
      expect(inside).toMatchObject([{ fields: [{ name: 'id' }, { name: 'other' }] }])
    await client.query('rollback')
    expect((await client.query(TEXT, [0])).fields.map(({ name }) => name)).toEqual([
      'id',
      'owner',
      'price',
    ])
  })
  await other.query('drop schema elsewhere cascade')
})
