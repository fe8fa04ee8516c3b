import { fork, spawn } from 'node:child_process'
import cluster from 'node:cluster'
import { EventEmitter, on, once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn, setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import {
  createTenancy,
  memoryTenantStore,
  type Tenancy,
  type TenancyError,
  type TenantScope,
} from '@partywall/core'
import { eventually, seededRandom } from '@partywall/test-support'
import { beforeAll, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../../', import.meta.url))
const core = new URL('../../packages/core/src/index.ts', import.meta.url).href
const tenants = ['acme', 'globex', 'zorg'].map((id) => ({
  id,
  name: `canary of ${id}`,
  settings: { plan: { canary: id } },
}))

let tenancy: Tenancy
let acme: TenantScope
let globex: TenantScope
let zorg: TenantScope

beforeAll(async () => {
  tenancy = createTenancy({ store: memoryTenantStore(tenants) })
  const scopeOf = (id: string) => tenancy.run(id, (scope) => scope)
  acme = await scopeOf('acme')
  globex = await scopeOf('globex')
  zorg = await scopeOf('zorg')
})

const canary = (): string | undefined => tenancy.current()?.tenant.name

describe('C1', () => {
  test('C1 100k interleaved units keep their context at entry, after each await and at exit', async () => {
    const random = seededRandom()
    const scopes = [acme, globex, zorg]
    const total = 100_000
    const wrong: string[] = []
    const check = (where: string, scope: TenantScope): void => {
      if (tenancy.current() !== scope && wrong.length < 20)
        wrong.push(`${where}: ${canary()} instead of ${scope.tenant.name}`)
    }
    const pause = async (): Promise<void> => {
      const kind = random.next()
      if (kind < 0.7) return
      if (kind < 0.97) await turn()
      else await wait(random.integer(0, 2))
    }
    const order: string[] = []
    const unit = async (scope: TenantScope, pauses: number): Promise<void> => {
      check('entry', scope)
      for (let index = 0; index < pauses; index++) {
        await pause()
        check('await', scope)
      }
      try {
        await Promise.reject(new Error('inside'))
      } catch {
        check('catch', scope)
      } finally {
        check('finally', scope)
      }
      check('exit', scope)
    }
    // The first to finish and the last to finish are of one tenant: a wrong save and restore passes one of the two orders.
    let lastMayEnd: (() => void) | undefined
    const last = tenancy.run(acme, async () => {
      await new Promise<void>((resolve) => (lastMayEnd = resolve))
      await unit(acme, 3)
      order.push('acme, last')
    })
    await tenancy.run(acme, async () => {
      await unit(acme, 0)
      order.push('acme, first')
    })
    let started = 0
    const lane = async (): Promise<void> => {
      while (started < total) {
        started += 1
        const scope = random.pick(scopes)
        await tenancy.run(scope, () => unit(scope, random.integer(0, 3)))
        if (tenancy.current() !== undefined) wrong.push(`after a unit: ${canary()}`)
      }
    }
    await Promise.all(Array.from({ length: 200 }, lane))
    order.push('the rest')
    lastMayEnd?.()
    await last
    expect(wrong, `seed ${random.seed}`).toEqual([])
    expect(started).toBe(total)
    expect(order).toEqual(['acme, first', 'the rest', 'acme, last'])
    expect(canary()).toBeUndefined()
  })
})

describe('C4', () => {
  test('C4 outside of every tenant current() is undefined and require() throws, whatever ran before', async () => {
    await tenancy.run(acme, () => turn())
    tenancy.run(globex, () => undefined)
    for (const moment of [Promise.resolve(), turn(), wait(1)]) {
      await moment
      expect(tenancy.current()).toBeUndefined()
      expect(() => tenancy.require()).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_MISSING', status: 500 }),
      )
    }
  })

  test('C4 there is no tenant of the process: no other tenancy sees one, active or declared', async () => {
    const other = createTenancy({ store: memoryTenantStore(tenants) })
    tenancy.run(acme, () => {
      expect(other.current()).toBeUndefined()
      expect(() => other.require()).toThrow('No tenant context')
    })
    expect(canary()).toBeUndefined()
  })

  test('C4 no source calls enterWith', async () => {
    const offenders: string[] = []
    let files = 0
    for (const folder of ['packages', 'examples'])
      for (const file of await sourcesBelow(join(root, folder))) {
        files += 1
        if (usesEnterWith(await readFile(file, 'utf8'))) offenders.push(file.slice(root.length))
      }
    expect(offenders).toEqual([])
    expect(files).toBeGreaterThan(50)
  })

  test('C4 the gate sees enterWith in code, and not in comments', () => {
    for (const code of [
      'storage.enterWith(scope)',
      "storage['enterWith'](scope)",
      'const { enterWith } = storage',
      'a() // because\nstorage.enterWith(x)',
      '/* a */ storage?.enterWith(x) /* b */',
      'const url = "http://x.io"; storage.enterWith(x)',
    ])
      expect(usesEnterWith(code), code).toBe(true)
    for (const code of ['// enterWith leaks', '/**\n * `enterWith` leaks\n */', 'run(scope, fn)'])
      expect(usesEnterWith(code), code).toBe(false)
  })
})

describe('C5', () => {
  const inGlobex = <T>(fn: () => T) => tenancy.switch('globex', 'C5', fn)

  test('C5 a nested switch gives the outer tenant back on return, throw and rejection', async () => {
    await tenancy.run(acme, async () => {
      expect(await inGlobex(() => canary())).toBe('canary of globex')
      expect(tenancy.current()).toBe(acme)
      await expect(
        inGlobex(() => {
          throw new Error(`thrown in ${canary()}`)
        }),
      ).rejects.toThrow('thrown in canary of globex')
      expect(tenancy.current()).toBe(acme)
      await expect(
        inGlobex(async () => {
          await turn()
          throw new Error(`rejected in ${canary()}`)
        }),
      ).rejects.toThrow('rejected in canary of globex')
      expect(tenancy.current()).toBe(acme)
    })
    expect(canary()).toBeUndefined()
  })

  test('C5 the outer tenant is undisturbed while both are in flight, three deep', async () => {
    const seen: string[] = []
    await tenancy.run(acme, async () => {
      const inner = inGlobex(async () => {
        const innermost = tenancy.switch('zorg', 'C5', async () => {
          for (let index = 0; index < 5; index++) {
            await turn()
            seen.push(`3 ${canary()}`)
          }
        })
        for (let index = 0; index < 5; index++) {
          await turn()
          seen.push(`2 ${canary()}`)
        }
        await innermost
        seen.push(`2 ${canary()}`)
      })
      for (let index = 0; index < 5; index++) {
        await turn()
        seen.push(`1 ${canary()}`)
      }
      await inner
      seen.push(`1 ${canary()}`)
    })
    expect(new Set(seen)).toEqual(
      new Set(['1 canary of acme', '2 canary of globex', '3 canary of zorg']),
    )
    expect(seen).toHaveLength(17)
    // They did run at one time: the outermost looked before the innermost was done.
    expect(seen.indexOf('1 canary of acme')).toBeLessThan(seen.lastIndexOf('3 canary of zorg'))
  })

  test('C5 run() refuses another tenant inside one, and the outer one goes on', async () => {
    await tenancy.run(acme, async () => {
      await expect(tenancy.run('globex', () => canary())).rejects.toMatchObject({
        code: 'ERR_TENANCY_CONTEXT_LOCKED',
      })
      expect(() => tenancy.run(globex, () => canary())).toThrow(
        expect.objectContaining({ code: 'ERR_TENANCY_CONTEXT_LOCKED' }),
      )
      expect(tenancy.current()).toBe(acme)
    })
  })

  test('C5 the scope is frozen at every depth, also that of a switch', async () => {
    const frozen = (value: unknown): void => {
      if (typeof value !== 'object' || value === null) return
      expect(Object.isFrozen(value)).toBe(true)
      for (const member of Object.values(value)) frozen(member)
    }
    await tenancy.run(
      'acme',
      async () => {
        frozen(tenancy.require())
        await inGlobex(() => {
          frozen(tenancy.require())
          expect(() => Object.assign(tenancy.require(), { tenant: zorg.tenant })).toThrow(TypeError)
          expect(() =>
            Object.assign(tenancy.require().tenant.settings['plan'] as object, { canary: 'x' }),
          ).toThrow(TypeError)
        })
      },
      { actor: { id: 'u1', name: 'Ada' }, impersonator: { id: 'op' } },
    )
  })
})

describe('C6', () => {
  test('C6 timers, microtasks, nextTick, setImmediate and promises keep the tenant', async () => {
    const seen: (string | undefined)[] = []
    const look = (): void => void seen.push(canary())
    let interval: NodeJS.Timeout | undefined
    await Promise.all(
      [acme, globex].map((scope) =>
        tenancy.run(scope, async () => {
          const done = Promise.withResolvers<void>()
          process.nextTick(look)
          queueMicrotask(look)
          setImmediate(look)
          void Promise.resolve().then(look)
          void Promise.reject(new Error('x')).catch(look)
          interval = setInterval(function once(this: NodeJS.Timeout) {
            look()
            clearInterval(this)
            setTimeout(() => {
              look()
              done.resolve()
            }, 1)
          }, 1)
          await done.promise
        }),
      ),
    )
    clearInterval(interval)
    expect(seen.filter((name) => name === 'canary of acme')).toHaveLength(7)
    expect(seen.filter((name) => name === 'canary of globex')).toHaveLength(7)
    expect(seen).toHaveLength(14)
  })

  /** What the other side does, in each of the three: tells its tenant, then enters the one that the message names. */
  const program = (receive: string, send: string) => `
    import(${JSON.stringify(core)}).then(({ createTenancy, memoryTenantStore }) => {
      const tenancy = createTenancy({ store: memoryTenantStore(${JSON.stringify(tenants)}) })
      ${receive}(async ({ tenantId }) => {
        const arrived = tenancy.current()?.tenant.name ?? 'none'
        const entered = await tenancy.run(tenantId, () => tenancy.current().tenant.name)
        ${send}({ arrived, entered })
      })
      ${send}('ready')
    })`

  interface Other extends EventEmitter {
    tell(message: object): void
    end(): Promise<unknown>
  }

  /**
   * Made in acme, listened to in globex, told something in zorg, so that it shows whose context a listener has. The other side never has any; a bound listener
   * has that of its registrar; an unbound one that of whoever made the worker, or none, and in no case that of the message.
   */
  async function converse(make: () => Other): Promise<void> {
    const other = tenancy.run(acme, make)
    const ready = once(other, 'message')
    const answers: unknown[] = []
    const unbound: (string | undefined)[] = []
    const bound: (string | undefined)[] = []
    await ready
    tenancy.run(globex, () => {
      other.on('message', (answer) => {
        answers.push(answer)
        unbound.push(canary())
      })
      other.on(
        'message',
        tenancy.bind(() => void bound.push(canary())),
      )
    })
    try {
      tenancy.run(zorg, () => other.tell({ tenantId: 'zorg' }))
      await eventually(() => expect(answers).toHaveLength(1))
      expect(answers).toEqual([{ arrived: 'none', entered: 'canary of zorg' }])
      expect(bound).toEqual(['canary of globex'])
      expect(['canary of acme', undefined]).toContain(unbound[0])
    } finally {
      await other.end()
    }
  }

  test('C6 a worker thread has no tenant, and is told by its message', async () => {
    const conversation = converse(() => {
      const code = program(
        "require('node:worker_threads').parentPort.on.bind(require('node:worker_threads').parentPort, 'message')",
        "require('node:worker_threads').parentPort.postMessage",
      )
      const worker = new Worker(code, { eval: true, execArgv: ['--conditions=source'] })
      return Object.assign(worker, {
        tell: (message: object) => worker.postMessage(message),
        end: () => worker.terminate(),
      })
    })
    await expect(conversation).resolves.toBeUndefined()
  })

  test('C6 a child process has no tenant, and is told by its message', async () => {
    const conversation = converse(() => {
      const child = spawn(
        process.execPath,
        [
          '--conditions=source',
          '-e',
          program("process.on.bind(process, 'message')", 'process.send'),
        ],
        { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
      )
      return Object.assign(child, {
        tell: (message: object) => void child.send(message),
        end: async () => {
          child.kill()
          await once(child, 'exit')
        },
      })
    })
    await expect(conversation).resolves.toBeUndefined()
  })

  test('C6 a cluster worker has no tenant, and is told by its message', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'partywall-cluster-'))
    const exec = join(folder, 'worker.cjs')
    await writeFile(exec, program("process.on.bind(process, 'message')", 'process.send'))
    cluster.setupPrimary({ exec, execArgv: ['--conditions=source'] })
    try {
      const conversation = converse(() => {
        const worker = cluster.fork()
        return Object.assign(worker, {
          tell: (message: object) => void worker.send(message),
          end: async () => {
            worker.process.kill()
            await once(worker, 'exit')
          },
        })
      })
      await expect(conversation).resolves.toBeUndefined()
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })

  test('C6 a tenant of the environment is none: a forked process starts without', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'partywall-fork-'))
    const file = join(folder, 'child.cjs')
    await writeFile(file, program("process.on.bind(process, 'message')", 'process.send'))
    try {
      const child = tenancy.run(acme, () => fork(file, { execArgv: ['--conditions=source'] }))
      await once(child, 'message')
      const answer = once(child, 'message')
      child.send({ tenantId: 'globex' })
      expect((await answer)[0]).toEqual({ arrived: 'none', entered: 'canary of globex' })
      child.kill()
      await once(child, 'exit')
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })
})

