import type { TenantPool, TenantPoolOptions } from '@partywall/postgres'
import { canary, eventually, outcomeOf } from '@partywall/test-support'
import type pg from 'pg'
import Cursor from 'pg-cursor'
import { countsOf, type VariantWorld } from '../variant-world.ts'
import { Ledger, Mismatch, mustBe, type Residue, SessionModel } from './model.ts'
import type { Lane, Script, Sequence } from './script.ts'
import { type Caller, takeStep } from './steps.ts'

/** How long anything may take before it counts as hung, in milliseconds; long, because the machine may be busy. */
const HUNG_MS = 20_000

let walks = 0

/**
 * Plays a script on a pool of its own, and compares whatever happens with the model. Rejects with a {@link Mismatch} that says where.
 *
 * The steps of several callers are taken in turns, one at a time, so that the same script does the same again.
 */
export async function walk(
  world: VariantWorld,
  { max, sequences }: Script,
  options: TenantPoolOptions = {},
): Promise<void> {
  const name = `walk-${process.pid}-${walks++}`
  const ledger = new Ledger(name)
  const pool = world.openPool({ max, application_name: name, ...options })
  let over = false
  try {
    for (const [index, sequence] of sequences.entries())
      await playSequence(world, pool, ledger, sequence).catch((error: unknown) => {
        throw error instanceof Mismatch
          ? new Mismatch(`sequence ${index}: ${error.message}`)
          : error
      })
    await pool.end()
    over = true
    ledger.verify(await world.logs(`${name}-`), (tenantId) => canary(tenantId, 'w'))
  } finally {
    // Whoever was in the middle of something stays there: a failure was told, and nobody goes on.
    if (!over) {
      void pool.end().catch(() => undefined)
      await world.db.query(
        'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1',
        [name],
      )
    }
  }
}

/** What one sequence may and must leave behind. */
class Expectations {
  readonly #fates: Residue[] = []

  add(fate: Residue): void {
    this.#fates.push(fate)
  }

  get least(): number {
    return this.#fates.filter((fate) => fate === 'dirty').length
  }

  get most(): number {
    return this.#fates.filter((fate) => fate !== 'clean').length
  }
}

async function playSequence(
  world: VariantWorld,
  pool: TenantPool,
  ledger: Ledger,
  { lanes, turns }: Sequence,
): Promise<void> {
  const expectations = new Expectations()
  const { destroyedCount } = pool
  const board = new Board(world.limitsOf(pool.options.max))
  await board.play(
    lanes.map((lane, index) => ({
      name: `lane ${index} (${lane.kind})`,
      wants: tenantsOf(world, lane),
      run: (seat) => playLane({ world, pool, ledger, seat, expectations }, lane),
    })),
    turns,
  )
  // Back to nominal: nobody has a connection, nobody waits for one.
  const atRest = (): boolean => {
    const { total, idle, waiting } = countsOf(pool)
    return idle === total && waiting === 0
  }
  await eventually(atRest, { timeoutMs: 5_000, intervalMs: 1 }).catch(() => {
    throw new Mismatch(`the pool is not at rest: ${JSON.stringify(countsOf(pool))}`)
  })
  const { total } = countsOf(pool)
  if (total > world.limitsOf(pool.options.max).total) throw new Mismatch(`${total} connections`)
  const destroyed = pool.destroyedCount - destroyedCount
  // A shared connection on which temporary objects turn up is given up, whoever left them.
  const most =
    'pipelineDepth' in world.variant.options ? Number.POSITIVE_INFINITY : expectations.most
  if (destroyed < expectations.least || destroyed > most)
    throw new Mismatch(
      `${destroyed} connections were destroyed, and should be ${expectations.least} to ${most}`,
    )
}

/** The place of one lane at the board. */
interface Seat {
  /** Waits for the next turn. */
  turn(): Promise<void>
  /** Told when a connection of a tenant was taken, and when it was given back. */
  readonly holds: (tenantId: string, count: 1 | -1) => void
  /** The tenants of which the next turn takes a connection. */
  wants: readonly string[]
}

