/**
 * Two shops, three tenants, one Postgres: shows that a plugin which never heard of tenants keeps them apart. `pnpm demo`, or `pnpm demo --serve` to play with it.
 *
 * Ends with 0 if no tenant saw a row of another and every attempt to cross the wall failed, with 1 otherwise.
 */
import { parseArgs, styleText } from 'node:util'
import { createShop as createExpressShop } from '@partywall/example-express-shop'
import { createShop as createFastifyShop } from '@partywall/example-fastify-shop'
import { type PartywallConfig, TenancyError, type TenantConfig } from 'partywall'
import { type CanaryRow, canary, canaryQuantity, foreignRows } from './canary.ts'
import { type Crossing, crossByHttp, crossBySql } from './crossings.ts'
import { call, closeConnections } from './http.ts'
import { startDatabase } from './servers.ts'
import { heading, progress, step, table } from './terminal.ts'
import { type Door, runTraffic } from './traffic.ts'

const CONNECTIONS = 4
const SEEDS: Readonly<Record<string, readonly string[]>> = {
  acme: ['anvil', 'rocket skates'],
  globex: ['hammock', 'hard hat', 'stapler'],
  main: ['door'],
}
const TENANTS = Object.keys(SEEDS)

const { values: flags } = parseArgs({
  options: { serve: { type: 'boolean' }, requests: { type: 'string', default: '5000' } },
})
const requests = Number(flags.requests)
if (!Number.isSafeInteger(requests) || requests < 1)
  throw new Error(`--requests takes a whole number of at least 1, got ${flags.requests}.`)

const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => interrupted.abort(new Error('Interrupted.')))

/** What to stop, the last first. */
const started: (() => Promise<void>)[] = []

process.exitCode = await main().catch((error: unknown) => {
  if (interrupted.signal.aborted) return 130
  console.error(error)
  return 1
})
await stopAll()

async function main(): Promise<number> {
  const { signal } = interrupted
  heading('Starting')
  const database = await step(
    'Postgres',
    () => startDatabase(process.env['DATABASE_URL']),
    ({ about }) => about,
  )
  started.push(() => database.stop())
  signal.throwIfAborted()
  const redisUrl = process.env['REDIS_URL'] || undefined
  console.log(`  Cache: ${redisUrl === undefined ? 'memory' : 'Redis'}`)

  const config: PartywallConfig = {
    tenancy: {
      header: 'X-Tenant-ID',
      subdomain: true,
      defaultTenant: 'main',
      // Here anybody may be anybody. An application asks its users' memberships.
      authorize: () => true,
    },
    database: { url: database.url, max: CONNECTIONS },
    redis: { url: redisUrl },
    tenants: TENANTS.map(tenantConfig),
    log: () => undefined,
  }
  const { defaultTenant: _, ...withoutDefault } = config.tenancy ?? {}
  const { express, fastify, strict } = await step(
    'Tenants and shops',
    async () => ({
      express: await open(createExpressShop(config)),
      fastify: await open(createFastifyShop(config)),
      strict: await open(createExpressShop({ ...config, tenancy: withoutDefault })),
    }),
    () => `${TENANTS.join(', ')}; each has a schema, migrations and seeds of its own`,
  )
  signal.throwIfAborted()
  const doors = [...doorsOf('Express', express.address), ...doorsOf('Fastify', fastify.address)]

  heading('Who sees what: GET /orders')
  let foreign = 0
  const seen = await Promise.all(
    doors.map(async ({ app, address, tenantId, by, headers }) => {
      const rows = (await call(address, '/orders', { headers })).body as CanaryRow[]
      foreign += foreignRows(rows, tenantId).length
      const items = rows.map(({ item }) => item.slice(canary(tenantId, '').length))
      return [app, by, tenantId, items.join(', ')]
    }),
  )
  table([['app', 'asked by', 'tenant', 'orders'], ...seen])

  heading('Trying to cross the wall')
  const crossings: Crossing[] = [
    ...(await crossByHttp(express.address, strict.address)),
    await crossBySql(express.shop.wall, CONNECTIONS),
  ]
  table([
    ['attempt', 'answer', ''],
    ...crossings.map(({ attempt, answer, held }) => [attempt, answer, held ? 'held' : 'CROSSED']),
  ])
  console.log(
    `  ${styleText('dim', 'Not stopped yet: SQL that is written to leave (globex.orders, or a search_path set in the same text or transaction). A pool with a role for each tenant does.')}`,
  )

  heading(
    `${requests.toLocaleString('en')} interleaved requests, ${CONNECTIONS} connections per shop`,
  )
  const bar = progress('Traffic')
  const before = await countRows(express.address)
  const traffic = await runTraffic({
    doors,
    requests,
    concurrency: 24,
    signal,
    onProgress: (done, rows) => bar.update(done, `${rows.toLocaleString('en')} rows checked`),
  })
  signal.throwIfAborted()
  bar.end(`${traffic.rowsRead.toLocaleString('en')} rows checked`)
  foreign += traffic.foreign

  const problems = [
    ...traffic.failures.slice(0, 5),
    ...crossings.filter(({ held }) => !held).map(({ attempt }) => `Crossed: ${attempt}.`),
  ]
  const after = await countRows(express.address)
  for (const tenantId of TENANTS) {
    // No foreign rows is easy to have with no rows at all.
    const expected = (before.get(tenantId) ?? 0) + (traffic.created.get(tenantId) ?? 0)
    if (after.get(tenantId) !== expected)
      problems.push(`${tenantId} has ${after.get(tenantId)} orders, and should have ${expected}.`)
  }
  for (const problem of problems) console.log(`  ${styleText('red', problem)}`)
  const verdict = `foreign rows: ${foreign}`
  console.log(`  ${styleText(foreign === 0 ? 'green' : 'red', verdict)}`)
  const code = foreign === 0 && problems.length === 0 ? 0 : 1
  if (flags.serve !== true) return code

  heading('Open until Ctrl-C')
  const { port } = new URL(express.address)
  for (const line of [
    `curl -H 'X-Tenant-ID: acme' ${express.address}/orders`,
    `curl http://globex.localhost:${port}/orders`,
    `curl ${fastify.address}/orders/summary`,
    `curl -H 'X-Tenant-ID: acme' -H 'Content-Type: application/json' -d '{"item":"magnet","quantity":2}' ${fastify.address}/orders`,
    `curl -i -H 'X-Tenant-ID: initech' ${fastify.address}/orders`,
  ])
    console.log(`  ${line}`)
  // Listening to a signal does not keep a process alive; the servers do.
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
  return code
}

