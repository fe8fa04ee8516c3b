import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { assertKnownKeys, errorText, TenancyError } from '@partywall/core'
import pg from 'pg'
import { ProbeClient, type ProbeStartup, type Sight } from './internal/probe-client.ts'

/**
 * When a connection of the server goes from one client to another.
 *
 * - `none`: never. Each client has one of its own.
 * - `session`: when the client disconnects.
 * - `transaction`: at the end of each transaction.
 * - `statement`: at the end of each statement; transactions of several statements are refused, or fall apart.
 */
export type PoolerMode = 'none' | 'session' | 'transaction' | 'statement'

export interface PoolerProbeOptions {
  /** How long the probe may take, in milliseconds. @defaultValue `10_000` */
  readonly timeoutMs?: number | undefined
  /**
   * Clients that it has open at a time, at most. It takes two where they meet at once, and three where nothing stands in between. Behind one address with many poolers, two clients surely meet only if there are
   * more clients than poolers. @defaultValue `10`
   */
  readonly maxClients?: number | undefined
}

/** What was found between a client and the server. */
export interface PoolerReport {
  readonly mode: PoolerMode
  /** Two clients were seen on one server process: at one time or, in session mode, one after the other. */
  readonly sharesBackends: boolean
  /**
   * What becomes of a setting that a client makes for its session.
   *
   * - `own`: nobody else gets there.
   * - `leaks`: the next client on the same server process had it.
   * - `reset`: the next client was on the same server process, and it was gone.
   * - `unknown`: no other client got there in time.
   */
  readonly sessionState: 'own' | 'leaks' | 'reset' | 'unknown'
  /**
   * What became of `search_path` as a parameter of the login, and of every other one that the options name: `refused`, `ignored`, `passed` to the session, or `accepted` and then not looked for, because in a
   * connection that clients share it would stay for whoever comes next.
   */
  readonly startupParameters: 'passed' | 'ignored' | 'refused' | 'accepted'
  /** The search_path of a session in which nobody has set one; of several sessions, one that is not empty if there is any. */
  readonly basePath: string
  /** A statement that is prepared under a name can be used by that name in a later transaction. */
  readonly preparedStatements: boolean
  /** `server_version_num`: 150004 is 15.4. */
  readonly serverVersion: number
  /** What was seen, in sentences. */
  readonly evidence: readonly string[]
}

/** How long an answer takes before its client is believed to be waiting for a connection. On a slow network, more. */
const PATIENCE_MS = 500

/** How often a marked session is looked for: a pooler that takes its connections in turns may have others in front of it. */
const LOOKS = 60

/**
 * Finds out what stands between a client and the Postgres server, with several clients at once: by the server processes that answer them and by what one finds in another's session, whatever the product is called.
 *
 * Takes some 50 ms, and a second or two where a pooler has no connection left. In between it sets `geqo_seed` in one session, which means nothing to others, and takes it away in the same session. Safe to repeat, and
 * to run beside an application that is busy: the verdict then takes longer, and `sessionState` may be `unknown`.
 *
 * @param target - a pool, whose options are used, or the options of a client, or a connection string.
 * @throws {TenancyError} by rejection: `ERR_TENANCY_DATABASE_UNAVAILABLE` if the login is refused or nothing is found out in time, `ERR_TENANCY_OPTION_INVALID`.
 */
export async function probePooler(
  target: pg.Pool | pg.ClientConfig | string,
  options: PoolerProbeOptions = {},
): Promise<PoolerReport> {
  assertKnownKeys('probePooler', options, ['timeoutMs', 'maxClients'])
  const { timeoutMs = 10_000, maxClients = 10 } = options
  assertAtLeast('timeoutMs', timeoutMs, 1)
  assertAtLeast('maxClients', maxClients, 3)
  const probe = new PoolerProbe(clientConfigOf(target), timeoutMs, maxClients)
  try {
    return await probe.run()
  } catch (cause) {
    if (TenancyError.is(cause)) throw cause
    throw unavailable(
      `What stands before the database could not be told: ${errorText(cause)}`,
      cause,
    )
  } finally {
    await probe.close()
  }
}

/** When connections go from client to client, before anything is known of what goes with them. */
type Shape =
  | { readonly mode: 'none' | 'session'; readonly pair?: undefined }
  /** `pair`: two that have the same connections of the server in turn. */
  | { readonly mode: 'transaction' | 'statement'; readonly pair: Pair }
