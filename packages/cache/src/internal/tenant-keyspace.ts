import { TenancyError } from '@partywall/core'
import type { CommandArgument } from './ioredis-internals.ts'
import { refusal } from './scoped-command.ts'
import { addPatternPrefix, stripPrefix, wirePrefix } from './wire-key.ts'

/** Sends a command with physical keys and resolves to its reply, strings as Buffers. */
export type SendRaw = (name: string, args: CommandArgument[]) => Promise<unknown>

const BATCH = '1000'

/**
 * FLUSHDB, DBSIZE and RANDOMKEY of one tenant. Each goes through all keys of the database in batches, so other commands run in between: none of them is a snapshot.
 * Resolves to what the server would have answered.
 */
export async function emulateKeyspaceCommand(
  name: string,
  args: readonly CommandArgument[],
  tenantId: string,
  send: SendRaw,
): Promise<unknown> {
  const prefix = wirePrefix(tenantId)
  const batches = keyBatches(prefix, send)
  switch (name.toLowerCase()) {
    case 'flushdb':
      return flush(name, args, batches, send)
    case 'dbsize': {
      assertNoArguments(name, args)
      // SCAN may give a key twice.
      const keys = new Set<string>()
      for await (const batch of batches) for (const key of batch) keys.add(key.toString('latin1'))
      return keys.size
    }
    case 'randomkey':
      assertNoArguments(name, args)
      return randomKey(prefix, batches)
    default:
      throw new TenancyError('ERR_TENANCY_REDIS_COMMAND_REFUSED', `${name} cannot be emulated.`)
  }
}

async function flush(
  name: string,
  args: readonly CommandArgument[],
  batches: AsyncIterable<Buffer[]>,
  send: SendRaw,
): Promise<Buffer> {
  const mode = args.length === 0 ? 'ASYNC' : String(args[0]).toUpperCase()
  if (args.length > 1 || (mode !== 'ASYNC' && mode !== 'SYNC'))
    throw refusal(name, args, 'It takes SYNC, ASYNC or nothing.')
  for await (const batch of batches) await send(mode === 'SYNC' ? 'del' : 'unlink', batch)
  return Buffer.from('OK')
}

/** Every key has the same chance: the n-th replaces the one held with probability 1/n. */
async function randomKey(
  prefix: string,
  batches: AsyncIterable<Buffer[]>,
): Promise<CommandArgument | null> {
  let held: Buffer | undefined
  let seen = 0
  for await (const batch of batches)
    for (const key of batch) if (Math.random() * ++seen < 1) held = key
  return stripPrefix(prefix, held) ?? null
}

async function* keyBatches(prefix: string, send: SendRaw): AsyncGenerator<Buffer[]> {
  const pattern = addPatternPrefix(prefix, '*')
  let cursor = '0'
  do {
    const reply = (await send('scan', [cursor, 'MATCH', pattern, 'COUNT', BATCH])) as [
      Buffer,
      Buffer[],
    ]
    cursor = reply[0].toString()
    // What is removed below must be this tenant's, whatever the server took the pattern for.
    const own = reply[1].filter((key) => stripPrefix(prefix, key) !== undefined)
    if (own.length > 0) yield own
  } while (cursor !== '0')
}

function assertNoArguments(name: string, args: readonly CommandArgument[]): void {
  if (args.length > 0) throw refusal(name, args, 'It takes no arguments.')
}
