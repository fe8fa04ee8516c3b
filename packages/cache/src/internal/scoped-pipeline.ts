import { type Tenancy, TenancyError, type TenantScope } from '@partywall/core'
import type { Command, Redis } from 'ioredis'
import { ruleFor } from './command-policy.ts'
import { BARE_TRANSACTION_REASON } from './command-table.ts'
import {
  type CommandArgument,
  isAutoPipeline,
  type OpenPipeline,
  openCommand,
  openPipeline,
} from './ioredis-internals.ts'
import {
  answerInPipeline,
  disarmCommand,
  isDecided,
  markDecided,
  refusal,
  scopeCommand,
  scopeExec,
} from './scoped-command.ts'

/** What a pipeline needs of its client. */
export interface PipelineHost {
  readonly client: Redis
  readonly tenancy: Tenancy
  /** Runs FLUSHDB, DBSIZE or RANDOMKEY within a tenant. */
  emulate(name: string, args: readonly CommandArgument[], scope: TenantScope): Promise<unknown>
}

/**
 * Decides about every command when it enters the pipeline, by the tenant of that moment. By the time the pipeline is sent, the tenant may be
 * another: auto-pipelining collects the commands of many callers and sends them as the first.
 *
 * A pipeline that a caller made himself belongs to the tenant of its first command. Commands of others are refused in it, and so is sending it from
 * elsewhere, because whoever sends it gets the replies.
 */
export function scopePipeline<P>(pipeline: P, host: PipelineHost): P {
  const open = openPipeline(pipeline)
  const guard = new PipelineGuard(open, host)
  // The MULTI of redis.multi(). It carries no key.
  for (const command of open._queue) markDecided(command)
  const sendCommand = open.sendCommand
  open.sendCommand = function (command) {
    guard.admit(command)
    return sendCommand.call(this, command)
  }
  const alwaysSends = Object.hasOwn(open, 'exec')
  const exec = open.exec
  // Arguments as they come: inside a transaction ioredis sends them with the EXEC.
  open.exec = function (...args) {
    // Inside pipeline().multi(), the first exec() only adds the EXEC.
    const sends = alwaysSends || open._transactions === 0
    const problem = sends ? guard.problem() : undefined
    if (problem === undefined) return exec.apply(this, args)
    for (const command of open._queue) openCommand(command).reject(problem)
    return rejected(problem, args[0])
  }
  return pipeline
}

class PipelineGuard {
  readonly #pipeline: OpenPipeline
  readonly #host: PipelineHost
  #automatic: boolean | undefined
  #owner: TenantScope | undefined
  #transactions: number
  /** A refused command in a transaction: nothing of the pipeline may be sent. */
  #fatal: TenancyError | undefined

  constructor(pipeline: OpenPipeline, host: PipelineHost) {
    this.#pipeline = pipeline
    this.#host = host
    this.#transactions = pipeline._transactions
  }

  admit(command: Command): void {
    if (isDecided(command)) return
    this.#automatic ??= isAutoPipeline(this.#host.client, this.#pipeline)
    const problem = this.#decide(command)
    if (problem === undefined) return
    if (this.#pipeline._transactions > 0) {
      openCommand(command).inTransaction = true
      this.#fatal ??= problem
    }
    disarmCommand(command, problem)
  }

  /** Why the pipeline may not be sent from here, if it may not. */
  problem(): TenancyError | undefined {
    if (this.#automatic === true) return undefined
    return this.#fatal ?? (this.#owner === undefined ? undefined : this.#foreign(this.#owner))
  }

  #decide(command: Command): TenancyError | undefined {
    const { name, args } = openCommand(command)
    const rule = ruleFor(name, args)
    if (rule.kind === 'transaction') return this.#transaction(command)
    const problem = this.#scopeProblem()
    if (problem !== undefined) return problem
    const scope = this.#host.tenancy.require()
    switch (rule.kind) {
      case 'keyed':
        return scopeCommand(command, rule, scope)
      case 'harmless':
        markDecided(command)
        return undefined
      case 'emulated':
        if (this.#automatic !== true)
          return refusal(
            name,
            args,
            'It takes several commands, so it cannot be part of a pipeline.',
          )
        answerInPipeline(command, () => this.#host.emulate(name, args, scope))
        return undefined
      case 'quit':
        return refusal(name, args, 'It would close the connection under others.')
      case 'refused':
        return refusal(name, args, rule.reason)
    }
  }

  /**
   * MULTI and EXEC come in pairs only when ioredis itself keeps count. A MULTI by `call('multi')` is not counted and would leave the shared
   * connection inside a transaction, which then swallows the commands of everybody. For the same reason a counted one is never replaced: what is wrong with it
   * keeps the whole pipeline from being sent.
   */
  #transaction(command: Command): TenancyError | undefined {
    const { name, args } = openCommand(command)
    const counted = this.#pipeline._transactions
    const step = counted - this.#transactions
    this.#transactions = counted
    const expected = { multi: 1, exec: -1, discard: 0 }[name.toLowerCase()]
    if (step !== expected || (step === 0 && counted === 0))
      return refusal(name, args, BARE_TRANSACTION_REASON)
    this.#fatal ??= this.#scopeProblem()
    if (step < 0 && this.#owner !== undefined) scopeExec(command, this.#owner)
    else markDecided(command)
    return undefined
  }

  /** Outside of a tenant, or in another one than the pipeline's. */
  #scopeProblem(): TenancyError | undefined {
    const { tenancy } = this.#host
    const scope = tenancy.current()
    if (scope === undefined) return contextMissing(tenancy)
    if (this.#automatic === true) return undefined
    this.#owner ??= scope
    return this.#foreign(this.#owner)
  }

  #foreign(owner: TenantScope): TenancyError | undefined {
    const { tenancy } = this.#host
    const scope = tenancy.current()
    if (scope === undefined) return contextMissing(tenancy)
    if (scope.tenant.id === owner.tenant.id) return undefined
    return new TenancyError(
      'ERR_TENANCY_CONTEXT_LOCKED',
      `This pipeline belongs to tenant ${owner.tenant.id} and was used in ${scope.tenant.id}.`,
      { hint: 'Build and send a pipeline in one tenant.', tenantId: owner.tenant.id },
    )
  }
}

/** The error of `tenancy.require()` outside of a tenant. */
export function contextMissing(tenancy: Tenancy): TenancyError {
  try {
    tenancy.require()
  } catch (error) {
    if (TenancyError.is(error)) return error
    throw error
  }
  return new TenancyError('ERR_TENANCY_CONTEXT_MISSING', 'No tenant context.')
}

function rejected(error: Error, callback: unknown): Promise<never> {
  const promise = Promise.reject(error)
  if (typeof callback === 'function') {
    promise.catch(() => {})
    process.nextTick(callback, error)
  }
  return promise
}