interface Player extends Seat {
  readonly name: string
  /** Resolves when it waits for its next turn, or is through. */
  settled: Promise<void>
  resting: boolean
  over: boolean
  go: () => void
}

/** Lets several lanes take turns. A turn that waits for a connection does not keep the others from theirs. */
class Board {
  readonly #limits: { readonly total: number; readonly perTenant: number }
  readonly #held: string[] = []

  constructor(limits: { readonly total: number; readonly perTenant: number }) {
    this.#limits = limits
  }

  #isFreeFor(player: Player): boolean {
    const { total, perTenant } = this.#limits
    return (
      this.#held.length < total &&
      player.wants.every(
        (wanted) => this.#held.filter((tenantId) => tenantId === wanted).length < perTenant,
      )
    )
  }

  async play(
    lanes: readonly {
      readonly name: string
      readonly wants: readonly string[]
      readonly run: (seat: Seat) => Promise<void>
    }[],
    turns: readonly number[],
  ): Promise<void> {
    let failure: unknown
    const players = lanes.map(({ name, wants, run }) => {
      let settle = Promise.withResolvers<void>()
      let gate = Promise.withResolvers<void>()
      const player: Player = {
        name,
        settled: settle.promise,
        resting: true,
        over: false,
        wants,
        holds: (tenantId, count) => {
          if (count === 1) this.#held.push(tenantId)
          else this.#held.splice(this.#held.indexOf(tenantId), 1)
        },
        turn: () => {
          gate = Promise.withResolvers()
          player.resting = true
          settle.resolve()
          return gate.promise
        },
        go: () => {
          settle = Promise.withResolvers()
          player.settled = settle.promise
          player.resting = false
          gate.resolve()
        },
      }
      const begin = gate.promise
      void (async () => {
        await begin
        await run(player)
      })()
        .catch((error: unknown) => {
          failure ??= error instanceof Mismatch ? new Mismatch(`${name}: ${error.message}`) : error
        })
        .finally(() => {
          player.over = true
          player.resting = true
          settle.resolve()
        })
      return player
    })
    // They all wait for their first turn.
    let ready = [...players]
    let waiting: Player[] = []
    // oxlint-disable-next-line eslint/no-unmodified-loop-condition -- a player sets it
    for (let turn = 0; failure === undefined && (ready.length > 0 || waiting.length > 0); turn++) {
      ready.push(...waiting.filter(({ resting, over }) => resting && !over))
      waiting = waiting.filter(({ resting }) => !resting)
      if (waiting.some((player) => this.#isFreeFor(player)) || ready.length === 0) {
        // Somebody's turn has come; whose, the pool decides.
        if (waiting.length === 0) break
        await orHung(waiting)
        continue
      }
      const player = ready[(turns[turn % turns.length] ?? 0) % ready.length]
      if (player === undefined) break
      const waits = player.wants.length > 0 && !this.#isFreeFor(player)
      player.go()
      if (waits) {
        ready = ready.filter((other) => other !== player)
        waiting.push(player)
        continue
      }
      await orHung([player])
      if (player.over) ready = ready.filter((other) => other !== player)
    }
    // oxlint-disable-next-line typescript/only-throw-error -- as it was thrown
    if (failure !== undefined) throw failure
  }
}

/** Waits until one of them rests. */
async function orHung(players: readonly Player[]): Promise<void> {
  const hung = Promise.withResolvers<void>()
  const timer = setTimeout(() => {
    const names = players.map(({ name }) => name).join(', ')
    hung.reject(new Mismatch(`nothing comes for ${names}`))
  }, HUNG_MS)
  await Promise.race([...players.map(({ settled }) => settled), hung.promise]).finally(() =>
    clearTimeout(timer),
  )
}

interface Stage {
  readonly world: VariantWorld
  readonly pool: TenantPool
  readonly ledger: Ledger
  readonly seat: Seat
  readonly expectations: Expectations
}

