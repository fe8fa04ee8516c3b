import { type Tenancy, TenancyError, type TenantScope } from '@partywall/core'
import type { ChainableCommander, Command, Redis as IoredisClient, RedisOptions } from 'ioredis'
import { ruleFor } from './internal/command-policy.ts'
import { BARE_TRANSACTION_REASON } from './internal/command-table.ts'
import { isConnectionSetup } from './internal/connection-setup.ts'
import { type CommandArgument, openCommand } from './internal/ioredis-internals.ts'
import { Command as IoredisCommand, Redis } from './internal/load-ioredis.ts'
import {
  disarmCommand,
  isDecided,
  markDecided,
  refusal,
  scopeCommand,
  unscopeCommandError,
} from './internal/scoped-command.ts'
import { contextMissing, type PipelineHost, scopePipeline } from './internal/scoped-pipeline.ts'
import { emulateKeyspaceCommand } from './internal/tenant-keyspace.ts'

/** The arguments of ioredis's constructor: `url`, `port`, `host`, `path`, `options`, in its combinations. */
export type RedisArguments = readonly (string | number | RedisOptions | null | undefined)[]

type WriteableStream = Parameters<IoredisClient['sendCommand']>[1]
type CommandItem = Parameters<IoredisClient['handleReconnection']>[1]
type Callback<T> = (error: Error | null | undefined, result?: T) => void

/** Script names by which BullMQ and Bull give themselves away. */
const BULL_SCRIPTS = /:\d+\.\d+\.\d+|^(moveToActive|moveStalledJobsToWait|updateDelaySet)$/

/**
 * An ioredis client whose keys are those of the current tenant: `instanceof Redis`, for code that takes one and never heard of tenants.
 *
 * A key `k` of tenant `acme` is `acme:k` on the server. The tenant is the one of the moment in which a command method is called, also with auto-pipelining, in
 * pipelines, transactions and scripts. Keys come back as they were written. A command that could reach beyond its tenant, or that is not known to keep
 * within it, is refused with `ERR_TENANCY_REDIS_COMMAND_REFUSED`; outside of a tenant, all are, with `ERR_TENANCY_CONTEXT_MISSING`. Nothing of a refused command is sent.
 * `docs/reference/cache.md` lists what becomes of which command.
 *
 * `keyPrefix` composes: `acme:` + prefix + key. Scripts are scoped by the keys that they declare, and by nothing else.
 */
export class TenantRedis extends Redis {
  /** The tenancy whose current tenant decides. */
  readonly tenancy: Tenancy
  // What a library made inside a tenant, it may also close there.
  readonly #madeIn: string | undefined
  readonly #host: PipelineHost
  #central: IoredisClient | undefined

