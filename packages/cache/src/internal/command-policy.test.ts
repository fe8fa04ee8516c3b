import { list } from '@ioredis/commands'
import { createTestRedis, type TestRedis } from '@partywall/test-support'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type CommandRule, ruleFor, scopeArguments, unscopedArguments } from './command-policy.ts'
import { FIRST_KEY, FIXED_RANGE, FIXED_RANGE_KEY_IN_REPLY, SECOND_KEY } from './command-table.ts'
import type { CommandArgument } from './ioredis-internals.ts'

let server: TestRedis
beforeAll(async () => {
  server = await createTestRedis()
})
afterAll(() => server[Symbol.asyncDispose]())

const words = (names: string) => names.split(/\s+/).filter((name) => name !== '')
const MARK = 'acme:'

/** The arguments as they would be sent, or the rule's kind or complaint. */
function scoped(name: string, ...args: CommandArgument[]): CommandArgument[] | string {
  const rule = ruleFor(name, args)
  if (rule.kind !== 'keyed') return rule.kind
  return scopeArguments(rule, name, args, MARK) ?? args
}

/** Which arguments the server takes for keys. */
async function serverKeys(name: string, args: CommandArgument[]): Promise<string[]> {
  return (await server.redis.call('COMMAND', 'GETKEYS', name, ...args)) as string[]
}

describe('against the server', () => {
  test('commands that are said to have one key, or keys in a range, have just those', async () => {
    const names = words(`${FIRST_KEY} ${FIXED_RANGE} ${FIXED_RANGE_KEY_IN_REPLY}`)
    const infos = (await server.redis.call('COMMAND', 'INFO', ...names)) as (unknown[] | null)[]
    let compared = 0
    for (const [index, name] of names.entries()) {
      // A command that is newer than this server.
      const info = infos[index]
      if (info == null) continue
      compared++
      const [, arity, flags, first, last, step] = info as [string, number, string[], ...number[]]
      expect(flags, name).not.toContain('movablekeys')
      const args = Array.from({ length: Math.abs(arity) - 1 + 4 }, (_, n) => `x${n}`)
      const end = (last as number) < 0 ? args.length + (last as number) : (last as number) - 1
      const expected = args.map((arg, n) =>
        n >= (first as number) - 1 &&
        n <= end &&
        (n - (first as number) + 1) % (step as number) === 0
          ? MARK + arg
          : arg,
      )
      expect(scoped(name, ...args), name).toEqual(expected)
    }
    expect(compared).toBeGreaterThan(140)
  })

  const samples: [name: string, ...args: string[]][] = [
    ['eval', 'return 1', '2', 'k1', 'k2', 'arg'],
    ['eval', 'return 1', '0', 'arg'],
    ['evalsha_ro', 'abc', '1', 'k1'],
    ['fcall', 'f', '1', 'k1', 'arg'],
    ['georadius', 'k', '1', '2', '3', 'm', 'STORE', 'dest'],
    ['georadius', 'k', '1', '2', '3', 'm', 'COUNT', '5', 'ANY', 'ASC', 'STOREDIST', 'dest'],
    ['georadiusbymember', 'k', 'member', '3', 'm', 'STORE', 'dest'],
    ['zunionstore', 'dest', '2', 'k1', 'k2', 'WEIGHTS', '1', '2'],
    ['zinterstore', 'dest', '1', 'k1'],
    ['zdiffstore', 'dest', '2', 'k1', 'k2'],
    ['zunion', '2', 'k1', 'k2', 'WITHSCORES'],
    ['zinter', '1', 'k1'],
    ['zdiff', '2', 'k1', 'k2'],
    ['zintercard', '2', 'k1', 'k2', 'LIMIT', '1'],
    ['sintercard', '2', 'k1', 'k2'],
    ['lmpop', '2', 'k1', 'k2', 'LEFT'],
    ['zmpop', '1', 'k1', 'MIN'],
    ['blmpop', '0', '2', 'k1', 'k2', 'LEFT'],
    ['bzmpop', '0', '1', 'k1', 'MAX'],
    ['xread', 'COUNT', '2', 'BLOCK', '5', 'STREAMS', 'k1', 'k2', '0', '0'],
    ['xreadgroup', 'GROUP', 'g', 'c', 'NOACK', 'STREAMS', 'k1', '>'],
    ['copy', 'k1', 'k2', 'REPLACE'],
    ['sort', 'k', 'ALPHA', 'STORE', 'dest'],
    ...Object.entries(SECOND_KEY).flatMap(([name, subcommands]) =>
      words(subcommands).map((subcommand): [string, ...string[]] => {
        const rest: Record<string, string[]> = {
          create: ['g', '$'],
          createconsumer: ['g', 'c'],
          delconsumer: ['g', 'c'],
          destroy: ['g'],
          setid: ['g', '0'],
          consumers: ['g'],
        }
        return [name, subcommand, 'k', ...(rest[subcommand] ?? [])]
      }),
    ),
  ]
  test.each(samples)('%s %s: the keys are those that the server finds', async (name, ...args) => {
    const before = [...args]
    const after = scoped(name, ...args)
    if (typeof after === 'string') throw new Error(after)
    const changed = before.filter((arg, n) => after[n] !== arg)
    let expected: string[] = []
    try {
      expected = await serverKeys(name, before)
    } catch (error) {
      expect(String(error)).toContain('no key arguments')
    }
    expect(changed.sort()).toEqual(expected.sort())
    expect(unscopedArguments(name, after, MARK)).toEqual(before)
  })

  test('every command of the server has a rule, and none that the library does not name is let through', async () => {
    const names = (await server.redis.call('COMMAND', 'LIST')) as string[]
    const open = names.filter((name) => {
      const [command = '', subcommand] = name.split('|')
      return ruleFor(command, subcommand === undefined ? [] : [subcommand]).kind !== 'refused'
    })
    const known = new Set<string>(list)
    expect(open.filter((name) => !known.has(name.split('|')[0] ?? ''))).toEqual([])
    expect(open.length).toBeGreaterThan(190)
  })
})

