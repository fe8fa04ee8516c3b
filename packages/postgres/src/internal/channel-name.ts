import { createHash } from 'node:crypto'
import { TenancyError } from '@partywall/core'

/** Longer names are cut by LISTEN and refused by NOTIFY (NAMEDATALEN). */
const LONGEST_BYTES = 63

/**
 * The channel at the server that stands for a channel of a tenant: `<tenant>:<channel>`, or a hash where that is longer than 63 bytes. No two pairs have the same one: an id holds no `:`, and only hashes begin with one.
 *
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` for a name that Postgres would not keep as it is.
 */
export function channelName(tenantId: string, channel: string): string {
  if (
    typeof channel !== 'string' ||
    channel === '' ||
    channel.includes('\0') ||
    !channel.isWellFormed()
  )
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `${JSON.stringify(channel)} is no name of a channel.`,
      {
        tenantId,
        hint: 'The name of a channel is a string that is not empty and holds neither NUL nor half of a character.',
      },
    )
  const name = `${tenantId}:${channel}`
  return Buffer.byteLength(name) <= LONGEST_BYTES
    ? name
    : `:${createHash('sha256').update(name).digest('base64url')}`
}