  /**
   * Takes what ioredis takes, after the tenancy. Connects at once unless `lazyConnect` says otherwise. Whoever constructs it closes it.
   *
   * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` for `monitor` and `himportFieldsets`, which see past tenants; `ERR_TENANCY_PEER_MISSING` without ioredis.
   */
  constructor(tenancy: Tenancy, ...args: RedisArguments) {
    // Connecting has to wait until this class is whole; see below.
    super(...(lazily(args) as unknown as []))
    this.tenancy = tenancy
    this.#madeIn = tenancy.current()?.tenant.id
    this.#host = {
      client: this,
      tenancy,
      emulate: (name, args, scope) => this.#emulate(name, args, scope),
    }
    assertOptions(this.options)
    // With auto-pipelining, redis.exec() would send the pipeline of everybody instead of an EXEC, and shift the replies.
    this.options.autoPipeliningIgnoredCommands = [
      ...new Set(this.options.autoPipeliningIgnoredCommands).add('exec'),
    ]
    // Not ours: the one of a URL, which goes before.
    if (this.options.lazyConnect !== true) return
    this.options.lazyConnect = Boolean(args.find(isOptions)?.lazyConnect)
    if (!this.options.lazyConnect) this.connect().catch(() => {})
  }

  /**
   * A plain ioredis client of the same server and database, which sees the keys of all tenants under their wire names. It connects with its first command
   * and is closed with this client. Every use from within a tenant is told by the event `isolation:bypassed`.
   */
  get central(): IoredisClient {
    const from = this.tenancy.current()
    if (from !== undefined)
      this.tenancy.events.emit('isolation:bypassed', {
        door: 'redis.central',
        from,
        reason: 'redis.central was used inside a tenant',
      })
    this.#central ??= new CentralRedis(this.tenancy, {
      ...this.options,
      keyPrefix: '',
      lazyConnect: true,
    })
    return this.#central
  }

  /** Not for tenants: it would have no tenancy. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID`, always. */
  static override createClient(..._args: unknown[]): never {
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'TenantRedis.createClient() has no tenancy. Use new TenantRedis(tenancy, ...).',
    )
  }

  /** Connects outside of every tenant: whatever the socket calls later must not run as the tenant whose command came first. */
  override connect(callback?: Callback<void>): Promise<void> {
    return this.tenancy.context.outside(() => super.connect(callback))
  }

  /** @internal Every command that is not in a pipeline passes here once or more; those of pipelines when they are sent. */
  override sendCommand(command: Command, stream?: WriteableStream): unknown {
    if (isDecided(command)) return super.sendCommand(command, stream)
    if (stream !== undefined) {
      // A pipeline past scopePipeline, which is being written and counts on every one of its commands.
      const { name, args } = openCommand(command)
      disarmCommand(command, refusal(name, args, 'Build pipelines by redis.pipeline().'))
      return super.sendCommand(command, stream)
    }
    const problem = this.#decide(command)
    if (problem === undefined) return super.sendCommand(command)
    if (problem !== EMULATED) command.reject(problem)
    return command.promise
  }

  override pipeline(commands?: unknown[][]): ChainableCommander {
    const pipeline = scopePipeline(super.pipeline(), this.#host)
    if (Array.isArray(commands)) addBatch(pipeline, commands)
    return pipeline
  }

  override multi(options: { pipeline: false }): Promise<'OK'>
  override multi(options?: { pipeline: true }): ChainableCommander
  override multi(commands?: unknown[][]): ChainableCommander
  override multi(
    options?: unknown[][] | { pipeline: boolean },
    more?: { pipeline: boolean },
  ): ChainableCommander | Promise<'OK'> {
    const commands = Array.isArray(options) ? options : undefined
    const wanted = Array.isArray(options) ? more : options
    if (wanted?.pipeline === false)
      return Promise.reject(refusal('multi', [], BARE_TRANSACTION_REASON))
    const transaction = scopePipeline(super.multi(), this.#host)
    if (commands !== undefined) addBatch(transaction, commands)
    return transaction
  }

  /**
   * Defines a command from a Lua script. Its declared keys are those of whoever calls it, not of whoever defines it.
   *
   * @throws {TenancyError} `ERR_TENANCY_REDIS_COMMAND_REFUSED` for the scripts of BullMQ and Bull: they make up keys inside, past any prefix.
   */
  override defineCommand(...args: Parameters<IoredisClient['defineCommand']>): void {
    const [name] = args
    if (BULL_SCRIPTS.test(name))
      throw new TenancyError(
        'ERR_TENANCY_REDIS_COMMAND_REFUSED',
        `${JSON.stringify(name)} is a script of BullMQ or Bull, which make up keys inside their scripts and would mix tenants.`,
        {
          hint: 'Use @partywall/scheduler, which gives every tenant queues of its own, on a plain ioredis connection.',
        },
      )
    super.defineCommand(...args)
  }

  static {
    // A further TenantRedis with the same options, for blocking commands for example; whoever duplicates closes it. Not written as a method: the base
    // class types it with names that ioredis 6 does not export and ioredis 5 does not have.
    TenantRedis.prototype.duplicate = function (this: TenantRedis, override) {
      return new TenantRedis(this.tenancy, { ...this.options, ...override }) as never
    }
  }

  /** Refused: MONITOR shows the commands of every tenant. */
  override monitor(callback?: Callback<IoredisClient>): Promise<IoredisClient> {
    const promise = Promise.reject(refusal('monitor', [], 'It shows the commands of every tenant.'))
    if (callback !== undefined) promise.catch((error: Error) => callback(error))
    return promise
  }

  /**
   * Closes the connection, and that of `central`.
   *
   * @throws {TenancyError} `ERR_TENANCY_REDIS_COMMAND_REFUSED` inside a tenant, where a library would close the connection under
   * all others; not so if this client was made inside the same tenant. The same goes for `quit()`, which rejects.
   */
  override disconnect(reconnect = false): void {
    const problem = this.#closeProblem('disconnect')
    if (problem !== undefined) throw problem
    super.disconnect(reconnect)
    if (!reconnect) this.#central?.disconnect()
  }

  /** @internal The one place where errors of the server reach a command. */
  override handleReconnection(error: Error, item: CommandItem): void {
    unscopeCommandError(error, item.command as Command)
    super.handleReconnection(error, item)
  }

  #decide(command: Command): TenancyError | typeof EMULATED | undefined {
    const { name, args } = openCommand(command)
    const scope = this.tenancy.current()
    const rule = ruleFor(name, args)
    if (rule.kind === 'quit') return this.#quit(command)
    if (scope === undefined) {
      if (typeof name !== 'string' || !isConnectionSetup(this, name, args))
        return contextMissing(this.tenancy)
      markDecided(command)
      return undefined
    }
    switch (rule.kind) {
      case 'keyed':
        return scopeCommand(command, rule, scope)
      case 'harmless':
        markDecided(command)
        return undefined
      case 'emulated':
        this.#emulate(name, args, scope).then(
          (reply) => command.resolve(reply),
          (error: Error) => command.reject(error),
        )
        return EMULATED
      case 'transaction':
        return refusal(name, args, BARE_TRANSACTION_REASON)
      case 'refused':
        return refusal(name, args, rule.reason)
    }
  }

  #quit(command: Command): TenancyError | undefined {
    const problem = this.#closeProblem('quit')
    if (problem !== undefined) return problem
    markDecided(command)
    const central = this.#central
    if (central?.status === 'ready') central.quit().catch(() => central.disconnect())
    else central?.disconnect()
    return undefined
  }

  #closeProblem(method: string): TenancyError | undefined {
    const tenantId = this.tenancy.current()?.tenant.id
    if (tenantId === undefined || tenantId === this.#madeIn) return undefined
    return refusal(method, [], 'All tenants share this connection. Close it outside of them.')
  }

  #emulate(name: string, args: readonly CommandArgument[], scope: TenantScope): Promise<unknown> {
    return emulateKeyspaceCommand(name, args, scope.tenant.id, (rawName, rawArgs) =>
      this.#sendRaw(rawName, rawArgs),
    )
  }

  #sendRaw(name: string, args: CommandArgument[]): Promise<unknown> {
    const command = new IoredisCommand(name, args, { replyEncoding: null })
    markDecided(command)
    return super.sendCommand(command) as Promise<unknown>
  }
}

