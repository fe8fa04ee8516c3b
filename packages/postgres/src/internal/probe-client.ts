import pg from 'pg'
import type { PgClientState } from './pg-internals.ts'

/**
 * Which parameters a client of the probe brings to its login, beside user and database.
 *
 * - `address`: `options`, by which some managed poolers find their way.
 * - `bare`: none.
 * - `pool`: everything that a pool sends where no pooler is expected, the empty search_path among it.
 */
export type ProbeStartup = 'address' | 'bare' | 'pool'

/** Whom a probe client saw on the other side. */
export interface Sight {
  /** The server process. */
  readonly pid: number
  /** The value of {@link MARKED}, by which one client recognises the session of another. */
  readonly mark: string
  /** The search_path of a session in which nobody has set one. */
  readonly basePath: string
  readonly serverVersion: number
}

/**
 * What the probe sets for a session and looks for in others: a setting that every login may change, that no pooler carries along, and that means next to nothing to whoever should meet it (where the search for
 * join orders of twelve tables and more begins).
 */
const MARKED = 'geqo_seed'

/** The name of a prepared statement. */
const NAMED = 'partywall_pooler_probe'

// Each is one Query message, so that a pooler cannot have it answered by several servers. Names are qualified: the session may be anybody's.

const LOOK = `select pg_catalog.pg_backend_pid() as pid, pg_catalog.current_setting('${MARKED}') as mark,
  pg_catalog.current_setting('server_version_num')::pg_catalog.int4 as "serverVersion",
  (select reset_val from pg_catalog.pg_settings where name operator(pg_catalog.=) 'search_path') as "basePath"`

/** Takes the mark away where it is found, and does nothing anywhere else. */
const clean = (mark: string): string =>
  `do $$ begin if pg_catalog.current_setting('${MARKED}') operator(pg_catalog.=) '${mark}' then reset ${MARKED}; end if; end $$`

/** A client that asks with whom it speaks. */
export class ProbeClient extends pg.Client {
  readonly #startup: ProbeStartup

  constructor(config: pg.ClientConfig, startup: ProbeStartup, timeoutMs: number) {
    super({ ...config, connectionTimeoutMillis: timeoutMs })
    this.#startup = startup
    // Its next statement tells.
    this.on('error', () => undefined)
  }

  /** @internal */
  getStartupConf(): Record<string, string> {
    const prototype = pg.Client.prototype as unknown as PgClientState
    const all = prototype.getStartupConf.call(this)
    if (this.#startup === 'pool') return { ...all, search_path: '' }
    const kept = ['user', 'database', 'application_name']
    if (this.#startup === 'address') kept.push('options')
    return Object.fromEntries(Object.entries(all).filter(([name]) => kept.includes(name)))
  }

  /** The server process that the login claimed to lead to. Most poolers say a number of their own here, because they do not know yet. */
  get claimedPid(): number {
    return (this as unknown as { readonly processID: number | null }).processID ?? 0
  }

  async look(): Promise<Sight> {
    return this.#row<Sight>(LOOK)
  }

  /** Looks, and takes the mark away in the same breath. `'hold'` leaves a transaction open, so that the server process is nobody else's until `release`. */
  async lookAndClean(mark: string, keep: 'hold' | 'release'): Promise<Sight> {
    return keep === 'hold'
      ? this.#row<Sight>(`begin; ${LOOK}; ${clean(mark)}`, 1)
      : this.#row<Sight>(`${LOOK}; ${clean(mark)}`, 0)
  }

  /** Ends the transaction of `lookAndClean`; not by ROLLBACK, which would bring the mark back. */
  async release(): Promise<void> {
    await this.query('commit')
  }

  /** Marks the session, unless somebody has a value of his own there. Tells which process it was. */
  async plant(mark: string): Promise<{ readonly pid: number; readonly planted: boolean }> {
    // Whoever plants must be able to take away.
    await this.query(clean(mark))
    return this.#row<{ pid: number; planted: boolean }>(
      `select pg_catalog.pg_backend_pid() as pid, source operator(pg_catalog.<>) 'session' as planted,
        case when source operator(pg_catalog.<>) 'session' then pg_catalog.set_config('${MARKED}', '${mark}', false) end
      from pg_catalog.pg_settings where name operator(pg_catalog.=) '${MARKED}'`,
    )
  }

  /** Whether several statements make one transaction. Leaves nothing behind: what is set is gone with the transaction, or with the statement if there is none. */
  async keepsTransactions(mark: string): Promise<boolean> {
    const { pid } = await this.#row<{ pid: number }>(
      `begin; select pg_catalog.pg_backend_pid() as pid, pg_catalog.set_config('${MARKED}', '${mark}', true)`,
      1,
    )
    const sight = await this.look()
    await this.query('rollback')
    return sight.pid === pid && sight.mark === mark
  }

  /**
   * Whether a statement that is prepared under a name can be used by that name in a later transaction. A pooler that promises so must give the server other names, because two clients may use the same one; where the
   * server knows the name itself, nobody carries it along. Leaves nothing behind but what such a pooler keeps of its own.
   */
  async keepsNames(): Promise<boolean> {
    await this.query('begin')
    await this.query({ name: NAMED, text: 'select 1 as partywall_pooler_probe' })
    const { known } = await this.#row<{ known: boolean }>(
      `select exists (select from pg_catalog.pg_prepared_statements where name operator(pg_catalog.=) '${NAMED}') as known`,
    )
    await this.query(known ? `deallocate ${NAMED}; commit` : 'commit')
    return !known
  }

  /** Whether the session's search_path is the one that came with the login. */
  async hasStartupPath(): Promise<boolean> {
    const { source } = await this.#row<{ source: string }>(
      `select source from pg_catalog.pg_settings where name operator(pg_catalog.=) 'search_path'`,
    )
    return source === 'client'
  }

  /** Ends the client, whatever it is doing. */
  async leave(): Promise<void> {
    const { connection } = this as unknown as PgClientState
    const timer = setTimeout(() => connection.stream.destroy(), 1_000)
    await this.end().catch(() => undefined)
    clearTimeout(timer)
  }

  /** The row of a text, or of one statement of it. */
  async #row<Row>(text: string, index?: number): Promise<Row> {
    const result = (await this.query(text)) as unknown as pg.QueryResult | pg.QueryResult[]
    const one = Array.isArray(result) ? result[index ?? result.length - 1] : result
    return one?.rows[0] as Row
  }
}
