import { AsyncLocalStorage } from 'node:async_hooks'
import { createTenancy, memoryTenantStore, type TenancyEvents } from '@partywall/core'
import { canary, eventually, foreignCanaries, seededRandom } from '@partywall/test-support'
import { Pipeline, Redis, type RedisOptions } from 'ioredis'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type AclOracle, createAclOracle } from './acl-oracle.test-suite.ts'
import { TenantRedis } from './tenant-redis.ts'

/** ioredis types some replies as `{}`. */
const first = (reply: unknown): unknown => (reply as unknown[] | null)?.[0]

/** `multi` inside of a pipeline works, and is not in the types of ioredis: there EXEC is one more command. */
interface Nested {
  set(key: string, value: string): Nested
  get(key: string): Nested
  dbsize(): Nested
  exec(): Nested & Promise<unknown[][] | null>
}
const nested = (pipeline: object): Nested => (pipeline as { multi(): unknown }).multi() as Nested

const TENANTS = ['acme', 'globex'] as const
const tenancy = createTenancy({ store: memoryTenantStore(TENANTS.map((id) => ({ id }))) })
const inAcme = <T>(fn: () => T) => tenancy.run('acme', fn)
const inGlobex = <T>(fn: () => T) => tenancy.run('globex', fn)
const refused = expect.objectContaining({ code: 'ERR_TENANCY_REDIS_COMMAND_REFUSED' })
const missing = expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_MISSING' })
const locked = expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_LOCKED' })
const optionInvalid = expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' })

let oracle: AclOracle
let clients: TenantRedis[] = []
beforeAll(async () => {
  oracle = await createAclOracle(...TENANTS)
})
beforeEach(() => oracle.server.flush())
afterEach(async () => {
  for (const client of clients) client.disconnect()
  clients = []
  // The server's own verdict on everything that the test sent.
  expect(await oracle.violations()).toEqual([])
})
afterAll(() => oracle[Symbol.asyncDispose]())

function connect(options: RedisOptions = {}): TenantRedis {
  const redis = new TenantRedis(tenancy, oracle.url, options)
  // Some tests cut the connection.
  redis.on('error', () => {})
  clients.push(redis)
  return redis
}

/** Every key on the server, as the server sees it. */
const wireKeys = async () => (await oracle.server.redis.keys('*')).sort()

/** What the server receives from others while `fn` runs. */
async function received(fn: () => Promise<unknown>): Promise<string[]> {
  const monitor = await oracle.server.redis.monitor()
  const seen: string[] = []
  monitor.on('monitor', (_time: string, args: string[]) => seen.push(args.join(' ')))
  await fn()
  await oracle.server.redis.echo('end of the recording')
  await eventually(() => seen.includes('echo end of the recording'))
  monitor.disconnect()
  return seen.slice(0, -1)
}

