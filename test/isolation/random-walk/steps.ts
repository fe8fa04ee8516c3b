import { CopyIn, CopyOut, canary, outcomeOf } from '@partywall/test-support'
import type pg from 'pg'
import Cursor from 'pg-cursor'
import { type VariantWorld, VIEW_COLUMNS } from '../variant-world.ts'
import { type Ledger, Mismatch, mustBe, type SessionModel } from './model.ts'

/** Whoever takes a step. */
export interface Caller {
  readonly world: VariantWorld
  readonly tenantId: string
  /** Somebody whose context is another one. */
  readonly otherId: string
  readonly ledger: Ledger
  /** Of the checkout that the step runs in; a query of the pool has one to itself. */
  readonly model: SessionModel
  /** `query` of a pool, a client or a transaction. */
  readonly query: (...args: unknown[]) => unknown
  /** The client, where the caller has one. */
  readonly client: pg.PoolClient | undefined
}

interface StepKind {
  readonly weight: number
  /** `'client'`: it needs the same connection for more than one statement. */
  readonly where: 'anywhere' | 'client'
  readonly run: (caller: Caller, n: number) => Promise<void>
}

interface Told {
  readonly outcome: string
  readonly result: unknown
}

/** Sends something now; what comes back is judged later, in the order in which it was sent. */
function send(query: () => unknown): Promise<Told> {
  let result: unknown
  const answered = (async () => {
    result = await query()
  })()
  return outcomeOf(answered).then((outcome) => ({ outcome, result }))
}

interface Expected {
  /** The code by which the server refuses it. */
  readonly fails?: string
  /** Works in a failed transaction, too. */
  readonly inFailed?: boolean
  /** Refused before the server looks at the transaction. */
  readonly beforeAll?: boolean
}

/** Compares an answer with the model, and moves the model on. Returns the result, or `undefined` if there is none. */
async function judge(
  { model }: Caller,
  what: string,
  told: Promise<Told>,
  { fails, inFailed = false, beforeAll = false }: Expected = {},
): Promise<unknown> {
  const { outcome, result } = await told
  const refused =
    model.state === 'failed' && !inFailed && !(beforeAll && fails !== undefined) ? '25P02' : fails
  mustBe(what, outcome, model.gone ? 'gone' : (refused ?? 'fulfilled'))
  model.ran(outcome === 'fulfilled')
  return outcome === 'fulfilled' ? result : undefined
}

const rowsOf = (result: unknown): unknown => (result as pg.QueryResult | undefined)?.rows

const READ = `select id, owner, ${VIEW_COLUMNS} from item`
const READ_ALL = `${READ} order by id`
const READ_BY = `${READ} where id <= $1 order by id`

function expectedRows({ world, tenantId, model }: Caller): unknown[] {
  const view = { ...world.viewOf(tenantId), ...model.local }
  return world.itemsOf(tenantId).map((row) => ({ ...row, ...view }))
}

function step(
  weight: number,
  run: StepKind['run'],
  where: StepKind['where'] = 'anywhere',
): StepKind {
  return { weight, where, run }
}

/** A statement whose rows are all those of the tenant. */
function reads(weight: number, query: (caller: Caller) => unknown): StepKind {
  return step(weight, async (caller) => {
    const result = await judge(
      caller,
      'a read',
      send(() => query(caller)),
    )
    if (result !== undefined) mustBe('what is read', rowsOf(result), expectedRows(caller))
  })
}

/** A write of one row. */
function writes(
  weight: number,
  query: (caller: Caller, unit: string, owner: string) => unknown,
): StepKind {
  return step(weight, async (caller) => {
    const { ledger, tenantId, model } = caller
    const unit = ledger.next(tenantId)
    const result = await judge(
      caller,
      'a write',
      send(() => query(caller, unit, canary(tenantId, 'w'))),
    )
    if (result === undefined) ledger.settle([unit], 'lost')
    else model.wrote(unit)
  })
}

/** A statement that the server refuses. */
function fails(
  weight: number,
  code: string,
  query: (caller: Caller) => unknown,
  beforeAll = false,
): StepKind {
  return step(weight, async (caller) => {
    await judge(
      caller,
      `what fails with ${code}`,
      send(() => query(caller)),
      {
        fails: code,
        beforeAll,
      },
    )
  })
}