describe('K2 refused', () => {
  test.each([
    'flushall',
    'swapdb',
    'select',
    'move',
    'config',
    'monitor',
    'watch',
    'subscribe',
    'publish',
    'psubscribe',
    'ssubscribe',
    'spublish',
    'pubsub',
    'acl',
    'auth',
    'hello',
    'reset',
    'debug',
    'save',
    'bgsave',
    'shutdown',
    'replicaof',
    'slaveof',
    'migrate',
    'restore-asking',
    'pfdebug',
    'info',
    'role',
    'slowlog',
    'latency',
    'module',
    'function',
    'cluster',
    'failover',
    'sync',
    'psync',
    'himport',
    'bless',
    'json.get',
    'ft.search',
    'no-such-command',
    '',
    ' get',
    'get ',
    'get\r\nflushall',
    '__proto__',
    'constructor',
    'toString',
    'hasOwnProperty',
  ])('%j', (name) => {
    expect(ruleFor(name, ['k', 'v']).kind).toBe('refused')
    expect(ruleFor(name.toUpperCase(), ['k', 'v']).kind).toBe('refused')
  })

  test.each([
    ['client', 'kill'],
    ['client', 'list'],
    ['client', 'reply'],
    ['client', 'tracking'],
    ['client', 'setname'],
    ['script', 'flush'],
    ['script', 'kill'],
    ['memory', 'stats'],
    ['object', 'nonsense'],
    ['xgroup', 'get'],
  ])('%s %s', (name, subcommand) => {
    expect(ruleFor(name, [subcommand, 'k']).kind).toBe('refused')
  })

  test.each([undefined, null, 7, Buffer.from('get'), ['get'], { toString: () => 'get' }])(
    'a name that is no string: %o',
    (name) => {
      expect(ruleFor(name, ['k']).kind).toBe('refused')
    },
  )
})