describe('C7', () => {
  test('C7 a listener of a shared emitter runs as whoever emits, bind() gives the registrar', () => {
    const emitter = new EventEmitter()
    const seen: unknown[] = []
    for (const scope of [acme, globex])
      tenancy.run(scope, () => {
        emitter.on('order', () => seen.push(['unbound', scope.tenant.id, canary()]))
        emitter.on(
          'order',
          tenancy.bind(() => seen.push(['bound', scope.tenant.id, canary()])),
        )
      })
    tenancy.run(zorg, () => emitter.emit('order'))
    emitter.emit('order')
    const round = (emitting: string | undefined) => [
      ['unbound', 'acme', emitting],
      ['bound', 'acme', 'canary of acme'],
      ['unbound', 'globex', emitting],
      ['bound', 'globex', 'canary of globex'],
    ]
    expect(seen).toEqual([...round('canary of zorg'), ...round(undefined)])
  })

  test('C7 an async iterator runs as whoever consumes it', async () => {
    async function* numbers(): AsyncGenerator<string | undefined> {
      for (let index = 0; index < 3; index++) {
        await turn()
        yield canary()
      }
    }
    const shared = tenancy.run(acme, () => numbers())
    const read = async (): Promise<unknown> => [(await shared.next()).value, canary()]
    expect(await tenancy.run(globex, read)).toEqual(['canary of globex', 'canary of globex'])
    expect(await tenancy.run(zorg, read)).toEqual(['canary of zorg', 'canary of zorg'])
    expect(await read()).toEqual([undefined, undefined])
  })

  test('C7 the body of for await over events stays with the consumer, whoever emits', async () => {
    const emitter = new EventEmitter()
    const seen: (string | undefined)[] = []
    const abort = new AbortController()
    const consuming = tenancy.run(acme, async () => {
      for await (const _ of on(emitter, 'order', { signal: abort.signal })) {
        seen.push(canary())
        if (seen.length === 3) break
      }
    })
    await turn()
    for (const scope of [globex, zorg]) tenancy.run(scope, () => emitter.emit('order'))
    emitter.emit('order')
    await consuming
    expect(seen).toEqual(['canary of acme', 'canary of acme', 'canary of acme'])
  })
})

