import type { CacheTtl, TenantCache } from '@partywall/cache'

/**
 * The cache of one plugin: a `TenantCache` in which the keys of other plugins do not exist. Every operation acts in the tenant that is active when it is called, and rejects as that of `TenantCache`
 * does.
 */
export class PluginCache {
  readonly #cache: TenantCache
  readonly #prefix: string

  /** @param plugin - the name; it holds no character with a meaning in a glob, and no `:`. */
  constructor(cache: TenantCache, plugin: string) {
    this.#cache = cache
    this.#prefix = `${plugin}:`
  }

  get<T = unknown>(key: string): Promise<T | undefined> {
    return this.#cache.get<T>(this.#own(key))
  }

  /** In the order of `keys`, each `undefined` if absent. */
  getMany<T = unknown>(keys: Iterable<string>): Promise<(T | undefined)[]> {
    return this.#cache.getMany<T>(Array.from(keys, (key) => this.#own(key)))
  }

  /** @param ttl - milliseconds, or `'never'`. */
  set(key: string, value: unknown, ttl?: CacheTtl): Promise<void> {
    return this.#cache.set(this.#own(key), value, ttl)
  }

  setMany(
    entries: Iterable<readonly [key: string, value: unknown]>,
    ttl?: CacheTtl,
  ): Promise<void> {
    return this.#cache.setMany(
      Array.from(entries, ([key, value]) => [this.#own(key), value] as const),
      ttl,
    )
  }

  delete(key: string): Promise<boolean> {
    return this.#cache.delete(this.#own(key))
  }

  has(key: string): Promise<boolean> {
    return this.#cache.has(this.#own(key))
  }

  /** Adds `by`, 1 by default, and resolves to the sum. */
  increment(key: string, by?: number, ttl?: CacheTtl): Promise<number> {
    return this.#cache.increment(this.#own(key), by, ttl)
  }

  /** The value of an entry; if there is none, what `load` returns, which is then stored. */
  remember<T>(key: string, ttl: CacheTtl | undefined, load: () => T): Promise<Awaited<T>> {
    return this.#cache.remember(this.#own(key), ttl, load)
  }

  /** The keys of the plugin that match a glob. */
  async keys(pattern = '*'): Promise<string[]> {
    const keys = await this.#cache.keys(this.#own(pattern))
    return keys.map((key) => key.slice(this.#prefix.length))
  }

  /** Removes the entries of the plugin, and tells how many there were. Those of other plugins stay. */
  async clear(): Promise<number> {
    const keys = await this.keys()
    const removed = await Promise.all(keys.map((key) => this.delete(key)))
    return removed.filter(Boolean).length
  }

  /** What is no key stays none: an empty one must not become `orders:`. */
  #own(key: string): string {
    return typeof key === 'string' && key !== '' ? this.#prefix + key : key
  }
}