type Pair = readonly [ProbeClient, ProbeClient]

class PoolerProbe {
  readonly #config: pg.ClientConfig
  readonly #timeoutMs: number
  readonly #maxClients: number
  readonly #deadline: number
  readonly #clients = new Set<ProbeClient>()
  readonly #evidence: string[] = []
  /** Nobody's own, and written as the server writes it. */
  readonly #mark = `0.${randomInt(100_000, 999_999)}`.replace(/0+$/, '1')
  #startup: ProbeStartup = 'address'
  #sight: Sight | undefined
  #slowestMs = 0

  constructor(config: pg.ClientConfig, timeoutMs: number, maxClients: number) {
    this.#config = config
    this.#timeoutMs = timeoutMs
    this.#maxClients = maxClients
    this.#deadline = performance.now() + timeoutMs
  }

  async run(): Promise<PoolerReport> {
    const { mode, pair } = await this.#shape()
    const sessionState =
      pair === undefined ? await this.#inherited(mode) : await this.#found(mode, pair)
    const preparedStatements =
      pair === undefined || (mode === 'transaction' && (await this.#within(pair[0].keepsNames())))
    await this.close()
    const startupParameters = await this.#startupParameters(pair !== undefined)
    const { basePath, serverVersion } = this.#sight as Sight
    return {
      // One with the face of the server, which gives itself away when it hands a session on.
      mode: mode === 'none' && sessionState !== 'own' ? 'session' : mode,
      sharesBackends: pair !== undefined || sessionState === 'leaks' || sessionState === 'reset',
      sessionState,
      startupParameters,
      basePath,
      preparedStatements,
      serverVersion,
      evidence: [...this.#evidence],
    }
  }

  async close(): Promise<void> {
    await Promise.all(Array.from(this.#clients, (client) => this.#leave(client)))
  }

  /** Opens clients one by one, until two meet or there is no reason to think that they would. */
  async #shape(): Promise<Shape> {
    const pidOf = new Map<ProbeClient, number>()
    let handedOn = 0
    for (let opened = 0; opened < this.#maxClients; opened++) {
      const client = await this.#another()
      if (client === undefined) break
      const { pid, inherited } = await this.#takeTurn(client, pidOf)
      const other = clientOn(pid, pidOf)
      if (other !== undefined) {
        this.#evidence.push(
          `Two clients, connected at the same time, were answered by process ${pid}.`,
        )
        return this.#shared([other, client])
      }
      pidOf.set(client, pid)
      if (inherited && ++handedOn === 2) {
        this.#evidence.push(
          'Twice, a client waited until another one disconnected, and was then answered by its process.',
        )
        return { mode: 'session' }
      }
      // Three without a pooler in sight are enough. A pooler has more connections than it shows to two or three.
      if (pidOf.size === 3 && haveOwn(pidOf)) break
    }
    for (const [client, before] of pidOf) {
      const { pid } = await this.#within(client.look())
      const other = Array.from(pidOf.keys()).find((candidate) => candidate !== client)
      if (pid === before || other === undefined) continue
      this.#evidence.push(
        `One client was answered by process ${before}, and then by process ${pid}.`,
      )
      return this.#shared([client, other])
    }
    if (haveOwn(pidOf)) {
      this.#evidence.push(
        `Each of ${pidOf.size} clients was answered by the process that it had logged in to.`,
      )
      return { mode: 'none' }
    }
    this.#evidence.push(
      `Each of ${pidOf.size} clients was answered by a process of its own, and by another one than its login had named.`,
    )
    return { mode: 'session' }
  }

  /** Asks for the process of a new client. Where it has to wait, older ones leave until it has one. */
  async #takeTurn(
    client: ProbeClient,
    pidOf: Map<ProbeClient, number>,
  ): Promise<{ readonly pid: number; readonly inherited: boolean }> {
    const looking = this.#look(client)
    let sight = await this.#patiently(looking)
    let left: number | undefined
    while (sight === undefined) {
      const [oldest] = pidOf
      if (oldest === undefined) sight = await this.#within(looking)
      else {
        left = oldest[1]
        pidOf.delete(oldest[0])
        await this.#leave(oldest[0])
        sight = await this.#patiently(looking)
      }
    }
    return { pid: sight.pid, inherited: sight.pid === left }
  }

  async #shared(pair: Pair): Promise<Shape> {
    // Asked twice, because a connection can break for many reasons.
    for (let attempt = 0; attempt < 2; attempt++) {
      const client = (await this.#another()) ?? pair[attempt]
      const kept = await this.#within(
        client?.keepsTransactions(this.#mark) ?? Promise.resolve(false),
      ).catch((error: unknown) => {
        if (TenancyError.is(error)) throw error
        this.#evidence.push(`A transaction was refused: ${errorText(error)}`)
        return false
      })
      if (kept) return { mode: 'transaction', pair }
    }
    return { mode: 'statement', pair }
  }

  /** Whether one client finds what another, still connected, has set for its session. */
  async #found(mode: PoolerMode, [one, other]: Pair): Promise<PoolerReport['sessionState']> {
    const pid = await this.#plant(one)
    if (pid === undefined) return 'unknown'
    const sight = await this.#hunt(pid, other, mode === 'transaction' ? 'hold' : 'release')
    if (sight !== undefined) return this.#stateOf(sight)
    // Then perhaps it is still its own.
    const own = await this.#within(one.lookAndClean(this.#mark, 'release'))
    this.#evidence.push(
      own.pid === pid && own.mark === this.#mark
        ? `Nobody but the client itself came to process ${pid}, where it had set something for its session. It was taken away again.`
        : `No other client came to process ${pid} any more; geqo_seed may still be ${this.#mark} there.`,
    )
    return 'unknown'
  }

  /** Whether a client finds what another one, before it disconnected, has set for its session. */
  async #inherited(mode: PoolerMode): Promise<PoolerReport['sessionState']> {
    const [one] = this.#clients
    const pid = one === undefined ? undefined : await this.#plant(one)
    if (one === undefined || pid === undefined) return mode === 'none' ? 'own' : 'unknown'
    await this.#leave(one)
    // A pooler may still be cleaning the session when the first one asks.
    for (let attempt = 0; attempt < (mode === 'none' ? 1 : 5); attempt++) {
      const client = await this.#another()
      if (client === undefined) break
      const sight = await this.#within(client.lookAndClean(this.#mark, 'release'))
      if (sight.pid === pid) return this.#stateOf(sight)
      if (mode === 'session') await sleep(20)
    }
    if (mode === 'none') return 'own'
    this.#evidence.push(`No client came to process ${pid} after the one that had it.`)
    return 'unknown'
  }

  #stateOf({ pid, mark }: Sight): 'leaks' | 'reset' {
    const leaks = mark === this.#mark
    this.#evidence.push(
      `On process ${pid}, the next client ${leaks ? 'found' : 'did not find'} what the one before had set for its session.`,
    )
    return leaks ? 'leaks' : 'reset'
  }

  /** Marks a session. Tells its process, or `undefined` if that was not possible. */
  async #plant(client: ProbeClient): Promise<number | undefined> {
    try {
      const { pid, planted } = await this.#within(client.plant(this.#mark))
      if (planted) return pid
      this.#evidence.push(`Somebody has set geqo_seed for the session of process ${pid}.`)
    } catch (error) {
      if (!isServerError(error)) throw error
      this.#evidence.push(`No session setting could be tried: ${errorText(error)}`)
    }
    return undefined
  }

  /** Gets a client to a process and takes the mark away there, by keeping all others busy that the pooler offers first. */
  async #hunt(
    pid: number,
    first: ProbeClient,
    keep: 'hold' | 'release',
  ): Promise<Sight | undefined> {
    const clients = [first]
    for (let looks = 0; looks < LOOKS; ) {
      const held: ProbeClient[] = []
      const release = async (): Promise<void> => {
        if (keep === 'hold')
          await this.#within(Promise.all(held.splice(0).map((client) => client.release())))
      }
      for (let n = 0; n < this.#maxClients - 1 && looks < LOOKS; n++) {
        const client = clients[n] ?? (await this.#another())
        if (client === undefined) break
        clients[n] = client
        looks++
        const looking = client.lookAndClean(this.#mark, keep)
        let sight = await this.#patiently(looking)
        // Whoever waits may be waiting for what is held here.
        if (sight === undefined) {
          await release()
          sight = await this.#within(looking)
        }
        held.push(client)
        if (sight.pid === pid) {
          await release()
          return sight
        }
      }
      await release()
    }
    return undefined
  }

  async #startupParameters(shared: boolean): Promise<PoolerReport['startupParameters']> {
    try {
      const client = await this.#open('pool')
      if (shared) return 'accepted'
      return (await this.#within(client.hasStartupPath())) ? 'passed' : 'ignored'
    } catch (error) {
      if (!isServerError(error)) throw error
      // Unless it is something else that is wrong by now.
      await this.#open(this.#startup)
      this.#evidence.push(`Refused at login: ${errorText(error)}`)
      return 'refused'
    }
  }

  /** One client more; `undefined` if there can be no more, but two can do. */
  async #another(): Promise<ProbeClient | undefined> {
    try {
      return await this.#open(this.#startup)
    } catch (error) {
      if (isServerError(error) && this.#startup === 'address') {
        // Some need `options` to find their way, others refuse it.
        this.#startup = 'bare'
        return this.#another()
      }
      if (this.#clients.size < 2 || !isServerError(error)) throw error
      this.#evidence.push(
        `No more than ${this.#clients.size} clients could log in: ${errorText(error)}`,
      )
      return undefined
    }
  }

  async #open(startup: ProbeStartup): Promise<ProbeClient> {
    const client = new ProbeClient(this.#config, startup, this.#remainingMs)
    this.#clients.add(client)
    try {
      await this.#within(client.connect())
      return client
    } catch (error) {
      await this.#leave(client)
      throw error
    }
  }

  async #leave(client: ProbeClient): Promise<void> {
    this.#clients.delete(client)
    await client.leave()
  }

  async #look(client: ProbeClient): Promise<Sight> {
    const sight = await client.look()
    // One that is not empty is the one to be told of.
    if (this.#sight === undefined || this.#sight.basePath === '') this.#sight = sight
    return sight
  }

  /** What comes within the time that answers take here; `undefined` if it waits for something. */
  async #patiently<T>(answer: Promise<T>): Promise<T | undefined> {
    const start = performance.now()
    const patience = new AbortController()
    const waits = sleep(Math.max(PATIENCE_MS, 5 * this.#slowestMs), undefined, patience).catch(
      () => undefined,
    )
    try {
      const first = await this.#within(Promise.race([answer, waits]))
      if (first !== undefined)
        this.#slowestMs = Math.max(this.#slowestMs, performance.now() - start)
      return first
    } finally {
      patience.abort()
    }
  }

  async #within<T>(answer: Promise<T>): Promise<T> {
    answer.catch(() => undefined)
    const time = new AbortController()
    const late = sleep(this.#remainingMs, undefined, time).then(() => {
      throw unavailable(
        `What stands before the database could not be told within ${this.#timeoutMs} ms.`,
      )
    })
    late.catch(() => undefined)
    try {
      return await Promise.race([answer, late])
    } finally {
      time.abort()
    }
  }

  get #remainingMs(): number {
    return Math.max(1, this.#deadline - performance.now())
  }
}

