import { TenancyError, type TenantScope } from '@partywall/core'
import type { Command } from 'ioredis'
import { type CommandRule, scopeArguments, unscopedArguments } from './command-policy.ts'
import { type CommandArgument, type OpenCommand, openCommand } from './ioredis-internals.ts'
import { Command as IoredisCommand } from './load-ioredis.ts'
import { wirePrefix } from './wire-key.ts'

// The same Command passes again when the offline queue is flushed, after a reconnect and when a pipeline is sent. Private to
// this module, so that nobody else can declare a command to be scoped.
const DECIDED = Symbol('decided')

interface DecidedCommand extends OpenCommand {
  /** The prefix that its keys carry; empty where it has none. */
  [DECIDED]?: string
}

/** Whether the isolation has dealt with this command: it goes to the server as it is. */
export function isDecided(command: Command): boolean {
  return (openCommand(command) as DecidedCommand)[DECIDED] !== undefined
}

/** Declares that a command goes to the server as it is. */
export function markDecided(command: Command, prefix = ''): void {
  ;(openCommand(command) as DecidedCommand)[DECIDED] = prefix
}

/**
 * Gives a keyed command its tenant: prefixes its keys and takes the prefix off its reply.
 *
 * @returns the refusal, if the arguments cannot be understood.
 */
export function scopeCommand(
  command: Command,
  rule: CommandRule & { kind: 'keyed' },
  scope: TenantScope,
): TenancyError | undefined {
  const open = openCommand(command)
  const prefix = wirePrefix(scope.tenant.id)
  const problem = scopeArguments(rule, open.name, open.args, prefix)
  if (problem !== undefined) return refusal(open.name, open.args, `${problem}.`)
  // ioredis has noted the keys it saw, for the slots of a cluster.
  delete open.keys
  const { strip } = rule
  if (strip !== undefined) {
    const transform = open.transformReply
    open.transformReply = function (reply) {
      return strip(transform.call(this, reply), prefix)
    }
  }
  markDecided(command, prefix)
  return undefined
}

/** Marks the EXEC of a tenant, so that the errors in its reply name keys as the tenant does. */
export function scopeExec(command: Command, scope: TenantScope): void {
  const open = openCommand(command)
  const prefix = wirePrefix(scope.tenant.id)
  const transform = open.transformReply
  open.transformReply = function (reply) {
    const results = transform.call(this, reply)
    if (Array.isArray(results))
      for (const result of results) if (result instanceof Error) unscopeError(result, prefix)
    return results
  }
  markDecided(command, prefix)
}

/**
 * Makes a command harmless that cannot be taken out of its pipeline: removing it, or rejecting it before the pipeline is sent, would shift the replies of
 * all others to the wrong callers. A PING goes in its place and its caller gets `error`. In a transaction it is an ECHO without its argument, which the server
 * refuses to queue, so that EXEC discards everything.
 */
export function disarmCommand(command: Command, error: Error): void {
  const open = openCommand(command)
  replace(open, open.inTransaction ? 'echo' : 'ping')
  open.transformReply = () => {
    throw error
  }
  const { reject } = open
  open.reject = () => reject.call(open, error)
  markDecided(command)
}

/**
 * Lets other commands answer one that sits in a pipeline. A PING holds its place, and `answer` starts when the PING is answered, which is
 * when all commands before it have run.
 */
export function answerInPipeline(command: Command, answer: () => Promise<unknown>): void {
  const open = openCommand(command)
  const { transformReply } = open
  open.transformReply = (reply) => reply
  replace(open, 'ping')
  open.promise = open.promise.then(answer).then((reply) => transformReply.call(open, reply))
  markDecided(command)
}

function replace(open: OpenCommand, name: 'ping' | 'echo'): void {
  open.name = name
  open.args = []
  delete open.keys
  // A script's own toWritable would turn the command into its EVAL again.
  open.toWritable = IoredisCommand.prototype.toWritable
}

/** Puts keys in an error of the server back into the form in which the caller wrote them. */
export function unscopeCommandError(error: Error, command: Command): void {
  const prefix = (openCommand(command) as DecidedCommand)[DECIDED]
  if (prefix !== undefined && prefix !== '') unscopeError(error, prefix)
}

function unscopeError(error: Error, prefix: string): void {
  // Only where a word begins: `acme:` must not be cut out of `big-acme:`.
  error.message = error.message.replace(new RegExp(`(?<![A-Za-z0-9-])${prefix}`, 'g'), '')
  const detail = error as { command?: { name: string; args: CommandArgument[] } }
  if (detail.command === undefined) return
  const { name, args } = detail.command
  detail.command = { name, args: unscopedArguments(name, args, prefix) }
}

/** The error for a command that no tenant may send. */
export function refusal(
  name: unknown,
  args: readonly CommandArgument[],
  reason: string,
): TenancyError {
  const shown = typeof name === 'string' ? name.toUpperCase().slice(0, 40) : `a ${typeof name}`
  const subcommand = ['CLIENT', 'SCRIPT', 'OBJECT', 'MEMORY', 'XGROUP', 'XINFO', 'COMMAND']
  const detail = subcommand.includes(shown) ? ` ${String(args[0]).toUpperCase().slice(0, 40)}` : ''
  return new TenancyError(
    'ERR_TENANCY_REDIS_COMMAND_REFUSED',
    `${JSON.stringify(shown + detail)} is refused on a TenantRedis. ${reason}`,
  )
}
