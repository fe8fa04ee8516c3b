import { AsyncResource } from 'node:async_hooks'
import { errorText, type Tenancy, TenancyError, type Tenant } from '@partywall/core'
import type pg from 'pg'
import type {
  ListenOptions,
  NotificationListener,
  TenantSubscription,
} from '../tenant-subscription.ts'
import { channelName } from './channel-name.ts'
import { ListeningConnection } from './listening-connection.ts'

export interface TenantSubscriptionsOptions {
  readonly tenancy: Tenancy
  /** A connection to the server itself: behind a transaction pooler, nobody would hear anything. */
  readonly config: pg.ClientConfig
  readonly keepsProcessAlive: boolean
  /** See `ListeningConnectionOptions`. */
  readonly keepAliveMs?: number | undefined
  readonly answerTimeoutMs?: number | undefined
}

/** All subscriptions of all tenants of a pool, on one connection. */
export class TenantSubscriptions {
  readonly #tenancy: Tenancy
  readonly #connection: ListeningConnection
  readonly #channels = new Map<string, Set<Subscription>>()
  readonly #off: () => void
  #closed = false

  constructor({ tenancy, ...connection }: TenantSubscriptionsOptions) {
    this.#tenancy = tenancy
    this.#connection = new ListeningConnection({
      ...connection,
      onMessage: (channel, payload) => {
        // A copy: who subscribes while a notification is told hears of the next one.
        for (const subscription of Array.from(this.#channels.get(channel) ?? []))
          subscription.deliver(payload)
      },
      onGap: (state) => {
        for (const subscription of this.#all()) subscription.connected(state === 'restored')
      },
    })
    this.#off = tenancy.on('tenant:invalidated', ({ tenantId }) => this.#recheck(tenantId))
  }

  /** @throws {TenancyError} by rejection: `ERR_TENANCY_OPTION_INVALID`, `ERR_TENANCY_CLOSED`; else what the server or the network says. */
  async listen(
    tenant: Tenant,
    channel: string,
    listener: NotificationListener,
    { signal, onGap }: ListenOptions,
  ): Promise<TenantSubscription> {
    const physical = channelName(tenant.id, channel)
    signal?.throwIfAborted()
    const subscription = new Subscription(tenant.id, channel, listener, onGap, () =>
      this.#remove(physical, subscription),
    )
    let sharers = this.#channels.get(physical)
    if (sharers === undefined) this.#channels.set(physical, (sharers = new Set()))
    sharers.add(subscription)
    const abort = (): void => void subscription.close()
    signal?.addEventListener('abort', abort, { once: true })
    subscription.onClose = () => signal?.removeEventListener('abort', abort)
    try {
      await this.#tenancy.context.outside(() => this.#connection.listen(physical))
    } catch (error) {
      await subscription.close()
      if (this.#closed) throw ended()
      signal?.throwIfAborted()
      throw error
    }
    if (this.#closed) throw ended()
    signal?.throwIfAborted()
    subscription.open()
    return subscription
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#off()
    const all = this.#all()
    this.#channels.clear()
    await this.#connection.close()
    await Promise.all(all.map((subscription) => subscription.close()))
  }

  #all(): Subscription[] {
    return Array.from(this.#channels.values()).flatMap((sharers) => Array.from(sharers))
  }

  async #remove(physical: string, subscription: Subscription): Promise<void> {
    const sharers = this.#channels.get(physical)
    if (sharers?.delete(subscription) !== true || sharers.size > 0) return
    this.#channels.delete(physical)
    await this.#tenancy.context.outside(() => this.#connection.unlisten(physical))
  }

  /** The record of a tenant may have changed: whoever may not be entered any more hears nothing more. */
  #recheck(tenantId: string): void {
    const concerned = this.#all().filter(
      (subscription) => tenantId === '*' || subscription.tenantId === tenantId,
    )
    for (const id of new Set(concerned.map((subscription) => subscription.tenantId)))
      void this.#statusOf(id).then((status) => {
        for (const subscription of concerned) {
          if (subscription.tenantId !== id || status === undefined) continue
          if (status === 'deleted') void subscription.close()
          else subscription.entitled(status === 'active')
        }
      })
  }

  /** `undefined`: the store does not answer. Then everything stays as it is, as it does for whoever is in the tenant already. */
  async #statusOf(tenantId: string): Promise<Tenant['status'] | undefined> {
    try {
      const tenant = await this.#tenancy.context.outside(async () =>
        this.#tenancy.lookup.find(tenantId),
      )
      return tenant?.status ?? 'deleted'
    } catch {
      return undefined
    }
  }
}

class Subscription implements TenantSubscription {
  readonly tenantId: string
  readonly channel: string
  readonly #listener: NotificationListener
  readonly #onGap: (state: 'begun' | 'ended') => unknown
  readonly #remove: () => Promise<void>
  onClose: () => void = () => undefined
  #state: 'opening' | 'open' | 'closed' = 'opening'
  #connected = true
  #entitled = true
  #inGap = false

  constructor(
    tenantId: string,
    channel: string,
    listener: NotificationListener,
    onGap: ListenOptions['onGap'],
    remove: () => Promise<void>,
  ) {
    this.tenantId = tenantId
    this.channel = channel
    // The connection belongs to nobody; whoever subscribed is who hears.
    this.#listener = AsyncResource.bind(listener)
    this.#onGap = AsyncResource.bind(onGap ?? (() => undefined))
    this.#remove = remove
  }

  get closed(): boolean {
    return this.#state === 'closed'
  }

  open(): void {
    if (this.#state === 'opening') this.#state = 'open'
    // It may have broken since.
    this.#tellGap()
  }

  deliver(payload: string): void {
    if (this.#state !== 'closed' && this.#entitled) this.#call(() => this.#listener(payload))
  }

  connected(value: boolean): void {
    this.#connected = value
    this.#tellGap()
  }

  entitled(value: boolean): void {
    this.#entitled = value
    this.#tellGap()
  }

  async close(): Promise<void> {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.onClose()
    await this.#remove()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #tellGap(): void {
    const inGap = !this.#connected || !this.#entitled
    if (this.#state !== 'open' || inGap === this.#inGap) return
    this.#inGap = inGap
    this.#call(() => this.#onGap(inGap ? 'begun' : 'ended'))
  }

  /** What a listener throws or rejects with stops neither the others nor the connection. */
  #call(fn: () => unknown): void {
    const warn = (error: unknown): void =>
      process.emitWarning(
        `A listener of channel ${JSON.stringify(this.channel)} of tenant ${this.tenantId} failed: ${JSON.stringify(errorText(error))}`,
        { code: 'PARTYWALL_LISTENER_FAILED' },
      )
    try {
      Promise.resolve(fn()).catch(warn)
    } catch (error) {
      warn(error)
    }
  }
}

function ended(): TenancyError {
  return new TenancyError('ERR_TENANCY_CLOSED', 'The pool was ended.')
}
