import { getKeyIndexes } from '@ioredis/commands'
import type { CommandArgument } from './ioredis-internals.ts'

/**
 * Finds the arguments of a command that are keys, as the server does. Returns their indexes, or a text that says why the command cannot be
 * understood; it is then refused: an argument that we take for something else than the server does would reach another tenant's key.
 */
export type KeyPositions = (args: CommandArgument[], name: string) => readonly number[] | string

const FIRST: readonly number[] = [0]
const SECOND: readonly number[] = [1]

/** Only the first argument is a key. */
export const firstArgument: KeyPositions = (args) => (args.length > 0 ? FIRST : [])

/** Only the second argument is a key: `OBJECT ENCODING key`. */
export const secondArgument: KeyPositions = (args) => (args.length > 1 ? SECOND : [])

/** Keys at positions that depend on the number of arguments only. */
export const fixedRange: KeyPositions = (args, name) =>
  getKeyIndexes(name, args as string[], { nameCaseInsensitive: true })
    .map(Number)
    .filter((index) => index < args.length)

/** `COPY source destination [DB n] [REPLACE]`, of which DB leaves the tenant's database. */
export const copyPositions: KeyPositions = (args) =>
  args.slice(2).some((argument) => token(argument) === 'DB')
    ? 'COPY ... DB leaves the database of this connection'
    : [0, 1].slice(0, args.length)

/** A number of keys at `countAt`, then the keys, `step` apart; `also` are keys before it. */
export function counted(countAt: number, step = 1, also: readonly number[] = []): KeyPositions {
  return (args) => {
    const text = String(args[countAt])
    const count = Number(text)
    if (!/^\d+$/.test(text) || countAt + count * step >= args.length)
      return `${JSON.stringify(text.slice(0, 20))} is not the number of keys that follow`
    return [...also, ...Array.from({ length: count }, (_, index) => countAt + 1 + index * step)]
  }
}

/** `SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC | DESC] [ALPHA] [STORE destination]`; patterns name keys. */
export const sortPositions: KeyPositions = (args) => {
  const positions = [0]
  for (let index = 1; index < args.length; index++) {
    switch (token(args[index])) {
      case 'ASC':
      case 'DESC':
      case 'ALPHA':
        break
      case 'LIMIT':
        index += 2
        break
      case 'GET':
        index++
        // The element itself, no key.
        if (String(args[index]) !== '#') positions.push(index)
        break
      case 'BY':
      case 'STORE':
        positions.push(++index)
        break
      default:
        return unknownOption(args[index])
    }
  }
  return complete(positions, args)
}

/** GEORADIUS and GEORADIUSBYMEMBER, from the first option on. Each STORE counts: the server writes to the last one. */
export function geoPositions(optionsAt: number): KeyPositions {
  return (args) => {
    const positions = [0]
    for (let index = optionsAt; index < args.length; index++) {
      switch (token(args[index])) {
        case 'WITHCOORD':
        case 'WITHDIST':
        case 'WITHHASH':
        case 'ANY':
        case 'ASC':
        case 'DESC':
          break
        case 'COUNT':
          index++
          break
        case 'STORE':
        case 'STOREDIST':
          positions.push(++index)
          break
        default:
          return unknownOption(args[index])
      }
    }
    return complete(positions, args)
  }
}

/** XREAD and XREADGROUP: the first half of what follows STREAMS. A group or consumer may be called STREAMS. */
export const streamPositions: KeyPositions = (args) => {
  for (let index = 0; index < args.length; index++) {
    switch (token(args[index])) {
      case 'COUNT':
      case 'BLOCK':
      case 'CLAIM':
        index++
        break
      case 'GROUP':
        index += 2
        break
      case 'NOACK':
        break
      case 'STREAMS': {
        const rest = args.length - index - 1
        if (rest === 0 || rest % 2 === 1)
          return 'STREAMS must be followed by as many ids as streams'
        return Array.from({ length: rest / 2 }, (_, stream) => index + 1 + stream)
      }
      default:
        return unknownOption(args[index])
    }
  }
  return 'STREAMS is missing'
}

/** The pattern of KEYS. */
export const keysPattern: KeyPositions = (args) => (args.length === 1 ? FIRST : [])

/** Every MATCH of SCAN. Where there is none, one is added to `args`. */
export const scanPatterns: KeyPositions = (args) => {
  const positions: number[] = []
  for (let index = 1; index < args.length; index++) {
    switch (token(args[index])) {
      case 'MATCH':
        positions.push(++index)
        break
      case 'COUNT':
      case 'TYPE':
        index++
        break
      default:
        return unknownOption(args[index])
    }
  }
  if (positions.length === 0) positions.push(args.push('MATCH', '*') - 1)
  return complete(positions, args)
}

function complete(
  positions: readonly number[],
  args: readonly CommandArgument[],
): readonly number[] | string {
  return (positions.at(-1) ?? 0) < args.length ? positions : 'the last option lacks its value'
}

function unknownOption(argument: CommandArgument | undefined): string {
  return `the option ${JSON.stringify(String(argument).slice(0, 40))} is unknown`
}

function token(argument: CommandArgument | undefined): string {
  return String(argument).toUpperCase()
}
