/** One thing that a clone does: an object that is made, rows that are copied, a setting. */
export interface Step {
  /** `classid:objid` of the object, or that with a word in front for what is done to it later. */
  readonly id: string
  /** For people: `table orders`. */
  readonly what: string
  readonly rank: Rank
  /** Ids of what must be there before. Ids of no step are passed over. */
  readonly needs: ReadonlySet<string>
  /** What it does not need, whatever `pg_depend` says. */
  readonly without?: string | undefined
  /** It runs functions of the schema, which look for names as they do in the tenant's own path. */
  readonly runs?: true | undefined
  /** The id of a step that can take this one into its own statement, unless that makes a circle. */
  readonly within?: string | undefined
  /** @param taken - the ids of the steps that this one takes in. */
  write(taken: ReadonlySet<string>): readonly Statement[]
}

/** A statement, or an action on one table alone: neighbours on the same table become one statement, and one scan. */
export type Statement = string | { readonly table: string; readonly action: string }

/** Of all that could be done next, the lowest rank is: rows before constraints, constraints before triggers. Higher ones come earlier where lower ones need them. */
export const Rank = {
  type: 0,
  sequence: 1,
  routine: 2,
  operator: 3,
  table: 4,
  attach: 5,
  default: 6,
  owned: 7,
  view: 8,
  rows: 9,
  state: 10,
  constraint: 11,
  index: 12,
  attachIndex: 13,
  foreignKey: 14,
  setting: 15,
  cast: 16,
  refresh: 17,
  viewIndex: 18,
  trigger: 19,
} as const
export type Rank = (typeof Rank)[keyof typeof Rank]

/** A step in its place, with the steps that it takes in. */
export interface OrderedStep {
  readonly step: Step
  readonly taken: ReadonlySet<string>
}

/** Steps that need each other in a circle. */
export class CircleError extends Error {
  readonly steps: readonly Step[]

  constructor(steps: readonly Step[]) {
    super(`A circle of ${steps.map(({ what }) => what).join(', ')}`)
    this.steps = steps
  }
}

/**
 * Puts every step behind all that it needs, and among those that can be next the one of the lowest rank, the first given first.
 *
 * @throws {CircleError} with what is left when nothing can be next.
 */
export function inOrder(steps: readonly Step[]): OrderedStep[] {
  const order = new Order(steps)
  for (;;) {
    const next = order.take()
    if (next === undefined && order.left().length === 0) return order.done
    if (next === undefined && !order.loosen()) throw new CircleError(order.left())
  }
}

class Order {
  readonly done: OrderedStep[] = []
  readonly #steps: ReadonlyMap<string, Step>
  /** Parts that stand in the statement of another step. */
  readonly #parts = new Map<string, Set<string>>()
  readonly #finished = new Set<string>()
  /** Of every step that is left, what it waits for. */
  #waits = new Map<string, Set<string>>()
  #waiters = new Map<string, string[]>()
  #ready: readonly string[][] = []

  constructor(steps: readonly Step[]) {
    this.#steps = new Map(steps.map((step) => [step.id, step]))
    for (const { id, within } of steps) {
      if (within === undefined) continue
      const parts = this.#parts.get(within) ?? new Set()
      this.#parts.set(within, parts.add(id))
    }
    this.#count()
  }

  left(): Step[] {
    return [...this.#waits.keys()].flatMap((id) => this.#steps.get(id) ?? [])
  }

  take(): Step | undefined {
    const id = this.#ready.find((queue) => queue.length > 0)?.shift()
    const step = id === undefined ? undefined : this.#steps.get(id)
    if (step === undefined) return undefined
    const taken = this.#parts.get(step.id) ?? new Set<string>()
    this.done.push({ step, taken })
    this.#waits.delete(step.id)
    for (const finished of [step.id, ...taken]) {
      this.#finished.add(finished)
      for (const waiter of this.#waiters.get(finished) ?? []) {
        const waits = this.#waits.get(waiter)
        if (waits?.delete(finished) === true && waits.size === 0) this.#enqueue(waiter)
      }
    }
    return step
  }

  /** Nothing can be next: lets parts that stand in the way be steps of their own, if possible of steps that wait for nothing else. */
  loosen(): boolean {
    const blocking = [...this.#parts].flatMap(([host, parts]) =>
      this.#waits.has(host)
        ? [...parts]
            .filter((part) => this.#open(part).some((id) => this.#host(id) !== host))
            .map((part) => ({ host, part }))
        : [],
    )
    const alone = blocking.filter(({ host }) =>
      this.#open(host).every((id) => this.#host(id) === host),
    )
    for (const { host, part } of alone.length > 0 ? alone : blocking)
      this.#parts.get(host)?.delete(part)
    if (blocking.length > 0) this.#count()
    return blocking.length > 0
  }

  #host(id: string): string {
    const within = this.#steps.get(id)?.within
    return within !== undefined && this.#parts.get(within)?.has(id) === true ? within : id
  }

  /** What a step by itself still needs. */
  #open(id: string): string[] {
    return [...(this.#steps.get(id)?.needs ?? [])].filter(
      (need) => this.#steps.has(need) && !this.#finished.has(need),
    )
  }

  #count(): void {
    this.#waits = new Map()
    this.#waiters = new Map()
    this.#ready = Object.values(Rank).map(() => [])
    for (const id of this.#steps.keys()) {
      if (this.#finished.has(id) || this.#host(id) !== id) continue
      const needs = [id, ...(this.#parts.get(id) ?? [])].flatMap((part) => this.#open(part))
      const within = this.#steps.get(id)?.within
      if (within !== undefined && !this.#finished.has(within)) needs.push(within)
      const waits = new Set(needs.map((need) => this.#host(need)).filter((need) => need !== id))
      this.#waits.set(id, waits)
      for (const need of waits) {
        const waiters = this.#waiters.get(need) ?? []
        this.#waiters.set(need, waiters)
        waiters.push(id)
      }
      if (waits.size === 0) this.#enqueue(id)
    }
  }

  #enqueue(id: string): void {
    this.#ready[this.#steps.get(id)?.rank ?? Rank.type]?.push(id)
  }
}