function clientOn(pid: number, pidOf: ReadonlyMap<ProbeClient, number>): ProbeClient | undefined {
  for (const [client, one] of pidOf) if (one === pid) return client
  return undefined
}

/** Whether each client is answered by the process that its login had named. */
function haveOwn(pidOf: ReadonlyMap<ProbeClient, number>): boolean {
  return Array.from(pidOf).every(([client, pid]) => client.claimedPid === pid)
}

function clientConfigOf(target: pg.Pool | pg.ClientConfig | string): pg.ClientConfig {
  if (typeof target === 'string') return { connectionString: target }
  if (!isPool(target)) return target
  // A pool hides its password from enumeration, so a copy of its options lacks it.
  const { password } = target.options
  return { ...target.options, ...(password === undefined ? {} : { password }) }
}

function isPool(target: pg.Pool | pg.ClientConfig): target is pg.Pool {
  return target instanceof pg.Pool || 'connect' in target
}

/** What the other side says, in contrast to a connection that fails. */
function isServerError(error: unknown): boolean {
  return typeof (error as { severity?: unknown } | null)?.severity === 'string'
}

function assertAtLeast(option: string, value: unknown, least: number): void {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    `${option} must be a whole number of at least ${least}, got ${String(value)}.`,
  )
}

function unavailable(message: string, cause?: unknown): TenancyError {
  return new TenancyError(
    'ERR_TENANCY_DATABASE_UNAVAILABLE',
    message,
    cause === undefined ? {} : { cause },
  )
}