describe.each([
  { enableAutoPipelining: false, protocol: 3 },
  { enableAutoPipelining: true, protocol: 3 },
  { enableAutoPipelining: false, protocol: 2 },
] as const)('commands, %o', (options) => {
  let redis: TenantRedis
  beforeEach(() => {
    redis = connect(options)
  })

  test('the same key in two tenants is two keys, by promise, callback, call and Buffer', async () => {
    for (const id of TENANTS)
      await tenancy.run(id, async () => {
        await redis.set('k', canary(id, 1))
        await redis.call('SET', 'called', canary(id, 2))
        await redis.set(Buffer.from('binary'), Buffer.from(canary(id, 3)))
        await new Promise((resolve) => void redis.set('callback', canary(id, 4), resolve))
      })
    for (const id of TENANTS)
      await tenancy.run(id, async () => {
        const values = [
          await redis.get('k'),
          await redis.call('get', ['called']),
          String(await redis.getBuffer(Buffer.from('binary'))),
          await new Promise(
            (resolve) => void redis.get('callback', (_error, value) => resolve(value)),
          ),
        ]
        expect(values).toEqual([1, 2, 3, 4].map((n) => canary(id, n)))
        expect(foreignCanaries(values, id)).toEqual([])
      })
    expect(await wireKeys()).toEqual(
      TENANTS.flatMap((id) => ['binary', 'callback', 'called', 'k'].map((key) => `${id}:${key}`)),
    )
  })

  test('calls of two tenants in one tick each keep their own', async () => {
    const acme = await inAcme((scope = tenancy.require()) => scope)
    const globex = await inGlobex((scope = tenancy.require()) => scope)
    const random = seededRandom()
    const calls = Array.from({ length: 2_000 }, (_, n) => {
      const scope = random.pick([acme, globex])
      const { id } = scope.tenant
      return tenancy.run(scope, async () => {
        const key = `k${n % 50}`
        if (random.next() < 0.5) await redis.set(key, canary(id, n))
        const value = await redis.get(key)
        const listed = await redis.mget(key, 'k0', 'k1')
        expect(foreignCanaries([value, listed], id)).toEqual([])
        return tenancy.require().tenant.id === id
      })
    })
    expect((await Promise.all(calls)).every(Boolean)).toBe(true)
    expect((await wireKeys()).every((key) => /^(acme|globex):k\d+$/.test(key))).toBe(true)
  })

  test('K4 key names in replies come back in tenant form', () =>
    inAcme(async () => {
      await redis.rpush('list', 'a', 'b', 'c', 'd', 'e')
      expect(await redis.blpop('none', 'list', 1)).toEqual(['list', 'a'])
      expect(await redis.brpop(['list'], 1)).toEqual(['list', 'e'])
      expect(await redis.lmpop(1, 'list', 'LEFT')).toEqual(['list', ['b']])
      expect(await redis.blmpop(1, 1, 'list', 'LEFT')).toEqual(['list', ['c']])
      const [listName] = (await redis.blpopBuffer('list', 1)) ?? []
      expect(listName).toEqual(Buffer.from('list'))
      await redis.zadd('zset', 1, 'a', 2, 'b', 3, 'c', 4, 'd')
      expect((await redis.bzpopmin('zset', 1))?.[0]).toBe('zset')
      expect((await redis.bzpopmax('zset', 1))?.[0]).toBe('zset')
      expect(first(await redis.zmpop(1, 'zset', 'MIN'))).toBe('zset')
      expect(first(await redis.bzmpop(1, 1, 'zset', 'MAX'))).toBe('zset')
      await redis.xadd('stream', '1-1', 'f', 'v')
      expect(await redis.xread('STREAMS', 'stream', '0')).toEqual([
        ['stream', [['1-1', ['f', 'v']]]],
      ])
      await redis.xgroup('CREATE', 'stream', 'STREAMS', '0')
      const group = await redis.xreadgroup('GROUP', 'STREAMS', 'STREAMS', 'STREAMS', 'stream', '>')
      expect(group).toEqual([['stream', [['1-1', ['f', 'v']]]]])
      expect(await redis.blpop('none', 0.01)).toBeNull()
      expect(await redis.randomkey()).toBe('stream')
      expect(await redis.keys('*')).toEqual(['stream'])
      expect(await redis.keysBuffer('s*')).toEqual([Buffer.from('stream')])
    }))

  test('KEYS, SCAN, DBSIZE, RANDOMKEY and FLUSHDB act within the tenant', async () => {
    for (const id of TENANTS)
      await tenancy.run(id, async () => {
        for (let n = 0; n < 30; n++) await redis.set(`k${n}`, canary(id, n))
        await redis.set(`only-${id}`, '1')
      })
    await inAcme(async () => {
      expect(await redis.dbsize()).toBe(31)
      expect(await redis.call('DBSIZE')).toBe(31)
      expect(await redis.keys('only-*')).toEqual(['only-acme'])
      expect(await redis.keys('globex:*')).toEqual([])
      const streamed: string[] = []
      for await (const keys of redis.scanStream({ count: 5 })) streamed.push(...keys)
      expect([...new Set(streamed)].sort()).toEqual((await redis.keys('*')).sort())
      const matched: Buffer[] = []
      for await (const keys of redis.scanBufferStream({ match: 'only-*' })) matched.push(...keys)
      expect(matched).toEqual([Buffer.from('only-acme')])
      for (let n = 0; n < 20; n++) expect(await redis.randomkey()).toMatch(/^(k\d+|only-acme)$/)
      expect(await redis.flushdb()).toBe('OK')
      expect(await redis.dbsize()).toBe(0)
      expect(await redis.randomkey()).toBeNull()
      await new Promise<void>((resolve) => void redis.flushdb('SYNC', () => resolve()))
      await expect(redis.flushdb('NOW' as 'SYNC')).rejects.toEqual(refused)
    })
    expect(await inGlobex(() => redis.dbsize())).toBe(31)
  })

  test('SORT with foreign patterns and destination stays inside', async () => {
    // The server lets only those SORT by patterns who may read every key, so the oracle cannot watch this one.
    redis = new TenantRedis(tenancy, oracle.server.url, options)
    clients.push(redis)
    await inGlobex(() => redis.mset('w_1', '9', 'o_1', canary('globex', 1)))
    await inAcme(async () => {
      await redis.rpush('list', '2', '1')
      await redis.mset('w_1', '5', 'w_2', '1', 'o_1', 'one', 'o_2', 'two')
      const args = ['list', 'BY', 'w_*', 'GET', 'o_*', 'GET', '#']
      expect(await redis.call('sort', ...args)).toEqual(['two', '2', 'one', '1'])
      await redis.call('sort', ...[...args, 'STORE', 'globex:list'].map((arg) => Buffer.from(arg)))
    })
    expect(await wireKeys()).toContain('acme:globex:list')
  })

  test('pipelines: each command is of its tenant, replies and errors in their places', async () => {
    await inGlobex(() => redis.set('k', canary('globex', 1)))
    await inAcme(async () => {
      const results = await redis
        .pipeline([['set', 'batch', '1']])
        .set('k', canary('acme', 1))
        .get('k')
        .call('CONFIG', 'GET', '*')
        .incr('k')
        .keys('*')
        .exec()
      expect(results?.map(([error]) => error?.message.slice(0, 8) ?? null)).toEqual([
        null,
        null,
        null,
        '"CONFIG"',
        'ERR valu',
        null,
      ])
      expect(results?.[2]?.[1]).toBe(canary('acme', 1))
      expect(((results?.[5]?.[1] ?? []) as string[]).sort()).toEqual(['batch', 'k'])
    })
  })

  test('transactions: keys, replies and errors are those of the tenant', () =>
    inAcme(async () => {
      await redis.xadd('stream', '1-1', 'f', 'v')
      const results = await redis
        .multi([['rpush', 'list', 'a']])
        .lmpop(1, 'list', 'LEFT')
        .xread('STREAMS', 'stream', '0')
        .eval('return redis.error_reply("no " .. KEYS[1])', 1, 'key')
        .keys('*')
        .exec()
      expect(results?.slice(0, 3)).toEqual([
        [null, 1],
        [null, ['list', ['a']]],
        [null, [['stream', [['1-1', ['f', 'v']]]]]],
      ])
      expect(results?.[3]?.[0]?.message).toMatch(/no key/)
      expect(results?.[4]).toEqual([null, ['stream']])
      const inner = await nested(redis.pipeline()).set('a', '1').exec().get('a').exec()
      expect(inner?.at(-1)).toEqual([null, '1'])
    }))

  test('a refused command discards its whole transaction, and nothing of it is sent', () =>
    inAcme(async () => {
      const seen = await received(async () => {
        const callback = Promise.withResolvers<unknown>()
        const transaction = redis.multi().set('a', '1', callback.resolve).call('FLUSHALL')
        await expect(transaction.set('b', '1').exec()).rejects.toEqual(refused)
        expect(await callback.promise).toEqual(refused)
        await expect(nested(redis.pipeline()).set('a', '1').dbsize().exec().exec()).rejects.toEqual(
          refused,
        )
      })
      expect(seen.filter((line) => /set|multi|flushall/i.test(line))).toEqual([])
      expect(await redis.get('a')).toBeNull()
      const error = Promise.withResolvers<unknown>()
      void redis.multi().select(1).exec(error.resolve)
      expect(await error.promise).toEqual(refused)
    }))

  test('scripts: declared keys are those of the caller, also after a NOSCRIPT', async () => {
    redis.defineCommand('put', {
      numberOfKeys: 1,
      lua: `redis.call('set', KEYS[1], ARGV[1]) return redis.call('get', KEYS[1])`,
    })
    const scripted = redis as unknown as Record<
      'put',
      (key: string, value: string) => Promise<string>
    >
    for (const round of [1, 2, 3]) {
      for (const id of TENANTS)
        await tenancy.run(id, async () => {
          expect(await scripted.put('k', canary(id, round))).toBe(canary(id, round))
          const sent = redis.pipeline() as unknown as {
            put(key: string, value: string): { exec(): Promise<unknown> }
          }
          expect(await sent.put('l', canary(id, round)).exec()).toEqual([[null, canary(id, round)]])
        })
      await oracle.server.redis.script('FLUSH')
    }
    await inAcme(async () => {
      expect(await redis.eval('return KEYS', 2, 'a', 'b', 'c')).toEqual(['acme:a', 'acme:b'])
      const sha = (await redis.script('LOAD', 'return redis.call("get", KEYS[1])')) as string
      expect(await redis.evalsha(sha, 1, 'k')).toBe(canary('acme', 3))
    })
    expect(await wireKeys()).toEqual(['acme:k', 'acme:l', 'globex:k', 'globex:l'])
  })

  test('a script defined inside one tenant serves the others', async () => {
    await inAcme(() =>
      redis.defineCommand('mark', { numberOfKeys: 1, lua: `return redis.call('incr', KEYS[1])` }),
    )
    const scripted = redis as unknown as { mark(key: string): Promise<number> }
    expect(await inAcme(() => scripted.mark('n'))).toBe(1)
    expect(await inGlobex(() => scripted.mark('n'))).toBe(1)
  })

  test('errors name keys as the caller wrote them', () =>
    inAcme(async () => {
      await redis.set('text', 'x')
      const failing = redis.xreadgroup('GROUP', 'g', 'c', 'STREAMS', 'stream', '>')
      const error = await failing.catch((reason: unknown) => reason)
      expect(error).toMatchObject({
        message: expect.stringContaining("No such key 'stream'"),
        command: { args: ['GROUP', 'g', 'c', 'STREAMS', 'stream', '>'] },
      })
      await expect(redis.incr('text')).rejects.toMatchObject({ command: { args: ['text'] } })
    }))

  test('no tenant: everything is rejected and no command of it is sent', async () => {
    await inAcme(() => redis.ping())
    const seen = await received(async () => {
      for (const call of [
        () => redis.get('k'),
        () => redis.call('GET', 'k'),
        () => redis.dbsize(),
        () => redis.info(),
        () => redis.select(1),
        () => redis.eval('return 1', 0),
        () => tenancy.central('test', () => redis.get('k')),
        () => redis.multi().set('k', '1').exec(),
      ])
        await expect(call()).rejects.toEqual(missing)
      const inPipeline = await redis
        .pipeline()
        .set('k', '1')
        .exec()
        .catch((error) => error)
      expect(inPipeline).toEqual([[missing]])
      const error = await new Promise((resolve) => void redis.get('k', resolve))
      expect(error).toEqual(missing)
    })
    expect(seen.filter((line) => line !== 'ping')).toEqual([])
  })

  test('refused commands are rejected with the reason and leave the replies of others in place', () =>
    inAcme(async () => {
      await redis.set('k', canary('acme', 1))
      const calls = [
        'FLUSHALL',
        'SWAPDB',
        'SELECT',
        'MOVE',
        'CONFIG',
        'MONITOR',
        'NO.SUCH',
        'WATCH',
      ]
      const settled = await Promise.allSettled(
        calls.flatMap((name) => [redis.get('k'), redis.call(name, 'k', '1')]),
      )
      for (const [index, result] of settled.entries())
        expect(result).toEqual(
          index % 2 === 0
            ? { status: 'fulfilled', value: canary('acme', 1) }
            : { status: 'rejected', reason: refused },
        )
      await expect(redis.publish('channel', 'x')).rejects.toThrow(/Channels/)
      await expect(redis.subscribe('channel')).rejects.toThrow(/Channels/)
      await expect(redis.monitor()).rejects.toEqual(refused)
      await expect(redis.multi({ pipeline: false })).rejects.toEqual(refused)
      await expect(redis.exec()).rejects.toEqual(refused)
      await expect(redis.call('MULTI')).rejects.toEqual(refused)
      await expect(redis.call(Buffer.from('FLUSHALL') as never)).rejects.toEqual(refused)
      await expect(redis.georadius('k', 1, 2, 3, 'm', 'STORE', 'a', 'BAD', 'b')).rejects.toEqual(
        refused,
      )
      expect(await redis.get('k')).toBe(canary('acme', 1))
    }))

  test('reconnecting: commands in flight and in the queue keep their tenant, once', async () => {
    await inAcme(() => redis.set('k', canary('acme', 1)))
    await inGlobex(() => redis.set('k', canary('globex', 1)))
    const waiting = inAcme(() => redis.blpop('list', 5))
    await eventually(async () => /blpop/.test(String(await oracle.server.redis.client('LIST'))))
    await oracle.server.redis.call('CLIENT', 'KILL', 'USER', 'tenants')
    const reads = [
      inGlobex(() => redis.get('k')),
      inAcme(() => redis.get('k')),
      inGlobex(() => redis.rpush('list', canary('globex', 2))),
      inAcme(() => redis.pipeline().get('k').exec()),
    ]
    await eventually(() => redis.status === 'ready')
    await oracle.server.redis.rpush('acme:list', canary('acme', 2))
    expect(await waiting).toEqual(['list', canary('acme', 2)])
    expect(await Promise.all(reads)).toEqual([
      canary('globex', 1),
      canary('acme', 1),
      1,
      [[null, canary('acme', 1)]],
    ])
    expect(await wireKeys()).toEqual(['acme:k', 'globex:k', 'globex:list'])
  })
})

