import { definePlugin } from 'partywall'
import type { Database } from './tables.ts'

export interface NewOrder {
  readonly item: string
  readonly quantity: number
}

export interface Order extends NewOrder {
  readonly id: string
}

export interface Summary {
  readonly orders: number
  readonly pieces: number
}

const SUMMARY = 'summary'
const SUMMARY_TTL_MS = 60_000

export default definePlugin<Database>({
  name: 'orders',
  version: '1.0.0',
  migrations: new URL('../migrations/', import.meta.url),
  requires: ['orders', 'orders.quantity', 'daily_reports'],

  async seed({ db }) {
    await db.insertInto('orders').values({ item: 'welcome mat', quantity: 1 }).execute()
  },

  actions: {
    list(_: undefined, { db }): Promise<Order[]> {
      return db.selectFrom('orders').select(['id', 'item', 'quantity']).orderBy('id').execute()
    },

    async create({ item, quantity }: NewOrder, { db, cache, events, log }): Promise<Order> {
      const order = await db
        .insertInto('orders')
        .values({ item, quantity })
        .returning(['id', 'item', 'quantity'])
        .executeTakeFirstOrThrow()
      await cache.delete(SUMMARY)
      await events.emit('orders:created', order)
      log.debug('An order came in.', { id: order.id })
      return order
    },

    summary(_: undefined, { db, cache }): Promise<Summary> {
      return cache.remember(SUMMARY, SUMMARY_TTL_MS, () =>
        db
          .selectFrom('orders')
          .select(({ fn }) => [
            fn.countAll<string>().as('orders'),
            fn.sum<string | null>('quantity').as('pieces'),
          ])
          .executeTakeFirstOrThrow()
          .then(({ orders, pieces }) => ({ orders: Number(orders), pieces: Number(pieces) })),
      )
    },
  },

  jobs: {
    /** Writes down what the day has brought so far. Safe to repeat. */
    async dailyReport(_: undefined, { db, plugins }) {
      const { orders, pieces } = await plugins.call<Summary>('orders', 'summary')
      const day = new Date().toISOString().slice(0, 10)
      await db
        .insertInto('daily_reports')
        .values({ day, orders, pieces })
        .onConflict((conflict) => conflict.column('day').doUpdateSet({ orders, pieces }))
        .execute()
    },
  },

  schedules: {
    nightly: { job: 'dailyReport', cron: '55 23 * * *' },
  },
})
