import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import orders, { type NewOrder } from '@partywall/example-plugin-orders'
import express, { type Express } from 'express'
import { createPartywall, type Partywall, type PartywallConfig } from 'partywall'

export interface Shop {
  readonly app: Express
  readonly wall: Partywall
  /** Begins to serve on a free port, or on `port`, and resolves to the address. */
  listen(port?: number): Promise<string>
  close(): Promise<void>
}

/** A shop whose orders are those of whoever is asked for: by header, by subdomain, or by default. */
export async function createShop(config: PartywallConfig): Promise<Shop> {
  const wall = await createPartywall({ ...config, plugins: [orders] })
  const app = express()

  // Before the wall: asks for no tenant, and reaches no tenant's data.
  app.get('/health', (_req, res) => {
    res.json({ status: 'ok' })
  })

  app.use(wall.express())
  app.use(express.json())

  app.get('/whoami', (req, res) => {
    res.json({ tenant: req.tenant?.id, source: req.tenancy?.source })
  })
  app.get('/orders', async (_req, res) => {
    res.json(await wall.plugins.call('orders', 'list'))
  })
  app.get('/orders/summary', async (_req, res) => {
    res.json(await wall.plugins.call('orders', 'summary'))
  })
  app.post('/orders', async (req, res) => {
    const { item, quantity } = (req.body ?? {}) as Partial<NewOrder>
    if (typeof item !== 'string' || item === '' || !isQuantity(quantity)) {
      res.status(400).json({ error: 'An order has an item and a quantity of at least 1.' })
      return
    }
    res.status(201).json(await wall.plugins.call('orders', 'create', { item, quantity }))
  })

  app.use(wall.expressErrorHandler())

  let server: ReturnType<Express['listen']> | undefined
  return {
    app,
    wall,
    async listen(port = 0) {
      server = app.listen(port, '127.0.0.1')
      await once(server, 'listening')
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    },
    async close() {
      // The server first: what it still serves needs the wall.
      if (server !== undefined) await new Promise((resolve) => server?.close(resolve))
      await wall.close()
    },
  }
}

function isQuantity(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0 && (value as number) < 2 ** 31
}