const EMULATED = Symbol('emulated')

/** A plain client, but for the context of its socket. */
class CentralRedis extends Redis {
  readonly #tenancy: Tenancy

  constructor(tenancy: Tenancy, options: RedisOptions) {
    super(...([options] as unknown as []))
    this.#tenancy = tenancy
  }

  override connect(callback?: Callback<void>): Promise<void> {
    return this.#tenancy.context.outside(() => super.connect(callback))
  }
}

/** The arguments with `lazyConnect`, in a place where nothing before them sets it. */
function lazily(args: RedisArguments): RedisArguments {
  const options = { lazyConnect: true }
  if (args.some(isOptions))
    return args.map((argument) => (isOptions(argument) ? { ...argument, ...options } : argument))
  return [...args.filter((argument) => argument !== null && argument !== undefined), options]
}

function isOptions(argument: RedisArguments[number]): argument is RedisOptions {
  return typeof argument === 'object' && argument !== null
}

function assertOptions(options: RedisOptions): void {
  for (const name of ['monitor', 'himportFieldsets'] as const)
    if (options[name])
      throw new TenancyError(
        'ERR_TENANCY_OPTION_INVALID',
        `A TenantRedis cannot have the option ${name}: it reaches beyond a tenant.`,
        { hint: 'Use a plain ioredis client.' },
      )
}

function addBatch(pipeline: ChainableCommander, commands: unknown[][]): void {
  ;(pipeline as unknown as { addBatch(commands: unknown[][]): void }).addBatch(commands)
}