interface Left {
  /** Where it is undone by a rollback, the connection may be kept or not. */
  readonly transactional: boolean
}

/** A statement that leaves something in the session. */
function leaves(
  weight: number,
  sql: (caller: Caller, n: number) => string,
  { transactional }: Left,
  then: (model: SessionModel) => void = () => undefined,
): StepKind {
  return step(weight, async (caller, n) => {
    const { model } = caller
    const inside = model.state !== 'none'
    const result = await judge(
      caller,
      'what leaves something',
      send(() => caller.query(sql(caller, n))),
    )
    if (result === undefined) return model.leaves(model.residue === 'dirty' ? 'dirty' : 'maybe')
    model.leaves(inside && transactional ? 'maybe' : 'dirty')
    then(model)
  })
}

/** COMMIT and ROLLBACK, chained or not. */
function ends(weight: number, sql: string, how: 'commit' | 'rollback', chain = false): StepKind {
  return step(weight, async (caller) => {
    const { model } = caller
    const before = model.state
    const told = send(() => caller.query(sql))
    if (chain && before === 'none') return void (await judge(caller, sql, told, { fails: '25P01' }))
    const result = await judge(caller, sql, told, { inFailed: true })
    if (result === undefined) return
    const saved = how === 'commit' && before !== 'failed'
    mustBe(`the tag of ${sql}`, (result as pg.QueryResult).command, saved ? 'COMMIT' : 'ROLLBACK')
    if (before !== 'none') model.end(saved ? 'commit' : 'rollback', chain)
  })
}

const nameOf = (n: number): string => (n % 2 === 0 ? 'a' : 'b')
const SLEEPER = { text: 'select pg_sleep(0.3)', query_timeout: 30 }