describe('pipelines belong to a tenant', () => {
  test('sending it from elsewhere is refused, and nothing of it is sent', async () => {
    const redis = connect()
    const pipeline = await inAcme(() => ({ made: redis.pipeline().set('k', '1') }))
    await expect(inGlobex(() => pipeline.made.exec())).rejects.toEqual(locked)
    const other = await inAcme(() => ({ made: redis.multi().set('k', '1') }))
    await expect(other.made.exec()).rejects.toEqual(missing)
    const error = Promise.withResolvers<unknown>()
    await inGlobex(() => {
      void pipeline.made.exec(error.resolve)
    })
    expect(await error.promise).toEqual(locked)
    expect(await wireKeys()).toEqual([])
  })

  test('a command that another tenant adds is refused, the rest runs', async () => {
    const redis = connect()
    await inGlobex(() => redis.set('k', canary('globex', 1)))
    const pipeline = await inAcme(() => ({ made: redis.pipeline().set('k', canary('acme', 1)) }))
    await inGlobex(() => ({ made: pipeline.made.get('k') }))
    const results = await inAcme(() => pipeline.made.get('k').exec())
    expect(results).toEqual([[null, 'OK'], [locked], [null, canary('acme', 1)]])
  })

  test('a MULTI that ioredis does not count cannot be left open on the shared connection', async () => {
    const redis = connect()
    await inAcme(() => redis.pipeline().call('multi').set('k', '1').exec())
    await inAcme(() => redis.pipeline().call('MULTI').call('exec').discard().exec())
    expect(await inGlobex(() => redis.set('k', canary('globex', 1)))).toBe('OK')
    expect(await inGlobex(() => redis.get('k'))).toBe(canary('globex', 1))
  })

  test.each([
    ['outside', <T>(fn: () => T) => fn()],
    ['in another tenant', inGlobex],
  ])(
    'an EXEC that is added %s cannot leave the shared connection inside a transaction',
    async (_where, elsewhere) => {
      const redis = connect()
      const made = await inAcme(() => ({ pipeline: nested(redis.pipeline()).set('k', '1') }))
      await elsewhere(() => void made.pipeline.exec())
      await expect(inAcme(() => made.pipeline.exec())).rejects.toEqual(
        expect.objectContaining({ name: 'TenancyError' }),
      )
      expect(await inGlobex(() => redis.set('k', canary('globex', 1)))).toBe('OK')
      expect(await inGlobex(() => redis.get('k'))).toBe(canary('globex', 1))
      expect(await wireKeys()).toEqual(['globex:k'])
    },
  )

  test('a MULTI that is begun outside of a tenant never reaches the server', async () => {
    const redis = connect()
    const begun = redis.multi()
    await inAcme(() => begun.set('k', '1').exec())
    const inner = nested(redis.pipeline())
    await expect(inAcme(() => inner.set('l', '1').exec().exec())).rejects.toEqual(missing)
    expect(await inGlobex(() => redis.set('k', '1'))).toBe('OK')
    // multi() itself acts for nobody; the tenant is that of its first command.
    expect(await wireKeys()).toEqual(['acme:k', 'globex:k'])
  })

  test('a DISCARD inside a counted transaction leaves the connection clean', async () => {
    const redis = connect()
    await inAcme(() =>
      redis
        .multi()
        .set('k', '1')
        .discard()
        .exec()
        .catch(() => {}),
    )
    expect(await inGlobex(() => redis.get('k'))).toBeNull()
    expect(await wireKeys()).toEqual([])
  })

  test('a pipeline that the client did not make is refused command by command', async () => {
    const redis = connect()
    await inGlobex(() => redis.set('k', canary('globex', 1)))
    const plain = () => new Pipeline(redis) as unknown as ReturnType<Redis['pipeline']>
    const pipeline = plain()
    const results = await inAcme(() => pipeline.get('k').call('CONFIG', 'GET', '*').dbsize().exec())
    expect(results).toEqual([[refused], [refused], [refused]])
    const transaction = plain()
    await inAcme(() => nested(transaction).set('k', '1').exec().exec())
    expect(await inGlobex(() => redis.get('k'))).toBe(canary('globex', 1))
    expect(await wireKeys()).toEqual(['globex:k'])
  })

  test('a transaction with a refused command aborts on the server too, should it ever get there', async () => {
    const redis = connect()
    const made = await inAcme(() => ({ transaction: redis.multi().set('k', '1').call('FLUSHALL') }))
    // Past our own exec(): the first call adds the EXEC, the second sends.
    const send = () => Pipeline.prototype.exec.call(made.transaction)
    void send()
    const results = await send()
    expect(results?.map(([error, value]) => error?.message.split(' ')[0] ?? value)).toEqual([
      'OK',
      'QUEUED',
      '"FLUSHALL"',
      'EXECABORT',
    ])
    expect(await wireKeys()).toEqual([])
  })

  test('QUIT in a pipeline is refused', async () => {
    const redis = connect()
    expect(await inAcme(() => redis.pipeline().quit().exec())).toEqual([[refused]])
  })
})

