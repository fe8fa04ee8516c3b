/** Hears the payload of a notification, as it was given: nothing is parsed. */
export type NotificationListener = (payload: string) => unknown

/** Options of `TenantPool.listen`. */
export interface ListenOptions {
  /** Ends the subscription; aborted beforehand, nothing is subscribed. */
  readonly signal?: AbortSignal | undefined
  /**
   * Notifications may have been missed. `'begun'`: from here on none arrives, because the connection broke or the tenant is not active any more. `'ended'`: they arrive again; what the notifications told of should
   * be read anew. Runs in the tenant that subscribed.
   */
  readonly onGap?: ((state: 'begun' | 'ended') => unknown) | undefined
}

/** A subscription of one tenant to one of its channels. `await using` closes it. */
export interface TenantSubscription extends AsyncDisposable {
  /** The name that the tenant gave. */
  readonly channel: string
  /** Whether the listener is still called; a tenant that was deleted, and a pool that has ended, close their subscriptions. */
  readonly closed: boolean
  /** Ends the subscription: the listener is not called any more from this moment on. Repeating it is harmless. */
  close(): Promise<void>
}