async function playLane(stage: Stage, lane: Lane): Promise<void> {
  const { world, pool } = stage
  switch (lane.kind) {
    case 'queries':
      for (const { step, n } of lane.steps) {
        await playAlone(stage, lane.tenant, step, n)
        await stage.seat.turn()
      }
      return
    case 'burst':
      await Promise.all(
        lane.units.map(({ tenant, step: { step, n } }) => playAlone(stage, tenant, step, n)),
      )
      return
    case 'client':
      return world.as(tenantOf(world, lane.tenant), () => playClient(stage, lane))
    case 'transaction':
      return world.as(tenantOf(world, lane.tenant), () => playTransaction(stage, lane))
    case 'kill idle': {
      const { rows } = await world.db.query<{ pid: number }>(
        'select pid from pg_stat_activity where application_name = $1',
        [pool.options.application_name ?? 'nobody'],
      )
      const { total, idle: resting } = countsOf(pool)
      const idle = resting === total ? rows.map(({ pid }) => pid) : []
      if (idle.length === 0) return
      await world.db.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [idle])
      await eventually(() => countsOf(pool).total === 0, { intervalMs: 1 })
      return
    }
    case 'nobody':
    case 'homeless':
      return playRefused(stage, lane)
  }
}

/** The tenants of which a lane takes connections. */
function tenantsOf(world: VariantWorld, lane: Lane): string[] {
  if (lane.kind === 'burst') return lane.units.map(({ tenant }) => tenantOf(world, tenant))
  if (lane.kind === 'homeless') return ['homeless']
  return 'tenant' in lane ? [tenantOf(world, lane.tenant)] : []
}

function tenantOf({ tenants }: VariantWorld, tenant: number): string {
  return tenants[tenant % tenants.length] as string
}

function callerOf(
  { world, ledger }: Stage,
  tenant: number,
  query: (...args: never[]) => unknown,
  client?: pg.PoolClient,
): Caller {
  return {
    world,
    tenantId: tenantOf(world, tenant),
    otherId: tenantOf(world, tenant + 1),
    ledger,
    model: new SessionModel(ledger),
    query: query as Caller['query'],
    client,
  }
}

/** A query of the pool: a checkout of its own. */
async function playAlone(
  stage: Stage,
  tenant: number,
  step: Parameters<typeof takeStep>[1],
  n: number,
): Promise<void> {
  const { world, pool, expectations } = stage
  const caller = callerOf(stage, tenant, (...args) =>
    (pool.query as (...args: unknown[]) => unknown)(...args),
  )
  await world.as(caller.tenantId, () => takeStep(caller, step, n))
  expectations.add(caller.model.release())
}

async function playClient(
  stage: Stage,
  { tenant, steps, release }: Extract<Lane, { kind: 'client' }>,
): Promise<void> {
  const { world, pool, seat, expectations } = stage
  const tenantId = tenantOf(world, tenant)
  const client = await pool.connect()
  seat.holds(tenantId, 1)
  seat.wants = []
  try {
    const caller = callerOf(
      stage,
      tenant,
      (...args) => (client.query as (...args: unknown[]) => unknown)(...args),
      client,
    )
    const { model } = caller
    for (const { step, n } of steps) {
      await seat.turn()
      await takeStep(caller, step, n)
    }
    await seat.turn()
    const late: Promise<string>[] = []
    if (release === 'in the middle of statements' && !model.stuck) {
      const unit = caller.ledger.next(caller.tenantId)
      caller.ledger.settle([unit], model.state === 'none' ? 'unknown' : 'lost')
      late.push(
        outcomeOf(client.query('select owner from item')),
        outcomeOf(
          client.query('insert into log values ($1, $2)', [unit, canary(caller.tenantId, 'w')]),
        ),
      )
      if (!model.gone) model.stuck = true
    }
    if (release === 'in the middle of a cursor' && !model.stuck) {
      const cursor = client.query(new Cursor('select owner from item'))
      const told = await outcomeOf(cursor.read(1))
      if (told === 'fulfilled') model.stuck = true
    }
    const residue = model.release()
    // A client that is given back as broken right behind an error may still owe the end of its answer.
    expectations.add(residue === 'clean' && /broken|error/.test(release) ? 'maybe' : residue)
    const reason =
      release === 'as broken' ? true : release === 'with an error' ? new Error('broken') : undefined
    client.release(reason)
    if (release === 'twice') {
      const again = await outcomeOf((async () => client.release())())
      mustBe('a second release', again, 'ERR_TENANCY_USE_AFTER_RELEASE')
      const used = await outcomeOf(client.query('select owner from item'))
      mustBe('a use after release', used, 'ERR_TENANCY_USE_AFTER_RELEASE')
    }
    // Whatever was not awaited ends all the same.
    await Promise.all(late)
  } finally {
    seat.holds(tenantId, -1)
  }
}

