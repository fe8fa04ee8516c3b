import { TenancyError } from '@partywall/core'
import { stripPrefix } from './wire-key.ts'

/**
 * Puts the keys in a reply back into the tenant's form. Runs after ioredis's own transformation, so replies come as strings or Buffers, in the shape of RESP2
 * or RESP3. In a transaction a command is first answered by `QUEUED`; anything that is not of the expected shape is left alone.
 */
export type ReplyStrip = (reply: unknown, prefix: string) => unknown

/** KEYS: an array of keys. One that is not the tenant's is dropped: it must not be there, and never gets out. */
export const stripKeys: ReplyStrip = (reply, prefix) =>
  Array.isArray(reply)
    ? reply.map((key) => stripPrefix(prefix, key)).filter((key) => key !== undefined)
    : reply

/** SCAN: `[cursor, keys]`. */
export const stripScan: ReplyStrip = (reply, prefix) =>
  Array.isArray(reply) ? [reply[0], stripKeys(reply[1], prefix)] : reply

/** BLPOP, LMPOP, ZMPOP and their kin: the key comes first. */
export const stripFirst: ReplyStrip = (reply, prefix) =>
  Array.isArray(reply) && reply.length > 0 ? [own(prefix, reply[0]), ...reply.slice(1)] : reply

/** XREAD: pairs of stream and entries; with RESP3 an object or a Map. */
export const stripStreams: ReplyStrip = (reply, prefix) => {
  if (Array.isArray(reply))
    return reply.map((pair) => (Array.isArray(pair) ? stripFirst(pair, prefix) : pair))
  if (reply instanceof Map)
    return new Map([...reply].map(([key, entries]) => [own(prefix, key), entries]))
  if (typeof reply === 'object' && reply !== null && !Buffer.isBuffer(reply))
    return Object.fromEntries(
      Object.entries(reply).map(([key, entries]) => [own(prefix, key), entries]),
    )
  return reply
}

function own(prefix: string, key: unknown): unknown {
  const stripped = stripPrefix(prefix, key)
  if (stripped !== undefined) return stripped
  throw new TenancyError(
    'ERR_TENANCY_REDIS_COMMAND_REFUSED',
    'The server answered with a key that is not of this tenant; the reply was dropped.',
  )
}
