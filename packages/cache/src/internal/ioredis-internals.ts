import type { Command, Redis } from 'ioredis'

// The parts of ioredis 5 and 6 that the isolation hangs on and that its types hide. Everything private is named here and nowhere else.

/** An argument as ioredis holds it once a Command exists: it has turned everything else into strings. */
export type CommandArgument = string | Buffer

/** A Command, seen from inside. */
export interface OpenCommand {
  name: string
  args: CommandArgument[]
  /** Cached keys, for the slot of a cluster; recomputed when absent. */
  keys?: unknown
  inTransaction: boolean
  promise: Promise<unknown>
  resolve(value: unknown): void
  reject(error: Error): void
  transformReply(reply: unknown): unknown
  toWritable(socket: object): string | Buffer
}

/** A Pipeline, seen from inside. */
export interface OpenPipeline {
  /** MULTIs that `exec` has yet to close. */
  _transactions: number
  _queue: Command[]
  sendCommand(command: Command): unknown
  exec(...args: unknown[]): Promise<unknown>
}

/** A client, seen from inside. */
export interface OpenRedis {
  /** Pipelines that auto-pipelining fills at the moment. */
  _autoPipelines: Map<string, unknown>
}

export function openCommand(command: Command): OpenCommand {
  return command as unknown as OpenCommand
}

export function openPipeline(pipeline: unknown): OpenPipeline {
  return pipeline as OpenPipeline
}

/** Whether auto-pipelining made this pipeline: then it holds single commands of many callers. */
export function isAutoPipeline(client: Redis, pipeline: unknown): boolean {
  for (const automatic of (client as unknown as OpenRedis)._autoPipelines.values())
    if (automatic === pipeline) return true
  return false
}
