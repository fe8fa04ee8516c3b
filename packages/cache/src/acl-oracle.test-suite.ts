import { createTestRedis, type TestRedis } from '@partywall/test-support'

/** A Redis whose server itself knows the walls. */
export interface AclOracle extends AsyncDisposable {
  readonly server: TestRedis
  /** Logs in a user who may touch the keys and channels of the given tenants only. */
  readonly url: string
  /** What the server refused to that user since the last call. */
  violations(): Promise<string[]>
}

/**
 * Starts a server with a user limited to the keys and channels of some tenants. Whatever reaches past them is refused by the server and noted in its ACL
 * LOG, also from inside scripts: a suite that ran as this user has isolated its keys if the log is empty.
 */
export async function createAclOracle(...tenantIds: string[]): Promise<AclOracle> {
  const server = await createTestRedis({ privateServer: true })
  const walls = tenantIds.flatMap((id) => [`~${id}:*`, `&${id}:*`])
  await server.redis.call('ACL', 'SETUSER', 'tenants', 'on', '>secret', '+@all', ...walls)
  const url = new URL(server.url)
  url.username = 'tenants'
  url.password = 'secret'
  return {
    server,
    url: url.href,
    async violations() {
      const log = await server.redis.call('ACL', 'LOG')
      await server.redis.call('ACL', 'LOG', 'RESET')
      return (log as unknown[]).map((entry) => JSON.stringify(entry))
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}
