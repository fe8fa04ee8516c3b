import {
  FIRST_KEY,
  FIXED_RANGE,
  FIXED_RANGE_KEY_IN_REPLY,
  HARMLESS,
  HARMLESS_SUBCOMMANDS,
  REFUSALS,
  SECOND_KEY,
} from './command-table.ts'
import type { CommandArgument } from './ioredis-internals.ts'
import {
  copyPositions,
  counted,
  firstArgument,
  fixedRange,
  geoPositions,
  type KeyPositions,
  keysPattern,
  scanPatterns,
  secondArgument,
  sortPositions,
  streamPositions,
} from './key-positions.ts'
import { type ReplyStrip, stripFirst, stripKeys, stripScan, stripStreams } from './reply-keys.ts'
import { addPatternPrefix, addPrefix, stripPrefix } from './wire-key.ts'

/** What becomes of a command. */
export type CommandRule =
  /** Sent with the tenant's keys. */
  | {
      readonly kind: 'keyed'
      readonly positions: KeyPositions
      /** The positions hold glob patterns. */
      readonly pattern?: true
      readonly strip?: ReplyStrip
    }
  /** Sent as it is. */
  | { readonly kind: 'harmless' }
  /** Answered by other commands, within the tenant. */
  | { readonly kind: 'emulated' }
  /** MULTI, EXEC, DISCARD: right inside a pipeline only. */
  | { readonly kind: 'transaction' }
  | { readonly kind: 'quit' }
  | { readonly kind: 'refused'; readonly reason: string }

const HARMLESS_RULE: CommandRule = { kind: 'harmless' }
const UNLISTED: CommandRule = {
  kind: 'refused',
  reason: 'It is not known to keep to the keys of one tenant.',
}

const RULES = new Map<string, CommandRule>()
// `OBJECT ENCODING` stands as `object encoding`.
const SUBCOMMAND_RULES = new Map<string, CommandRule>()

function rule(names: string, value: CommandRule): void {
  for (const name of words(names)) RULES.set(name, value)
}

function words(names: string): string[] {
  return names.split(/\s+/).filter((name) => name !== '')
}

function keyed(positions: KeyPositions, strip?: ReplyStrip): CommandRule {
  return strip === undefined ? { kind: 'keyed', positions } : { kind: 'keyed', positions, strip }
}

rule(FIRST_KEY, keyed(firstArgument))
rule(FIXED_RANGE, keyed(fixedRange))
rule(FIXED_RANGE_KEY_IN_REPLY, keyed(fixedRange, stripFirst))
rule('copy', keyed(copyPositions))
rule('sort sort_ro', keyed(sortPositions))
rule('georadius', keyed(geoPositions(5)))
rule('georadiusbymember', keyed(geoPositions(4)))
rule('eval eval_ro evalsha evalsha_ro fcall fcall_ro', keyed(counted(1)))
rule('sintercard zdiff zinter zintercard zunion', keyed(counted(0)))
rule('zdiffstore zinterstore zunionstore', keyed(counted(1, 1, [0])))
rule('msetex', keyed(counted(0, 2)))
rule('lmpop zmpop', keyed(counted(0), stripFirst))
rule('blmpop bzmpop', keyed(counted(1), stripFirst))
rule('xread xreadgroup', keyed(streamPositions, stripStreams))
rule('keys', { kind: 'keyed', positions: keysPattern, pattern: true, strip: stripKeys })
rule('scan', { kind: 'keyed', positions: scanPatterns, pattern: true, strip: stripScan })
rule('dbsize flushdb randomkey', { kind: 'emulated' })
rule('multi exec discard', { kind: 'transaction' })
rule('quit', { kind: 'quit' })
rule(HARMLESS, HARMLESS_RULE)
for (const [name, subcommands] of Object.entries(SECOND_KEY))
  for (const subcommand of words(subcommands))
    subcommandRule(name, subcommand, keyed(secondArgument))
for (const [name, subcommands] of Object.entries(HARMLESS_SUBCOMMANDS))
  for (const subcommand of words(subcommands)) subcommandRule(name, subcommand, HARMLESS_RULE)
for (const [names, reason] of REFUSALS) rule(names, { kind: 'refused', reason })

function subcommandRule(name: string, subcommand: string, value: CommandRule): void {
  SUBCOMMAND_RULES.set(`${name} ${subcommand}`, value)
}

/** The rule for a command. A name that is not a string, a subcommand in an unusual form, anything unknown: refused. */
export function ruleFor(name: unknown, args: readonly CommandArgument[]): CommandRule {
  if (typeof name !== 'string') return UNLISTED
  const known = RULES.get(name)
  if (known !== undefined) return known
  const lowerCase = name.toLowerCase()
  return (
    RULES.get(lowerCase) ??
    SUBCOMMAND_RULES.get(`${lowerCase} ${String(args[0]).toLowerCase()}`) ??
    UNLISTED
  )
}

/**
 * Puts a tenant's prefix before every key in `args`, in place. Returns why it cannot, if it cannot: then nothing was changed
 * that would reach a server.
 */
export function scopeArguments(
  rule: CommandRule & { kind: 'keyed' },
  name: string,
  args: CommandArgument[],
  prefix: string,
): string | undefined {
  const positions = rule.positions(args, name)
  if (typeof positions === 'string') return positions
  const add = rule.pattern === true ? addPatternPrefix : addPrefix
  for (const position of positions) args[position] = add(prefix, args[position] ?? '')
  return undefined
}

/** The arguments of a command that was sent, as its caller wrote them. For error objects. */
export function unscopedArguments(
  name: string,
  args: readonly CommandArgument[],
  prefix: string,
): CommandArgument[] {
  const copy = [...args]
  const rule = ruleFor(name, copy)
  if (rule.kind !== 'keyed') return copy
  const positions = rule.positions(copy, name)
  if (typeof positions === 'string') return copy
  for (const position of positions)
    copy[position] = stripPrefix(prefix, copy[position]) ?? copy[position] ?? ''
  return copy
}