describe('arguments that could be taken for something else', () => {
  test('SORT: patterns, repeated STORE, Buffers, # and LIMIT', () => {
    expect(
      scoped(
        'sort',
        'k',
        'BY',
        'w_*->f',
        'LIMIT',
        '0',
        '5',
        'GET',
        '#',
        'GET',
        'o_*',
        'STORE',
        'd',
      ),
    ).toEqual([
      'acme:k',
      'BY',
      'acme:w_*->f',
      'LIMIT',
      '0',
      '5',
      'GET',
      '#',
      'GET',
      'acme:o_*',
      'STORE',
      'acme:d',
    ])
    expect(scoped('sort', 'k', 'GET', 'STORE', 'STORE', 'x', 'store', 'y')).toEqual([
      'acme:k',
      'GET',
      'acme:STORE',
      'STORE',
      'acme:x',
      'store',
      'acme:y',
    ])
    const buffers = scoped(
      'sort',
      ...['k', 'BY', 'w_*', 'GET', 'o_*', 'STORE', 'd'].map((arg) => Buffer.from(arg)),
    )
    expect((buffers as Buffer[]).map(String)).toEqual([
      'acme:k',
      'BY',
      'acme:w_*',
      'GET',
      'acme:o_*',
      'STORE',
      'acme:d',
    ])
    expect(scoped('sort', 'k', 'DESTINATION', 'd')).toContain('unknown')
    expect(scoped('sort', 'k', 'STORE')).toContain('lacks its value')
  })

  test('GEORADIUS: the server writes to the last STORE, so each is scoped', () => {
    expect(scoped('georadius', 'k', '1', '2', '3', 'm', 'STORE', 'a', 'STORE', 'b')).toEqual([
      'acme:k',
      '1',
      '2',
      '3',
      'm',
      'STORE',
      'acme:a',
      'STORE',
      'acme:b',
    ])
    expect(scoped('georadius', 'k', '1', '2', '3', 'm', 'STORETO', 'a')).toContain('unknown')
  })

  test('XREADGROUP: a group and a consumer called STREAMS', () => {
    expect(
      scoped('xreadgroup', 'COUNT', '2', 'GROUP', 'STREAMS', 'STREAMS', 'STREAMS', 'k', '>'),
    ).toEqual(['COUNT', '2', 'GROUP', 'STREAMS', 'STREAMS', 'STREAMS', 'acme:k', '>'])
    expect(scoped('xread', 'STREAMS', 'a', 'b', '0')).toContain('as many ids')
    expect(scoped('xread', 'SOMETHING', 'STREAMS', 'a', '0')).toContain('unknown')
  })

  test.each(['', '-1', '1.5', '0x1', '1e0', ' 1', '3', '999999999999', 'k'])(
    'EVAL: %j is not the number of its keys',
    (count) => {
      expect(scoped('eval', 'return 1', count, 'k1', 'k2')).toContain('number of keys')
    },
  )

  test('COPY into another database', () => {
    expect(scoped('copy', 'a', 'b', 'db', '1')).toContain('database')
  })

  test('SCAN: every MATCH is scoped, and one is added where there is none', () => {
    expect(scoped('scan', '0')).toEqual(['0', 'MATCH', 'acme:*'])
    expect(scoped('scan', '0', 'match', 'a*', 'COUNT', '5', 'MATCH', 'b*')).toEqual([
      '0',
      'match',
      'acme:a*',
      'COUNT',
      '5',
      'MATCH',
      'acme:b*',
    ])
    expect(scoped('scan', '0', 'COUNT', 'MATCH')).toEqual([
      '0',
      'COUNT',
      'MATCH',
      'MATCH',
      'acme:*',
    ])
    expect(scoped('scan', '0', 'NOVALUES')).toContain('unknown')
  })

  test('K3 a prefix with glob characters would be escaped in patterns and left alone in keys', () => {
    const rule = ruleFor('keys', ['*']) as CommandRule & { kind: 'keyed' }
    const pattern: CommandArgument[] = ['[a-z]*']
    scopeArguments(rule, 'keys', pattern, 'a*?[b]\\:')
    expect(pattern).toEqual(['a\\*\\?\\[b\\]\\\\:[a-z]*'])
  })

  test('keys given as Buffers stay Buffers, byte for byte', () => {
    const bytes = Buffer.from([0, 255, 58, 13, 10])
    const [key] = scoped('get', bytes) as [Buffer]
    expect(key).toEqual(Buffer.concat([Buffer.from(MARK), bytes]))
  })
})
