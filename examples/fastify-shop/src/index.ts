import orders, { type NewOrder } from '@partywall/example-plugin-orders'
import fastify, { type FastifyInstance } from 'fastify'
import { createPartywall, type Partywall, type PartywallConfig } from 'partywall'

export interface Shop {
  readonly app: FastifyInstance
  readonly wall: Partywall
  /** Begins to serve on a free port, or on `port`, and resolves to the address. */
  listen(port?: number): Promise<string>
  close(): Promise<void>
}

const NEW_ORDER = {
  type: 'object',
  required: ['item', 'quantity'],
  properties: {
    item: { type: 'string', minLength: 1 },
    quantity: { type: 'integer', minimum: 1, maximum: 2 ** 31 - 1 },
  },
}

/** A shop whose orders are those of whoever is asked for: by header, by subdomain, or by default. */
export async function createShop(config: PartywallConfig): Promise<Shop> {
  const wall = await createPartywall({ ...config, plugins: [orders] })
  const app = fastify()
  await app.register(wall.fastify())

  // Asks for no tenant, and reaches no tenant's data.
  app.get('/health', { config: { tenancy: 'central' } }, async () => ({ status: 'ok' }))

  app.get('/whoami', async (request) => ({
    tenant: request.tenant?.id,
    source: request.tenancy?.source,
  }))
  app.get('/orders', async () => wall.plugins.call('orders', 'list'))
  app.get('/orders/summary', async () => wall.plugins.call('orders', 'summary'))
  app.post<{ Body: NewOrder }>(
    '/orders',
    { schema: { body: NEW_ORDER } },
    async ({ body: { item, quantity } }, reply) => {
      reply.code(201)
      return wall.plugins.call('orders', 'create', { item, quantity })
    },
  )

  return {
    app,
    wall,
    listen: (port = 0) => app.listen({ port, host: '127.0.0.1' }),
    async close() {
      // The server first: what it still serves needs the wall.
      await app.close()
      await wall.close()
    },
  }
}
