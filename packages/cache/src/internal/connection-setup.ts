import type { Redis } from 'ioredis'
import type { CommandArgument } from './ioredis-internals.ts'

/**
 * Tells whether a command is one that ioredis sends by itself to set a connection up. It says exactly what the options of the client say, so a
 * caller who sends the same changes nothing.
 */
export function isConnectionSetup(
  client: Redis,
  name: string,
  args: readonly CommandArgument[],
): boolean {
  const { options, status } = client
  const credentials = options.username ? [options.username, options.password] : [options.password]
  switch (name) {
    case 'hello':
      // Later, it would change the protocol under everybody's commands.
      return (
        status !== 'ready' &&
        /^[23]$/.test(String(args[0])) &&
        (args.length === 1 ||
          (String(args[1]) === 'AUTH' &&
            same(args.slice(2), options.username ? credentials : ['default', ...credentials])))
      )
    case 'auth':
      return same(args, credentials)
    case 'select':
      return same(args, [options.db ?? 0])
    case 'readonly':
      return options.readOnly === true && args.length === 0
    case 'client':
      return /^(setname|setinfo)$/i.test(String(args[0])) && status !== 'ready'
        ? true
        : same(args, ['setname', options.connectionName])
    case 'info':
      // The check that the server has loaded its data.
      return status === 'connect' && args.length === 0
    default:
      return false
  }
}

function same(args: readonly CommandArgument[], expected: readonly unknown[]): boolean {
  return (
    args.length === expected.length &&
    args.every((argument, index) => String(argument) === String(expected[index]))
  )
}