/** Everything that somebody may do, with how often it is done. */
export const STEPS = {
  // Reads and writes, in every form.
  'read text': reads(14, ({ query }) => query(READ_ALL)),
  'read values': reads(14, ({ query }) => query(READ_BY, [99])),
  'read named': reads(6, ({ query }) => query({ name: 'walk', text: READ_BY, values: [99] })),
  'read extended': reads(2, ({ query }) => query({ text: READ_ALL, queryMode: 'extended' })),
  'read callback': reads(
    4,
    ({ query }) =>
      new Promise((resolve, reject) => {
        query(READ_BY, [99], (error: Error | null, result: unknown) =>
          error ? reject(error) : resolve(result),
        )
      }),
  ),
  'read two': step(6, async (caller) => {
    const told = send(() => caller.query(`${READ_ALL}; ${READ_ALL}`))
    const result = await judge(caller, 'two reads', told)
    if (result === undefined) return
    for (const one of result as pg.QueryResult[])
      mustBe('what is read', one.rows, expectedRows(caller))
  }),
  'read cursor': step(
    4,
    async (caller, n) => {
      const cursor = new Cursor(READ_BY, [99])
      const told = send(async () => {
        caller.query(cursor)
        const first = await cursor.read(n % 3 === 0 ? 1 : 99)
        const second = n % 3 === 1 ? [] : await cursor.read(1)
        await cursor.close()
        return [...first, ...second]
      })
      const rows = await judge(caller, 'a cursor', told)
      const all = expectedRows(caller)
      if (rows !== undefined)
        mustBe('what a cursor reads', rows, n % 3 === 0 ? all.slice(0, 2) : all)
    },
    'client',
  ),
  'read copy': step(
    2,
    async (caller) => {
      const { world, tenantId } = caller
      const copy = new CopyOut('copy (select owner from item order by id) to stdout')
      const told = send(async () => {
        caller.query(copy)
        await copy.done
        return copy.lines
      })
      const lines = await judge(caller, 'COPY TO STDOUT', told)
      if (lines !== undefined)
        mustBe(
          'what is copied',
          (lines as string[]).flatMap((line) => line.split('\n')),
          world.itemsOf(tenantId).map(({ owner }) => owner),
        )
    },
    'client',
  ),
  'write values': writes(8, ({ query }, unit, owner) =>
    query('insert into log values ($1, $2)', [unit, owner]),
  ),
  'write text': writes(5, ({ query }, unit, owner) =>
    query(`insert into log values ('${unit}', '${owner}')`),
  ),
  'write named': writes(3, ({ query }, unit, owner) =>
    query({
      name: 'walk-write',
      text: 'insert into log values ($1, $2) returning owner',
      values: [unit, owner],
    }),
  ),
  'write two': writes(3, ({ query }, unit, owner) =>
    query(`select 1; insert into log values ('${unit}', '${owner}')`),
  ),
  'write copy': step(
    3,
    async (caller, n) => {
      const { ledger, tenantId, model } = caller
      const unit = ledger.next(tenantId)
      const copy = new CopyIn('copy log from stdin')
      const told = send(async () => {
        caller.query(copy)
        await copy.begun
        copy.write(n % 4 === 0 ? 'no tab\n' : `${unit}\t${canary(tenantId, 'w')}\n`)
        if (n % 4 === 1) copy.fail('changed my mind')
        else copy.end()
        return copy.done
      })
      const failure = n % 4 === 0 ? { fails: '22P04' } : n % 4 === 1 ? { fails: '57014' } : {}
      const tag = await judge(caller, 'COPY FROM STDIN', told, failure)
      if (tag === undefined) return ledger.settle([unit], 'lost')
      mustBe('the tag of COPY', tag, 'COPY 1')
      model.wrote(unit)
    },
    'client',
  ),

  // What the server refuses.
  'fail text': fails(4, '22012', ({ query }) => query('select 1 / (id - id) from item')),
  'fail values': fails(4, '22012', ({ query }) => query('select $1 / (id - id) from item', [1])),
  'fail table': fails(2, '42P01', ({ query }) => query('select * from no_such_table')),
  'fail syntax': fails(2, '42601', ({ query }) => query('selec 1'), true),
  'fail two': fails(2, '22012', ({ query }) => query('select 1; select 1 / 0')),
  'fail two syntax': fails(2, '42601', ({ query }) => query('select 1; selec 2'), true),
  'fail parameters': fails(2, '08P01', ({ query }) => query('select $1::int, $2::int', [1])),
  'fail behind a write': step(3, async (caller) => {
    const { ledger, tenantId } = caller
    const unit = ledger.next(tenantId)
    const text = `insert into log values ('${unit}', '${canary(tenantId, 'w')}'); select 1 / 0`
    await judge(
      caller,
      'a failure behind a write',
      send(() => caller.query(text)),
      {
        fails: '22012',
      },
    )
    ledger.settle([unit], 'lost')
  }),
  cancel: fails(2, '57014', ({ query }) => query('select probe.cancel_me() from item')),
  'cancel values': fails(1, '57014', ({ query }) =>
    query('select probe.cancel_me() from item where id < $1', [9]),
  ),
  'give up': step(0.6, async (caller) => {
    const { model } = caller
    // The error of a failed transaction may come in time, or not.
    if (model.state === 'failed') return
    await judge(
      caller,
      'a query_timeout',
      send(() => caller.query(SLEEPER)),
      {
        fails: 'Query read timeout',
      },
    )
    if (!model.gone) model.stuck = true
  }),

  // Transactions.
  begin: step(8, async (caller, n) => {
    const { model } = caller
    // An isolation level cannot be asked for in the middle of a transaction.
    const forms = [
      'begin',
      'start transaction',
      'begin isolation level serializable',
      'BEGIN; ',
      'begin /* x */ read write',
    ]
    const sql = model.state === 'none' ? (forms[n % forms.length] ?? '') : 'begin'
    const result = await judge(
      caller,
      sql,
      send(() => caller.query(sql)),
      // Nothing has run yet: the model must not open the transaction.
      {},
    )
    if (result === undefined) return
    mustBe(
      `the tag of ${sql}`,
      (result as pg.QueryResult).command,
      sql.startsWith('start') ? 'START' : 'BEGIN',
    )
    model.begin()
  }),
  'set transaction': step(1, async (caller) => {
    const { model } = caller
    const held = model.state === 'begun'
    const told = send(() => caller.query('set transaction read write'))
    await judge(caller, 'set transaction', told)
    // Held back together with the BEGIN, or not: the transaction is open as soon as something runs.
    if (held && !model.gone) model.state = 'begun'
  }),
  commit: ends(6, 'commit', 'commit'),
  end: ends(1, 'end', 'commit'),
  rollback: ends(5, 'rollback', 'rollback'),
  abort: ends(1, 'ABORT;', 'rollback'),
  'commit and chain': ends(2, 'commit and chain', 'commit', true),
  'rollback and chain': ends(2, 'rollback and chain', 'rollback', true),
  savepoint: step(4, async (caller, n) => {
    const { model } = caller
    const told = send(() => caller.query(`savepoint ${nameOf(n)}`))
    if (model.state === 'none')
      return void (await judge(caller, 'savepoint', told, { fails: '25P01' }))
    if ((await judge(caller, 'savepoint', told)) !== undefined) model.setSavepoint(nameOf(n))
  }),
  'rollback to': step(4, async (caller, n) => {
    const { model } = caller
    const told = send(() => caller.query(`rollback to savepoint ${nameOf(n)}`))
    const code =
      model.state === 'none' ? '25P01' : model.hasSavepoint(nameOf(n)) ? undefined : '3B001'
    const expected = { inFailed: true, ...(code === undefined ? {} : { fails: code }) }
    if ((await judge(caller, 'rollback to', told, expected)) !== undefined)
      model.rollbackTo(nameOf(n))
  }),
  'release savepoint': step(2, async (caller, n) => {
    const { model } = caller
    const told = send(() => caller.query(`release savepoint ${nameOf(n)}`))
    const code =
      model.state === 'none' ? '25P01' : model.hasSavepoint(nameOf(n)) ? undefined : '3B001'
    const expected = code === undefined ? {} : { fails: code }
    if ((await judge(caller, 'release savepoint', told, expected)) !== undefined)
      model.releaseSavepoint(nameOf(n))
  }),
  'transaction in one text': step(3, async (caller) => {
    const { ledger, tenantId, model } = caller
    const unit = ledger.next(tenantId)
    const text = `begin; insert into log values ('${unit}', '${canary(tenantId, 'w')}'); commit`
    const result = await judge(
      caller,
      text,
      send(() => caller.query(text)),
    )
    if (result === undefined) return ledger.settle([unit], 'lost')
    model.wrote(unit)
    // Whatever was open is closed by it.
    if (model.state === 'open') model.end('commit', false)
  }),
  'transaction opened by a text': step(1.5, async (caller) => {
    const { ledger, tenantId, model } = caller
    const unit = ledger.next(tenantId)
    const text = `begin; insert into log values ('${unit}', '${canary(tenantId, 'w')}')`
    const result = await judge(
      caller,
      text,
      send(() => caller.query(text)),
    )
    if (result === undefined) return ledger.settle([unit], 'lost')
    model.state = 'open'
    model.wrote(unit)
  }),
  'read behind a commit': step(1.5, async (caller) => {
    const { model } = caller
    // The tenant may have set a path of its own for the session.
    if (model.residue !== 'clean') return
    const before = model.state
    const told = send(() => caller.query('commit; select owner from item'))
    // The scope has ended with the transaction, and no table is found.
    await judge(caller, 'a read behind a commit', told, { fails: '42P01', inFailed: true })
    if (model.gone || before === 'none') return
    model.end(before === 'failed' ? 'rollback' : 'commit', false)
  }),
  'transaction sent at once': step(
    3,
    async (caller, n) => {
      const { ledger, tenantId, model } = caller
      if (model.state !== 'none') return
      const unit = ledger.next(tenantId)
      const told = [
        'begin',
        `insert into log values ('${unit}', '${canary(tenantId, 'w')}')`,
        ...(n % 3 === 0 ? ['select 1 / 0'] : []),
        READ_ALL,
        'commit',
      ].map((sql) => [sql, send(() => caller.query(sql))] as const)
      for (const [sql, answer] of told) {
        if (sql === 'begin') {
          if ((await judge(caller, sql, answer)) !== undefined) model.begin()
        } else if (sql === 'commit') {
          const saved = !model.failed
          const result = await judge(caller, sql, answer, { inFailed: true })
          if (result === undefined) continue
          mustBe('the tag', (result as pg.QueryResult).command, saved ? 'COMMIT' : 'ROLLBACK')
          model.end(saved ? 'commit' : 'rollback', false)
        } else if (sql === 'select 1 / 0') await judge(caller, sql, answer, { fails: '22012' })
        else {
          const result = await judge(caller, sql, answer)
          if (sql === READ_ALL) {
            if (result !== undefined) mustBe('what is read', rowsOf(result), expectedRows(caller))
          } else if (result === undefined) ledger.settle([unit], 'lost')
          else model.wrote(unit)
        }
      }
    },
    'client',
  ),
  'reads sent at once': step(
    3,
    async (caller, n) => {
      const told = [
        send(() => caller.query(READ_ALL)),
        send(() => caller.query(READ_BY, [99])),
        send(() => caller.query(n % 2 === 0 ? READ_ALL : 'select 1 / 0')),
        send(() => caller.query(READ_BY, [99])),
      ]
      for (const [index, answer] of told.entries()) {
        const expected = index === 2 && n % 2 === 1 ? { fails: '22012' } : {}
        const result = await judge(caller, 'one of many', answer, expected)
        if (result !== undefined) mustBe('what is read', rowsOf(result), expectedRows(caller))
      }
    },
    'client',
  ),

  // What may stay in a session.
  probe: step(4, async (caller) => {
    const { model } = caller
    if (model.residue !== 'clean' || model.temporary) return
    const result = await judge(
      caller,
      'a look at the session',
      send(() => caller.query(PROBE)),
    )
    if (result === undefined) return
    // What a transaction has locked is released with it; the view does not tell the two kinds apart.
    const held = model.state === 'none' ? {} : { locks: 0 }
    const [seen] = rowsOf(result) as [object]
    mustBe('what the session holds', { ...seen, ...held }, NOTHING)
  }),
  'set local': step(2, async (caller) => {
    const { model } = caller
    const told = send(() => caller.query("set local statement_timeout = '7s'"))
    const result = await judge(caller, 'set local', told)
    if (result !== undefined && model.state === 'open')
      model.local = { ...model.local, statement_timeout: '7s' }
  }),
  'set for the session': leaves(
    1,
    (_caller, n) =>
      ["set timezone = 'Asia/Kathmandu'", "set app.who = 'somebody'", "set datestyle = 'German'"][
        n % 3
      ] ?? '',
    { transactional: true },
  ),
  set_config: leaves(0.6, () => "select set_config('app.who', 'somebody', false)", {
    transactional: true,
  }),
  'set the path': step(1, async (caller) => {
    const { model, otherId, world } = caller
    // In a transaction it would be the rest of it that reads elsewhere: that is for a role to stop.
    if (model.state !== 'none') return
    const { schema } = world.viewOf(otherId)
    const result = await judge(
      caller,
      'set search_path',
      send(() => caller.query(`set search_path = "${schema}"`)),
    )
    if (result !== undefined) model.leaves('dirty')
  }),
  listen: step(0.6, async (caller) => {
    const { model } = caller
    const { state } = model
    // The pool refuses it once the server has told what it was: the transaction goes on, the connection does not.
    await judge(
      caller,
      'listen',
      send(() => caller.query('listen walk')),
      {
        fails: 'ERR_TENANCY_STATEMENT_REFUSED',
      },
    )
    if (model.gone || state === 'failed') return
    if (state !== 'none') model.state = 'open'
    model.leaves('dirty')
  }),
  unlisten: step(0.5, async (caller) => {
    await judge(
      caller,
      'unlisten',
      send(() => caller.query('unlisten *')),
    )
  }),
  prepare: leaves(0.6, (caller) => `prepare "${uniqueName(caller)}" as select 1`, {
    transactional: false,
  }),
  'temporary table': leaves(
    1,
    () => "create temp table if not exists item (id int, owner text default 'canary:evil:1')",
    { transactional: true },
    (model) => {
      model.temporary = true
    },
  ),
  'temporary table of a function': step(4, async (caller) => {
    const { tenantId, model } = caller
    const told = send(() => caller.query('select strangers($1) as strangers', [tenantId]))
    const result = await judge(caller, 'a function that keeps notes', told)
    model.temporary = true
    if (result !== undefined) mustBe('notes of strangers', rowsOf(result), [{ strangers: 0 }])
  }),
  'advisory lock': leaves(
    0.6,
    (caller) => `select pg_advisory_lock(hashtextextended('${uniqueName(caller)}', 0))`,
    { transactional: false },
  ),
  'advisory lock of the transaction': step(1, async (caller) => {
    const sql = `select pg_advisory_xact_lock(hashtextextended('${uniqueName(caller)}', 0))`
    await judge(
      caller,
      'a lock',
      send(() => caller.query(sql)),
    )
  }),
  'do block': leaves(0.6, () => 'do $$ begin perform 1; end $$', { transactional: false }),
  'cursor with hold': leaves(
    0.5,
    (caller) => `declare "${uniqueName(caller)}" cursor with hold for select 1`,
    { transactional: true },
  ),
  discard: step(1, async (caller, n) => {
    const sql = ['discard plans', 'discard sequences', 'discard temp'][n % 3] ?? ''
    await judge(
      caller,
      sql,
      send(() => caller.query(sql)),
    )
  }),
  'discard all': fails(0.6, '25001', ({ query }) => query('discard all')),
  'reset all': step(0.6, async (caller) => {
    // In a transaction it takes the scope along, and the rest finds no table.
    if (caller.model.state !== 'none') return
    await judge(
      caller,
      'reset all',
      send(() => caller.query('reset all')),
    )
  }),

  // Connections that break, and clients in the wrong hands.
  die: step(0.8, async (caller, n) => {
    const { model } = caller
    const runs = !model.failed
    const text = 'select probe.terminate_me() from item'
    await judge(
      caller,
      'the end of the session',
      send(() => (n % 2 === 0 ? caller.query(text) : caller.query(`${text} where id < $1`, [9]))),
      { fails: 'gone' },
    )
    if (runs) model.breakDown()
  }),
  'be killed': step(
    0.4,
    async ({ model, client, world }) => {
      if (model.gone || client === undefined) return
      const ended = new Promise<void>((resolve) => void client.once('end', resolve))
      await world.db.query('select pg_terminate_backend($1)', [
        (client as unknown as { processID: number }).processID,
      ])
      await ended
      model.breakDown()
    },
    'client',
  ),
  'wrong context': step(
    1,
    async ({ world, otherId, query }) => {
      const { outcome } = await world.as(otherId, () => send(() => query('select owner from item')))
      mustBe('a client in the context of another tenant', outcome, 'ERR_TENANCY_CONTEXT_LOCKED')
    },
    'client',
  ),
} satisfies Record<string, StepKind>