function tenantConfig(id: string): TenantConfig {
  return {
    id,
    async seed({ db, plugins }) {
      // What the plugin's own seed made gets a canary as well, so that there is none without.
      const quantity = canaryQuantity(id, TENANTS)
      await db
        .updateTable('orders')
        .set({ item: canary(id, 'welcome mat'), quantity })
        .execute()
      for (const item of SEEDS[id] ?? [])
        await plugins.call('orders', 'create', { item: canary(id, item), quantity })
    },
  }
}

async function open<
  S extends Awaited<ReturnType<typeof createExpressShop | typeof createFastifyShop>>,
>(creation: Promise<S>): Promise<{ shop: S; address: string }> {
  const shop = await creation
  started.push(async () => {
    // With a Redis that others use too, nothing of ours stays.
    for (const id of TENANTS)
      await shop.wall.run(id, () => shop.wall.cache.delete('orders:summary'))
    await shop.close()
  })
  return { shop, address: await shop.listen() }
}

function doorsOf(app: string, address: string): Door[] {
  const { port } = new URL(address)
  return [
    ...TENANTS.map((id) => ({
      by: 'header',
      tenantId: id,
      headers: { 'X-Tenant-ID': id } as Record<string, string>,
    })),
    ...TENANTS.map((id) => ({
      by: `${id}.localhost`,
      tenantId: id,
      headers: { Host: `${id}.localhost:${port}` },
    })),
    { by: 'default', tenantId: 'main', headers: {} },
  ].map((door) => ({ app, address, quantity: canaryQuantity(door.tenantId, TENANTS), ...door }))
}

async function countRows(address: string): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  for (const id of TENANTS) {
    const { body } = await call(address, '/orders', { headers: { 'X-Tenant-ID': id } })
    counts.set(id, (body as CanaryRow[]).length)
  }
  return counts
}

async function stopAll(): Promise<void> {
  closeConnections()
  for (const stop of started.splice(0).reverse())
    await stop().catch((error: unknown) => {
      process.exitCode = 1
      console.error(TenancyError.is(error) ? error.message : error)
    })
}