const SORRY = new Error('sorry')

async function playTransaction(
  stage: Stage,
  { tenant, begin, steps, ending }: Extract<Lane, { kind: 'transaction' }>,
): Promise<void> {
  const { world, pool, seat, expectations } = stage
  const tenantId = tenantOf(world, tenant)
  let caller: Caller | undefined
  let holds = false
  let late: Promise<string> | undefined
  let mismatch: unknown
  const told = await outcomeOf(
    pool.transaction(async (query) => {
      seat.holds(tenantId, 1)
      holds = true
      seat.wants = []
      caller = callerOf(stage, tenant, (...args) =>
        (query as (...args: unknown[]) => unknown)(...args),
      )
      caller.model.begin()
      try {
        for (const { step, n } of steps) {
          await seat.turn()
          await takeStep(caller, step, n)
        }
        await seat.turn()
      } catch (error) {
        mismatch = error
        throw error
      }
      if (ending === 'throws') throw SORRY
      if (ending === 'returns too early' && !caller.model.stuck)
        late = outcomeOf(query('select owner from item'))
    }, begin),
  )
  if (holds) seat.holds(tenantId, -1)
  // oxlint-disable-next-line typescript/only-throw-error -- as it was thrown
  if (mismatch !== undefined) throw mismatch
  if (caller === undefined) throw new Mismatch(`no transaction was opened: ${told}`)
  const { model } = caller
  const { state, gone, stuck } = model
  if (late !== undefined) await late
  if (ending === 'throws') {
    mustBe('a transaction whose function throws', told, 'sorry')
    if (!stuck && !gone) model.end('rollback', false)
  } else if (stuck || (ending === 'returns too early' && !gone)) {
    mustBe('a transaction that is left too early', told, 'ERR_TENANCY_UNIT_UNFINISHED')
    model.stuck = true
  } else if (gone) {
    if (!/^(?:gone|ERR_TENANCY_UNIT_UNFINISHED)$/.test(told))
      throw new Mismatch(`a transaction on a broken connection: ${told}`)
  } else {
    const failed = state === 'failed'
    mustBe(
      'the end of a transaction',
      told,
      failed ? 'ERR_TENANCY_TRANSACTION_ABORTED' : 'fulfilled',
    )
    model.end(failed ? 'rollback' : 'commit', false)
  }
  expectations.add(model.release())
}

/** Who has no tenant, or whose tenant has no place, gets an error, and nothing is run. */
async function playRefused(
  { world, pool, ledger }: Stage,
  { kind, how }: Extract<Lane, { kind: 'nobody' | 'homeless' }>,
): Promise<void> {
  const { homeless } = world
  if (kind === 'homeless' && homeless === undefined) return
  const unit = ledger.next('nobody')
  ledger.settle([unit], 'lost')
  const write = (query: TenantPool['query']): Promise<unknown> =>
    query('insert into log values ($1, $2)', [unit, 'nobody'])
  const ask = (): Promise<unknown> =>
    how === 0
      ? write(pool.query)
      : how === 1
        ? pool.query(`select 1; insert into log values ('${unit}', 'nobody')`)
        : pool.transaction((query) => write(query))
  const told = await outcomeOf(
    kind === 'nobody' || homeless === undefined
      ? world.tenancy.context.outside(ask)
      : world.as(homeless, ask),
  )
  mustBe(
    kind,
    told,
    kind === 'nobody' ? 'ERR_TENANCY_CONTEXT_MISSING' : 'ERR_TENANCY_SCHEMA_MISSING',
  )
}