export type StepName = keyof typeof STEPS

/** Takes a step, if there is still somebody who answers. */
export async function takeStep(caller: Caller, name: StepName, n: number): Promise<void> {
  if (caller.model.stuck) return
  try {
    const kind: StepKind = STEPS[name]
    await kind.run(caller, n)
  } catch (error) {
    if (error instanceof Mismatch) throw new Mismatch(`${name} (${n}): ${error.message}`)
    throw error
  }
}

function uniqueName({ ledger, tenantId }: Caller): string {
  const name = ledger.next(tenantId)
  ledger.settle([name], 'lost')
  return name
}

const PROBE = `select current_setting('TimeZone') = (select boot_val from pg_settings where name = 'TimeZone') or current_setting('TimeZone') = (select reset_val from pg_settings where name = 'TimeZone') as zone,
  current_setting('DateStyle') as datestyle, coalesce(current_setting('app.who', true), '') as who,
  (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks,
  (select count(*)::int from pg_listening_channels()) as channels,
  (select count(*)::int from pg_cursors where is_holdable) as cursors,
  (select count(*)::int from pg_class where relnamespace = pg_my_temp_schema()) as temporary,
  (select count(*)::int from pg_prepared_statements where name !~ '^(__partywall|walk)') as prepared`
const NOTHING = {
  zone: true,
  datestyle: 'ISO, MDY',
  who: '',
  locks: 0,
  channels: 0,
  cursors: 0,
  temporary: 0,
  prepared: 0,
}
