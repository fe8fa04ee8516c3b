import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import { type Tenancy, TenancyError, type TenantScope } from '@partywall/core'
import type pg from 'pg'
import type { SchemaNames } from '../search-path.ts'
import { TenantClient } from '../tenant-client.ts'
import { createClientHandle, type TenantPoolClient } from './client-handle.ts'
import type { ScopeValues } from './scope-statement.ts'
import { enterSession } from './session-scope.ts'

/** How long the end of a connection may take before its socket is closed, in milliseconds. */
const GOODBYE_MS = 5000

export interface UnsafeSessionsOptions {
  readonly tenancy: Tenancy
  /** Sessions at a time. */
  readonly max: number
  /** Who waits longer for its turn is told. */
  readonly checkoutTimeoutMs: number | 'never'
}

/** Connections of one use, each of one tenant for the whole session. They are not part of the pool. */
export class UnsafeSessions {
  readonly #options: UnsafeSessionsOptions
  readonly #sessions = new Set<UnsafeSession>()
  readonly #waiting = new Set<{ start(): void; refuse(error: TenancyError): void }>()
  #active = 0
  #ended = false

  constructor(options: UnsafeSessionsOptions) {
    this.#options = options
  }

  /**
   * Opens a session, runs `fn` in it, and ends it, whatever happened.
   *
   * @param settings - of a connection to the server itself, past any pooler.
   */
  async run<T>(
    scope: TenantScope,
    settings: () => Promise<pg.PoolConfig> | pg.PoolConfig,
    values: ScopeValues,
    names: SchemaNames,
    reason: string,
    fn: (client: TenantPoolClient) => Promise<T> | T,
  ): Promise<T> {
    const { tenancy } = this.#options
    await this.#turn(scope)
    let session: UnsafeSession | undefined
    try {
      session = new UnsafeSession(tenancy, await settings(), scope)
      tenancy.events.emit('isolation:bypassed', {
        door: 'pool.unsafeSession',
        from: scope,
        reason,
      })
      this.#sessions.add(session)
      return await session.run(values, names, fn)
    } finally {
      await session?.end()
      if (session !== undefined) this.#sessions.delete(session)
      this.#active--
      const [next] = this.#waiting
      next?.start()
    }
  }

  /** Refuses who waits, and ends all sessions: each after the statement that it has under way. */
  async end(): Promise<void> {
    this.#ended = true
    for (const waiting of Array.from(this.#waiting)) waiting.refuse(ended())
    await Promise.all(Array.from(this.#sessions, (session) => session.stop()))
  }

  #turn({ tenant }: TenantScope): Promise<void> | undefined {
    if (this.#ended) throw ended()
    const { max, checkoutTimeoutMs } = this.#options
    if (this.#active < max) {
      this.#active++
      return undefined
    }
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      const leave = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(waiting)
      }
      const waiting = {
        start: () => {
          leave()
          this.#active++
          resolve()
        },
        refuse: (error: TenancyError) => {
          leave()
          reject(error)
        },
      }
      this.#waiting.add(waiting)
      if (checkoutTimeoutMs === 'never') return
      timer = setTimeout(
        () =>
          waiting.refuse(
            new TenancyError(
              'ERR_TENANCY_POOL_EXHAUSTED',
              `No unsafe session was free for tenant ${tenant.id} within ${checkoutTimeoutMs} ms.`,
              { tenantId: tenant.id },
            ),
          ),
        checkoutTimeoutMs,
      )
      timer.unref()
    })
  }
}

class UnsafeSession {
  readonly #tenancy: Tenancy
  readonly #scope: TenantScope
  readonly #client: TenantClient
  readonly #onConnect: ((client: pg.ClientBase) => unknown) | undefined
  readonly #stopped = Promise.withResolvers<never>()
  #revoke: () => void = () => undefined
  #end: Promise<void> | undefined

  constructor(tenancy: Tenancy, config: pg.PoolConfig, scope: TenantScope) {
    this.#tenancy = tenancy
    this.#scope = scope
    this.#onConnect = (config as { onConnect?: (client: pg.ClientBase) => unknown }).onConnect
    this.#client = new TenantClient({ ...config, keepAlive: true }, (work) =>
      tenancy.context.outside(work),
    )
    this.#stopped.promise.catch(() => undefined)
  }

  async run<T>(
    values: ScopeValues,
    names: SchemaNames,
    fn: (client: TenantPoolClient) => Promise<T> | T,
  ): Promise<T> {
    const client = this.#client
    await Promise.race([client.connect(), this.#stopped.promise])
    return client.setUp(async () => {
      await this.#onConnect?.(client)
      await enterSession(client, this.#scope.tenant, values)
      let released = false
      const handle = createClientHandle({
        client,
        scope: this.#scope,
        context: this.#tenancy.context,
        names,
        giveBack: () => {
          released = true
        },
      })
      this.#revoke = () => {
        if (!released) handle.release()
      }
      const work = (async () => fn(handle))()
      // It may end after the session, where nobody waits for it any more.
      work.catch(() => undefined)
      const result = await Promise.race([work, this.#stopped.promise])
      this.#revoke()
      // The error of a statement arrives ahead of the end of its answer.
      if (client.settling) await settled(client)
      this.#assertFinished()
      return result
    })
  }

  /** Ends after the statement that is under way, and lets go of whoever waits for `fn`. */
  async stop(): Promise<void> {
    const client = this.#client
    this.#revoke()
    if (!client.settled && client.usable) await settled(client)
    // The function gets the answer of its statement first.
    await setImmediate()
    this.#stopped.reject(ended())
    await this.end()
  }

  /** Ends the connection, and what the server still does for it. */
  end(): Promise<void> {
    return (this.#end ??= this.#hangUp())
  }

  async #hangUp(): Promise<void> {
    const client = this.#client
    this.#revoke()
    // A server that is at work would go on for as long as it takes, without a client.
    if (!client.settled)
      await Promise.race([client.cancelStatement(), sleep(GOODBYE_MS, undefined, { ref: false })])
    const timer = setTimeout(() => client.connection.stream.destroy(), GOODBYE_MS)
    await client.end().catch(() => undefined)
    clearTimeout(timer)
  }

  #assertFinished(): void {
    const client = this.#client
    const left = client.settled ? client.residue : 'an unfinished statement'
    if (left === undefined) return
    throw new TenancyError(
      'ERR_TENANCY_UNIT_UNFINISHED',
      `The function of an unsafe session returned and left ${left}, which is lost.`,
      { tenantId: this.#scope.tenant.id },
    )
  }
}

function settled(client: TenantClient): Promise<void> {
  return new Promise((resolve) => {
    client.whenSettled(resolve)
  })
}

function ended(): TenancyError {
  return new TenancyError('ERR_TENANCY_CLOSED', 'The pool was ended.')
}
