import { EventEmitter } from 'node:events'
import { type Tenancy, TenancyError, type TenantScope } from '@partywall/core'
import type pg from 'pg'
import { schemaOf } from './search-path.ts'
import type { TenantPool } from './tenant-pool.ts'

/** The slice of a PrismaClient that is in use here. */
export interface PrismaClientLike {
  $disconnect(): Promise<void>
  $extends(extension: never): unknown
}

/** What the client of one tenant is made of. */
export interface TenantPrismaPlace {
  /** The pool, for this tenant alone: pass it to `PrismaPg`. */
  readonly pool: pg.Pool
  /** The tenant's schema: Prisma writes it in front of every table. */
  readonly schema: string
}

export interface TenantPrismaOptions {
  /** Clients that are kept, each with the plans of its queries; beyond that, the least recently used is forgotten and made anew when it is needed. @defaultValue `100` */
  readonly maxClients?: number | undefined
}

interface Kept<Client> {
  readonly schema: string
  readonly client: Client
}

/**
 * A PrismaClient for all tenants: each of its calls goes to the client of the active tenant, which `create` makes at the first one. All of them share the pool, and hold no connections themselves.
 *
 * ```ts
 * const prisma = tenantPrisma(tenancy, pool, ({ pool, schema }) => new PrismaClient({ adapter: new PrismaPg(pool, { schema }) }))
 * ```
 *
 * One client cannot serve several tenants: Prisma writes the schema into every statement, and gathers the `findUnique` calls of one tick, whoever made them, into one statement.
 *
 * A client, a model or a transaction that was taken from it in one tenant is refused in another (`ERR_TENANCY_CONTEXT_LOCKED`). Outside of every tenant `$connect()` does nothing, `$disconnect()` forgets all clients, and everything else
 * throws.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`; from its members `ERR_TENANCY_CONTEXT_MISSING`, `ERR_TENANCY_CONTEXT_LOCKED`.
 */
export function tenantPrisma<Client extends PrismaClientLike>(
  tenancy: Tenancy,
  pool: TenantPool,
  create: (place: TenantPrismaPlace) => Client,
  { maxClients = 100 }: TenantPrismaOptions = {},
): Client {
  if (!Number.isSafeInteger(maxClients) || maxClients < 1)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `maxClients must be a whole number of at least 1, got ${String(maxClients)}.`,
    )
  // In the order of their last use.
  const clients = new Map<string, Kept<Client>>()

  const clientOf = ({ tenant }: TenantScope): Client => {
    const schema = schemaOf(tenant)
    const known = clients.get(tenant.id)
    clients.delete(tenant.id)
    // A tenant that has moved to another schema needs another client.
    const kept =
      known?.schema === schema
        ? known
        : { schema, client: createFor(tenancy, pool, create, tenant.id, schema) }
    clients.set(tenant.id, kept)
    // Forgotten, not disconnected: whoever still uses it may go on.
    for (const id of clients.keys()) {
      if (clients.size <= maxClients) break
      clients.delete(id)
    }
    return kept.client
  }

  const outside: Readonly<Record<string, () => Promise<void>>> = {
    $connect: async () => undefined,
    $disconnect: async () => {
      const all = [...clients.values()]
      clients.clear()
      await Promise.all(all.map(({ client }) => client.$disconnect()))
    },
  }
  return new Proxy(Object.create(null) as Client, {
    get(_, member) {
      const scope = tenancy.current()
      if (scope === undefined) {
        // What await, inspection and conversions to text look for.
        if (typeof member === 'symbol' || member === 'then' || member === 'toJSON') return undefined
        if (Object.hasOwn(outside, member)) return outside[member]
        return tenancy.require()
      }
      const client = clientOf(scope)
      const value: unknown = Reflect.get(client, member)
      return typeof value === 'function' ? (value.bind(client) as unknown) : value
    },
    has: (_, member) => Reflect.has(clientOf(tenancy.require()), member),
  })
}

function createFor<Client extends PrismaClientLike>(
  tenancy: Tenancy,
  pool: TenantPool,
  create: (place: TenantPrismaPlace) => Client,
  tenantId: string,
  schema: string,
): Client {
  const assertOwn = (): void => {
    const active = tenancy.require().tenant
    if (active.id === tenantId && schemaOf(active) === schema) return
    throw new TenancyError(
      'ERR_TENANCY_CONTEXT_LOCKED',
      `The Prisma client of tenant ${tenantId} is used in tenant ${active.id}. Take it anew in each request.`,
      { tenantId },
    )
  }
  // It outlives the call that happens to need it first.
  const client = tenancy.context.outside(() => create({ pool: poolOf(pool, assertOwn), schema }))
  // Asked in the context of each call; the statement of a batch runs in that of the first.
  const $allOperations = ({
    args,
    query,
  }: {
    args: unknown
    query: (args: unknown) => unknown
  }): unknown => {
    assertOwn()
    return query(args)
  }
  return client.$extends({ query: { $allOperations } } as never) as Client
}

/** The pool as one tenant's client sees it: a second check where the statements pass, and no say over the pool itself. */
function poolOf(pool: TenantPool, assertOwn: () => void): pg.Pool {
  const own = new EventEmitter()
  const guarded =
    (method: 'connect' | 'query') =>
    (...args: unknown[]): unknown => {
      assertOwn()
      return (pool[method] as (...args: unknown[]) => unknown)(...args)
    }
  const members: Readonly<Record<string, unknown>> = {
    connect: guarded('connect'),
    query: guarded('query'),
    end: async () => undefined,
    // Errors of idle connections are the pool's to tell; a listener of each client would pile up there.
    on: own.on.bind(own),
    once: own.once.bind(own),
    off: own.off.bind(own),
    removeListener: own.removeListener.bind(own),
  }
  return new Proxy<pg.Pool>(pool, {
    get(target, member) {
      if (typeof member === 'string' && Object.hasOwn(members, member)) return members[member]
      const value: unknown = Reflect.get(target, member, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
    // A PrismaPg that knows another pg does not see a pool here, and copies what it takes for settings of a connection.
    ownKeys() {
      throw new TenancyError(
        'ERR_TENANCY_ISOLATION_UNSUPPORTED',
        'The adapter does not recognise the pool: it has loaded another copy of pg.',
        { hint: 'Deduplicate pg (npm dedupe, pnpm dedupe).' },
      )
    },
  })
}