describe('C8', () => {
  test('C8 detached work after the end of its unit is still of its tenant', async () => {
    const seen: Record<string, (string | undefined)[]> = { acme: [], globex: [] }
    const done: Promise<void>[] = []
    for (const scope of [acme, globex])
      tenancy.run(scope, () => {
        done.push(
          (async () => {
            for (const pause of [turn, () => wait(5), turn]) {
              await pause()
              seen[scope.tenant.id]?.push(canary())
            }
          })(),
        )
      })
    expect(canary()).toBeUndefined()
    // Others come and go in the meantime.
    for (let index = 0; index < 20; index++) await tenancy.run(zorg, () => turn())
    await Promise.all(done)
    expect(seen['acme']).toEqual(Array(3).fill('canary of acme'))
    expect(seen['globex']).toEqual(Array(3).fill('canary of globex'))
  })

  test('C8 detached work cannot enter another tenant, and is refused once the tenancy is closed', async () => {
    const closing = createTenancy({ store: memoryTenantStore(tenants) })
    let detached: Promise<TenancyError[]> | undefined
    await closing.run('acme', () => {
      detached = (async () => {
        await wait(5)
        const locked = await closing.run('globex', () => undefined).catch((error) => error)
        await wait(20)
        const closed = await closing.run('acme', () => undefined).catch((error) => error)
        return [locked, closed]
      })()
    })
    await wait(10)
    await closing.close()
    expect((await detached)?.map(({ code }) => code)).toEqual([
      'ERR_TENANCY_CONTEXT_LOCKED',
      'ERR_TENANCY_CLOSED',
    ])
  })
})

async function sourcesBelow(folder: string): Promise<string[]> {
  const found: string[] = []
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.name === 'node_modules' || entry.name === 'dist') continue
    const path = join(folder, entry.name)
    if (entry.isDirectory()) found.push(...(await sourcesBelow(path)))
    else if (/\.[cm]?[jt]sx?$/.test(entry.name)) found.push(path)
  }
  return found
}

/** Tells whether code, and not only a comment, speaks of enterWith. Strings are kept, because a member may be named by one. */
function usesEnterWith(code: string): boolean {
  const plain = code.replace(
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (_, text: string | undefined) => text ?? ' ',
  )
  return /\benterWith\b/.test(plain)
}
