import Fastify from 'fastify'
import { createTenancy, header, subdomain, memoryTenantStore } from '@partywall/core'
import { tenancyPlugin } from './src/index.ts'
import { FastifyTenancyRequest } from './src/internal/fastify-tenancy-request.ts'
import { fork } from 'node:child_process'
import http from 'node:http'
const tenancy = createTenancy({ store: memoryTenantStore([{id:'acme'},{id:'globex'}]), resolve: [header('X-Tenant-ID'), subdomain({of:'x.io'})], authorize: () => true })
const variants: Record<string, (f: any) => Promise<void>> = {
  bare: async () => {},
  noop: async (f) => { f.addHook('onRequest', (_q: any, _r: any, d: any) => d()) },
  routeOptions: async (f) => { f.addHook('onRequest', (q: any, _r: any, d: any) => { q.routeOptions.config; d() }) },
  resolve: async (f) => { f.addHook('onRequest', (q: any, _r: any, d: any) => { const s = tenancy.resolve(new FastifyTenancyRequest(q), {requestId: q.id}); if (s instanceof Promise) s.then(() => d()); else d() }) },
  vary: async (f) => { f.addHook('onRequest', (_q: any, r: any, d: any) => { r.header('vary', 'X-Tenant-ID, Host'); d() }) },
  run: async (f) => { f.addHook('onRequest', (q: any, _r: any, d: any) => { const s = tenancy.resolve(new FastifyTenancyRequest(q), {requestId: q.id}); if (s instanceof Promise) s.then((s2: any) => tenancy.run(s2, () => d())); else tenancy.run(s as any, () => d()) }) },
  runvary: async (f) => { f.addHook('onRequest', (q: any, r: any, d: any) => { r.header('vary', 'X'); const s = tenancy.resolve(new FastifyTenancyRequest(q), {requestId: q.id}); if (s instanceof Promise) s.then((s2: any) => tenancy.run(s2, () => d())); else tenancy.run(s as any, () => d()) }) },
  bindplain: async (f) => { const B = Symbol(); function eb(this: any, ...a: any[]) { return this[B].emit.apply(this, a) }; f.addHook('onRequest', (q: any, r: any, d: any) => { for (const e of [q.raw, r.raw]) { e[B] = { emit: e.emit }; e.emit = eb }; d() }) },
  bindname: async (f) => { const B = Symbol(); function eb(this: any, n: any, ...a: any[]) { counts[n] = (counts[n] ?? 0) + 1; return this[B].emit.call(this, n, ...a) }; f.addHook('onRequest', (q: any, r: any, d: any) => { for (const e of [q.raw, r.raw]) { e[B] = { emit: e.emit }; e.emit = eb }; d() }) },
  bindcur: async (f) => { const B = Symbol(); function eb(this: any, ...a: any[]) { tenancy.context.current(); return this[B].emit.apply(this, a) }; f.addHook('onRequest', (q: any, r: any, d: any) => { for (const e of [q.raw, r.raw]) { e[B] = { emit: e.emit }; e.emit = eb }; d() }) },
  full: async (f) => { await f.register(tenancyPlugin, { tenancy }) },
}
const counts: any = {}
const servers: any = {}
for (const [k, v] of Object.entries(variants)) { const f = Fastify(); await v(f); f.get('/', (_r, reply) => { reply.send({ ok: true }) }); await f.listen({port:0, host:'127.0.0.1'}); servers[k] = (f.server.address() as any).port }
if (process.argv[2] === undefined) {
  const child = fork('/tmp/exp/load.mjs', [], { execArgv: [] })
  const ask = (port: number, n: number) => new Promise<void>((ok) => { child.once('message', () => ok()); child.send({ port, n }) })
  const res: Record<string, number[]> = {}
  const only = (process.env.ONLY ?? "").split(","); for (let r = 0; r < 40; r++) for (const k of Object.keys(servers).filter((k) => only.includes(k)).sort(() => Math.random() - .5)) {
    const c = process.cpuUsage(); await ask(servers[k], 1500); const d = process.cpuUsage(c); if (r > 2) (res[k] ??= []).push((d.user + d.system) / 1500)
  }
  const med = (a: number[]) => a.sort((x, y) => x - y)[Math.floor(a.length / 2)]!
  for (const k of Object.keys(servers).filter((k) => only.includes(k))) console.log(k.padEnd(14), med(res[k]!).toFixed(1), 'us cpu/request', (med(res['bare']!) / med(res[k]!)).toFixed(3))
  child.kill()
}
console.log(counts); process.exit(0)
