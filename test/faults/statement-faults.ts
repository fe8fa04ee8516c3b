import type { FaultProxy, Verdict, WireMessage } from '@partywall/test-support'

/** What happens at a statement: the server cancels it, ends its session, or has run it and its reply is lost. */
export type StatementFault = 'cancelled' | 'session ended' | 'reply lost'

/** One place of an operation at which a fault can come. */
export interface FaultPoint {
  readonly fault: StatementFault
  /** The how-manyeth statement, or reply, of the whole operation, from 0. */
  readonly at: number
  /** The how-manyeth statement of a text of several, from 0. */
  readonly part: number
  readonly sql: string
}

/** What a client asks the server to run: a Query, or an Execute. */
const runs = ({ from, type }: WireMessage): boolean =>
  from === 'client' && (type === 'Q' || type === 'E')
const completes = ({ from, type }: WireMessage): boolean => from === 'server' && type === 'C'

/** The statements of a text of several; they are told apart by line ends where it has any, because quoted texts hold semicolons, too. */
function partsOf(sql: string): readonly string[] {
  return sql.split(sql.includes(';\n') ? /(?<=;\n)/ : /(?<=; )/)
}

/** Runs an operation undisturbed and tells every place at which a fault can come: in front of each statement, and behind each before its reply. */
export async function findFaultPoints(
  proxy: FaultProxy,
  operation: () => Promise<unknown>,
): Promise<FaultPoint[]> {
  const points: FaultPoint[] = []
  let statements = 0
  let replies = 0
  proxy.onMessage = (message) => {
    const { text: sql = '' } = message
    if (runs(message)) {
      const at = statements++
      for (const fault of ['cancelled', 'session ended'] as const)
        for (const [part, one] of partsOf(message.type === 'Q' ? sql : '').entries())
          points.push({ fault, at, part, sql: message.type === 'Q' ? one : sql })
    } else if (completes(message)) points.push({ fault: 'reply lost', at: replies++, part: 0, sql })
    return 'pass'
  }
  await operation()
  proxy.heal()
  return points
}

/** Sets a fault up; {@link FaultProxy.heal} takes it away. What comes in front of a statement is one of its own, so that it meets the server in exactly that place. */
export function setFault(proxy: FaultProxy, { fault, at, part }: FaultPoint): void {
  const intruder =
    fault === 'cancelled' ? 'select probe.cancel_me()' : 'select probe.terminate_me()'
  let statements = 0
  let replies = 0
  // Replies to messages of ours are kept from the client: the how-manyeth ParseComplete and BindComplete of their connection.
  const asked = new Map<string, number>()
  const hidden = new Map<string, number>()
  const count = (connection: number, type: string): number => {
    const key = `${connection} ${type}`
    const next = (asked.get(key) ?? 0) + 1
    asked.set(key, next)
    return next
  }
  proxy.onMessage = (message): Verdict => {
    const { from, type, connection, bytes, text = '' } = message
    if (from === 'server' && (type === '1' || type === '2')) {
      const nth = count(connection, `reply ${type}`)
      return hidden.get(`${connection} ${type}`) === nth ? 'drop' : 'pass'
    }
    if (completes(message)) return fault === 'reply lost' && replies++ === at ? 'reset' : 'pass'
    if (from === 'client' && type === 'P') count(connection, '1')
    if (from === 'client' && type === 'B') count(connection, '2')
    if (fault === 'reply lost' || !runs(message) || statements++ !== at) return 'pass'
    if (type === 'Q') {
      const parts = partsOf(text)
      return { instead: queryOf([...parts.slice(0, part), `${intruder}; `, ...parts.slice(part)]) }
    }
    for (const reply of ['1', '2']) hidden.set(`${connection} ${reply}`, count(connection, reply))
    return { instead: Buffer.concat([executionOf(intruder), bytes]) }
  }
}

const cString = (text: string): Buffer => Buffer.from(`${text}\0`)

function frame(type: string, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(5)
  head.write(type, 'latin1')
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

function queryOf(parts: readonly string[]): Buffer {
  return frame('Q', cString(parts.join('')))
}

/** Parse, Bind and Execute of a statement without parameters, in a portal of its own. */
function executionOf(sql: string): Buffer {
  return Buffer.concat([
    frame('P', cString(''), cString(sql), Buffer.alloc(2)),
    frame('B', cString('intruder'), cString(''), Buffer.alloc(6)),
    frame('E', cString('intruder'), Buffer.alloc(4)),
  ])
}