describe('the client', () => {
  test('is a Redis, takes the arguments of one, and connects as one', async () => {
    const { hostname, port } = new URL(oracle.url)
    const login = { username: 'tenants', password: 'secret' }
    const all = [
      new TenantRedis(tenancy, Number(port), hostname, login),
      new TenantRedis(tenancy, { host: hostname, port: Number(port), ...login }),
      new TenantRedis(tenancy, oracle.url, undefined),
      new TenantRedis(tenancy, oracle.url, { lazyConnect: true }),
      new TenantRedis(tenancy, `${oracle.url}?lazyConnect=true`),
    ]
    clients.push(...all)
    expect(all.map((redis) => redis.status)).toEqual([
      'connecting',
      'connecting',
      'connecting',
      'wait',
      'wait',
    ])
    expect(all.map((redis) => Boolean(redis.options.lazyConnect))).toEqual([
      false,
      false,
      false,
      true,
      true,
    ])
    for (const redis of all) {
      expect(redis).toBeInstanceOf(Redis)
      expect(await inAcme(() => redis.set('k', '1'))).toBe('OK')
    }
  })

  test.each([2, 3] as const)(
    'sets its connection up without a tenant, protocol %i, with every option of it',
    async (protocol) => {
      await oracle.server.redis.call('ACL', 'SETUSER', 'default', 'on', 'nopass', '+@all')
      const redis = connect({ protocol, db: 3, connectionName: 'shop', readOnly: true })
      const info = await inAcme(() => redis.client('INFO'))
      expect(info).toContain('name=shop')
      expect(info).toContain('db=3')
      await inAcme(() => redis.set('k', '1'))
      await oracle.server.redis.call('CLIENT', 'KILL', 'USER', 'tenants')
      await eventually(async () => (await inAcme(() => redis.client('INFO'))).includes('db=3'))
      expect(await inAcme(() => redis.get('k'))).toBe('1')
      await oracle.server.redis.flushall()
    },
  )

  test('the first tenant does not stick to the socket', async () => {
    const redis = connect({ lazyConnect: true })
    const seen: unknown[] = []
    redis.on('ready', () => seen.push(tenancy.current()?.tenant.id))
    redis.on('close', () => seen.push(tenancy.current()?.tenant.id))
    const context = new AsyncLocalStorage<string>()
    await context.run('caller', () => inAcme(() => redis.set('k', '1')))
    await oracle.server.redis.call('CLIENT', 'KILL', 'USER', 'tenants')
    await eventually(() => seen.length >= 3)
    expect(seen.every((id) => id === undefined)).toBe(true)
  })

  test('duplicate() is scoped too, with the options of the original', async () => {
    const redis = connect({ enableAutoPipelining: true, keyPrefix: 'app:' })
    const copy = redis.duplicate({ connectionName: 'copy' }) as TenantRedis
    clients.push(copy)
    expect(copy).toBeInstanceOf(TenantRedis)
    expect(copy.options).toMatchObject({ enableAutoPipelining: true, connectionName: 'copy' })
    await inGlobex(() => copy.set('k', canary('globex', 1)))
    expect(await inAcme(() => copy.get('k'))).toBeNull()
    expect(await wireKeys()).toEqual(['globex:app:k'])
  })

  test('RESP3 replies that are maps name streams as the tenant does', async () => {
    const redis = connect({ protocol: 3, replyMapping: 'resp3' })
    for (const id of TENANTS)
      await tenancy.run(id, async () => {
        await redis.xadd('stream', '1-1', 'f', canary(id, 1))
        const entries = { stream: [['1-1', ['f', canary(id, 1)]]] }
        expect(await redis.xread('STREAMS', 'stream', '0')).toEqual(entries)
        expect(await redis.multi().xread('STREAMS', 'stream', '0').exec()).toEqual([
          [null, entries],
        ])
      })
  })

  test('keyPrefix composes inside the tenant', async () => {
    const redis = connect({ keyPrefix: 'app:' })
    await inAcme(async () => {
      await redis.set('k', canary('acme', 1))
      expect(await redis.get('k')).toBe(canary('acme', 1))
      await redis.eval(`redis.call('set', KEYS[1], 1)`, 1, 's')
      await redis.multi().set('m', '1').exec()
      // As with ioredis itself: patterns and replies are about the whole name.
      expect((await redis.keys('app:*')).sort()).toEqual(['app:k', 'app:m', 'app:s'])
    })
    expect(await wireKeys()).toEqual(['acme:app:k', 'acme:app:m', 'acme:app:s'])
  })

  test('central sees everything, is announced, and closes with the client', async () => {
    const redis = connect()
    const events: TenancyEvents['isolation:bypassed'][] = []
    const off = tenancy.on('isolation:bypassed', (event) => events.push(event))
    await inAcme(() => redis.set('k', canary('acme', 1)))
    const { central } = redis
    expect(central).not.toBeInstanceOf(TenantRedis)
    // As the oracle's user, it may touch only the tenants' keys; that is enough here.
    expect(await central.get('acme:k')).toBe(canary('acme', 1))
    await inGlobex(() => redis.central.set('globex:k', '1'))
    expect(events).toMatchObject([{ door: 'redis.central', from: { tenant: { id: 'globex' } } }])
    off()
    await redis.quit()
    await eventually(() => central.status === 'end')
  })

  test('disconnect() closes central too', async () => {
    const redis = connect()
    const { central } = redis
    await central.ping()
    redis.disconnect()
    await eventually(() => central.status === 'end')
  })

  test('a tenant cannot close the connection under the others', async () => {
    const redis = connect()
    await inAcme(async () => {
      await expect(redis.quit()).rejects.toEqual(refused)
      expect(() => redis.disconnect()).toThrowError(refused)
      expect(() => redis.end()).toThrowError(refused)
    })
    expect(await inGlobex(() => redis.ping())).toBe('PONG')
    expect(await redis.quit()).toBe('OK')
  })

  test('what was made inside a tenant may be closed there, and only there or outside', async () => {
    const redis = connect()
    const copy = await inAcme(() => ({ made: redis.duplicate() as TenantRedis }))
    await expect(inGlobex(() => copy.made.quit())).rejects.toEqual(refused)
    expect(await inAcme(() => copy.made.quit())).toBe('OK')
  })

  test('BullMQ and Bull are recognised and sent to the scheduler', () => {
    const redis = connect()
    for (const name of ['addStandardJob-9:6.7.0', 'moveToActive', 'updateDelaySet'])
      expect(() => redis.defineCommand(name, { lua: 'return 1', numberOfKeys: 9 })).toThrowError(
        expect.objectContaining({
          code: 'ERR_TENANCY_REDIS_COMMAND_REFUSED',
          hint: expect.stringContaining('@partywall/scheduler'),
        }),
      )
  })

  test('options and doors that see past tenants are refused', () => {
    expect(() => connect({ monitor: true, lazyConnect: true })).toThrowError(optionInvalid)
    expect(() => connect({ himportFieldsets: [{ name: 'f', fields: ['a'] }] })).toThrowError(
      optionInvalid,
    )
    expect(() => TenantRedis.createClient()).toThrowError(optionInvalid)
  })

  test('the server is down: commands reject with an error of the connection, never run elsewhere', async () => {
    const redis = new TenantRedis(tenancy, 'redis://127.0.0.1:1', {
      maxRetriesPerRequest: 0,
      retryStrategy: () => null,
    })
    redis.on('error', () => {})
    clients.push(redis)
    await expect(inAcme(() => redis.get('k'))).rejects.toThrow(/connect|closed|retries/i)
    await expect(inAcme(() => redis.dbsize())).rejects.toThrow(/connect|closed|retries/i)
  })
})
