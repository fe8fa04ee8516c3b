import type { TenantPool } from '@partywall/postgres'
import {
  canary,
  createFaultProxy,
  type FaultProxy,
  outcomeOf,
  type Verdict,
  type WireMessage,
} from '@partywall/test-support'
import type pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest'
import {
  createVariantWorld,
  type PoolVariant,
  VARIANTS,
  type VariantWorld,
} from '../isolation/variant-world.ts'
import { expectNominal, within } from './fault-fixture.ts'

let world: VariantWorld
let proxy: FaultProxy

const INSERT = 'insert into log values ($1, $2)'

/** One write, saved by a COMMIT of its own or by the end of its implicit transaction. */
const WRITES: Record<string, (pool: TenantPool, tenantId: string) => Promise<unknown>> = {
  'pool.query with parameters': (pool, id) => pool.query(INSERT, ['w', canary(id, 'w')]),
  'pool.query of text': (pool, id) =>
    pool.query(`insert into log values ('w', '${canary(id, 'w')}')`),
  'pool.query of two statements': (pool, id) =>
    pool.query(`select 1; insert into log values ('w', '${canary(id, 'w')}')`),
  'a named statement': (pool, id) =>
    pool.query({ name: 'write', text: INSERT, values: ['w', canary(id, 'w')] }),
  'a callback': (pool, id) =>
    new Promise((resolve, reject) => {
      pool.query(INSERT, ['w', canary(id, 'w')], (error, result) =>
        error ? reject(error) : resolve(result),
      )
    }),
  'pool.transaction': (pool, id) =>
    pool.transaction((query) => query(INSERT, ['w', canary(id, 'w')])),
  'pool.transaction, serializable': (pool, id) =>
    pool.transaction(
      (query) => query(INSERT, ['w', canary(id, 'w')]),
      'begin isolation level serializable',
    ),
  'a client': (pool, id) =>
    withClient(pool, async (client) => {
      await client.query('begin')
      await client.query(INSERT, ['w', canary(id, 'w')])
      await client.query('commit')
    }),
  'a client whose statements were not awaited one by one': (pool, id) =>
    withClient(pool, (client) =>
      Promise.all([
        client.query('begin'),
        client.query(INSERT, ['w', canary(id, 'w')]),
        client.query('commit'),
      ]),
    ),
}

async function withClient(
  pool: TenantPool,
  fn: (client: pg.PoolClient) => Promise<unknown>,
): Promise<void> {
  const client = await pool.connect()
  try {
    await fn(client)
  } finally {
    client.release()
  }
}

/** What saves the write: the COMMIT of its transaction, or the statement itself. */
interface Saving {
  readonly sent: RegExp
  readonly tag: string
}
const savingOf = (way: string): Saving =>
  /transaction|client/.test(way)
    ? { sent: /^commit/i, tag: 'COMMIT' }
    : { sent: /(?:^|; )insert into log/i, tag: 'INSERT 0 1' }

interface Cut {
  /** Whether the row is there afterwards; `undefined`: who was faster, the server or the network. */
  readonly saved: boolean | undefined
  /** Makes the hook of one connection's messages. */
  readonly hook: (saving: Saving) => (message: WireMessage) => Verdict
}

const atReply =
  (verdict: Verdict): Cut['hook'] =>
  ({ tag }) =>
  ({ from, text }) =>
    from === 'server' && text === tag ? verdict : 'pass'

const CUTS: Record<string, Cut> = {
  'saved, the reply is lost, by a reset': { saved: true, hook: atReply('reset') },
  'saved, the reply is lost, by an orderly end': { saved: true, hook: atReply('close') },
  'saved, the reply is lost, in silence': { saved: true, hook: atReply('silence') },
  'saved, the reply comes and its end is lost': { saved: true, hook: atReply({ then: 'reset' }) },
  'what saves it does not arrive': {
    saved: false,
    hook:
      ({ sent }) =>
      ({ from, text = '' }) =>
        from === 'client' && sent.test(text) ? 'reset' : 'pass',
  },
  'what saves it arrives, and at once the network is gone': {
    saved: undefined,
    hook: ({ sent }) => {
      let asked = false
      return ({ from, type, text = '' }) => {
        if (from === 'server') return 'pass'
        asked ||= sent.test(text)
        return asked && (type === 'S' || type === 'Q') ? { then: 'reset' } : 'pass'
      }
    },
  },
}

const { schema, pipelined, row } = VARIANTS
describe.each<PoolVariant>([schema, pipelined, row])(
  'F5 $name: a write whose outcome is not known',
  (variant) => {
    beforeAll(async () => {
      world = await createVariantWorld(variant)
      proxy = await createFaultProxy(world.url, { record: true })
    })
    afterAll(async () => {
      await world[Symbol.asyncDispose]()
      await proxy[Symbol.asyncDispose]()
    })
    beforeEach(() => world.clearLogs())

    // Who is silent, and whose end is orderly, makes a difference to the driver alone.
    const cuts = Object.keys(CUTS).filter(
      (cut) => variant === schema || !/silence|orderly|its end/.test(cut),
    )
    const max = Math.max(...variant.poolSizes)
    const cases = cuts.flatMap((cut) => Object.keys(WRITES).map((way) => ({ max, cut, way })))
    // Without it silence has no end; together with pipelineDepth it is refused.
    const patience = variant === schema ? { query_timeout: 300 } : {}
    it.each(cases)(
      'F5 pool of $max: $way: $cut: an error, and never twice',
      async ({ max, cut, way }) => {
        const [acme] = world.tenants
        const pool = world.openPool({ max, connectionString: proxy.url, ...patience })
        onTestFinished(() => void pool.end())
        const write = WRITES[way] as (typeof WRITES)[string]
        const { saved, hook } = CUTS[cut] as Cut
        const saving = savingOf(way)
        // Once undisturbed, so that what is prepared is prepared.
        await world.as(acme, () => write(pool, acme))
        await world.clearLogs()
        const before = proxy.messages.length

        proxy.onMessage = hook(saving)
        const outcome = await within(5_000, outcomeOf(world.as(acme, () => write(pool, acme))))
        proxy.heal()
        // Not "nothing was saved", and not success.
        expect(outcome).toMatch(/^(?:gone|Query read timeout)$/)
        await expectNominal(world, pool)

        const rows = (await world.logs()).map(({ place, owner }) => `${place} ${owner}`)
        const row = `${acme} ${canary(acme, 'w')}`
        if (saved === undefined) expect([[], [row]]).toContainEqual(rows)
        else expect(rows).toEqual(saved ? [row] : [])
        const sent = proxy.messages
          .slice(before)
          .filter(({ type, text = '' }) => (type === 'E' || type === 'Q') && saving.sent.test(text))
        expect(sent.length).toBe(1)
      },
    )
  },
)
