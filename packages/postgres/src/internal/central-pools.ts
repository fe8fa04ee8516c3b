import pg from 'pg'

/** Kept for a series of calls, and not for longer: an operator may walk through a thousand databases. */
const IDLE_TIMEOUT_MS = 1_000

interface Entry {
  readonly key: string
  readonly cluster: string | undefined
  readonly pool: pg.Pool
}

/**
 * Plain pools on other databases, outside of every tenant, of two connections each. One is remembered while it has connections, so that the number of pools does not grow with the number of databases. Whoever kept one may use it
 * later all the same.
 */
export class CentralPools {
  readonly #connectTimeoutMs: number
  /** Those with connections. */
  readonly #entries = new Set<Entry>()
  #ended = false

  constructor(connectTimeoutMs: number) {
    this.#connectTimeoutMs = connectTimeoutMs
  }

  /** @param settings - asked for each connection: they may change. */
  get(key: string, cluster: string | undefined, settings: () => pg.ClientConfig): pg.Pool {
    for (const entry of this.#entries) if (entry.key === key) return entry.pool
    class Client extends pg.Client {
      constructor() {
        super(settings())
      }
    }
    const pool = new pg.Pool({
      Client,
      max: 2,
      idleTimeoutMillis: IDLE_TIMEOUT_MS,
      connectionTimeoutMillis: this.#connectTimeoutMs,
    })
    const entry = { key, cluster, pool }
    pool.on('error', () => undefined)
    pool.on('connect', () => {
      this.#entries.add(entry)
      if (this.#ended && !pool.ending) void pool.end()
    })
    pool.on('remove', () => {
      if (pool.totalCount === 0) this.#entries.delete(entry)
    })
    return pool
  }

  /** Closes the idle connections to a cluster, whose settings have changed. */
  refresh(cluster: string): void {
    for (const entry of this.#entries)
      if (entry.cluster === cluster)
        for (let idle = entry.pool.idleCount; idle > 0; idle--)
          entry.pool.connect((_error, _client, done) => done(true))
  }

  async end(): Promise<void> {
    this.#ended = true
    const pools = Array.from(this.#entries, ({ pool }) => pool)
    await Promise.all(pools.filter(({ ending }) => !ending).map((pool) => pool.end()))
  }
}
