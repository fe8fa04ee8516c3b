import { TenancyError } from '@partywall/core'
import type { TenantPool, TransactionQuery } from '@partywall/postgres'
import type * as KyselyModule from 'kysely'
import type { Kysely } from 'kysely'

/** The optional peer, or the error to throw where it is needed. */
export type KyselyPeer = typeof KyselyModule | TenancyError

/** A Kysely over the pool. Its `destroy` is refused. */
export function createTenantKysely(peer: KyselyPeer, pool: TenantPool): Kysely<any> {
  if (TenancyError.is(peer)) return refusing(peer)
  const view = {
    options: pool.options,
    connect: () => pool.connect(),
    end: () => Promise.resolve(),
  }
  const db = new peer.Kysely({
    dialect: new peer.PostgresDialect({ pool: view }),
  })
  // It is that of all tenants: destroyed by one, it would be gone for the others.
  const keep = (): Promise<never> =>
    Promise.reject(
      new TenancyError(
        'ERR_TENANCY_CONTEXT_LOCKED',
        'This Kysely serves every tenant and is not destroyed; it closes with the wall.',
      ),
    )
  return Object.defineProperties(db, {
    destroy: { value: keep },
    [Symbol.asyncDispose]: { value: () => Promise.resolve() },
  })
}

/** A Kysely inside a transaction that somebody else commits. */
export function createTransactionKysely(peer: KyselyPeer, query: TransactionQuery): Kysely<any> {
  if (TenancyError.is(peer)) return refusing(peer)
  const client = { query, release: () => undefined }
  const view = {
    options: {},
    connect: () => Promise.resolve(client),
    end: () => Promise.resolve(),
  }
  class InsideTransaction extends peer.PostgresDriver {
    override beginTransaction(): Promise<void> {
      // Its COMMIT would be that of the transaction around it.
      return Promise.reject(
        new Error('A seed runs in a transaction already; use its db without another one.'),
      )
    }
  }
  return new peer.Kysely({
    dialect: {
      createAdapter: () => new peer.PostgresAdapter(),
      createDriver: () => new InsideTransaction({ pool: view }),
      createIntrospector: (db: Kysely<any>) => new peer.PostgresIntrospector(db),
      createQueryCompiler: () => new peer.PostgresQueryCompiler(),
    },
  })
}

/** Stands in for a Kysely that is not installed, so that only those who use it hear of it. */
function refusing(error: TenancyError): Kysely<any> {
  return new Proxy(Object.freeze({}), {
    get(_, member) {
      // An await of the object, and inspection, are no use of it.
      if (typeof member === 'symbol' || member === 'then') return undefined
      throw error
    },
  }) as Kysely<any>
}
