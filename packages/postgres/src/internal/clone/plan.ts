import type { DatabaseEngine } from '../citus.ts'
import type { SchemaFacts } from './facts.ts'
import { quote } from './sql-text.ts'
import type { Statement, Step } from './step.ts'

/** What a clone is to be. */
export interface CloneTask {
  readonly source: string
  readonly target: string
  /** Who clones; what is made belongs to this role at first. */
  readonly user: string
  /** `server_version_num`. */
  readonly serverVersion: number
  readonly engine: DatabaseEngine
  /** The role of the source's tenant becomes that of the target's. */
  role(name: string): string
  readonly allRows: boolean
  /** Whether the rows of a table are copied, by its id. */
  hasRows(table: string): boolean
}

/** A text that the server keeps as it is, in which names are not references. */
export interface KeptText {
  readonly what: string
  /** `code`: names anywhere count. `definition`: printed by the server, which leaves names in literals alone. */
  readonly kind: 'code' | 'definition'
  readonly text: string
}

/** Collects the steps of a clone, and what is said about objects on the way. */
export class ClonePlan {
  readonly facts: SchemaFacts
  readonly task: CloneTask
  readonly steps: Step[] = []
  readonly texts: KeptText[] = []
  readonly #names = new Map<string, string>()
  readonly #aliases = new Map<string, string>()
  readonly #completed = new Map<string, string>()

  constructor(facts: SchemaFacts, task: CloneTask) {
    this.facts = facts
    this.task = task
  }

  /** Says that the step `id` makes `others` as well: who needs one of them needs it, and what they need, it needs. */
  alias(id: string, others: Iterable<string | null | undefined>): void {
    for (const other of others)
      if (other !== null && other !== undefined) this.#aliases.set(other, id)
  }

  /** Says that these objects are whole only when the step `by` is done: whoever else needs one of them needs that too. */
  complete(ids: readonly string[], by: string): void {
    for (const id of ids) this.#completed.set(id, by)
  }

  /** Adds a step with what it needs besides what `pg_depend` says. */
  add(
    step: Omit<Step, 'needs' | 'write'> & {
      readonly needs?: Iterable<string>
      readonly write: readonly Statement[] | Step['write']
    },
  ): void {
    const { write } = step
    this.steps.push({
      ...step,
      needs: new Set(step.needs),
      write: typeof write === 'function' ? write : () => write,
    })
  }

  /** The steps with all that they need, by what `pg_depend` says of them and of what they make as well. */
  connected(): Step[] {
    const own = new Map<string, string[]>()
    for (const [from, to] of this.facts.edges) {
      const id = this.step(from)
      const needs = own.get(id) ?? []
      own.set(id, needs)
      needs.push(this.step(to))
    }
    return this.steps.map((step) => ({
      ...step,
      needs: new Set(
        [...step.needs, ...(own.get(step.id) ?? [])]
          .map((need) => this.step(need))
          .flatMap((need) => this.#wholly(need, step.id))
          .filter((need) => need !== step.id && need !== step.without),
      ),
    }))
  }

  #wholly(need: string, by: string): string[] {
    const completed = this.#completed.get(need)
    const apart =
      completed !== undefined && completed !== by && this.#completed.get(by) !== completed
    return apart ? [need, completed] : [need]
  }

  /** The step that makes an object. */
  step(id: string): string {
    return this.#aliases.get(id) ?? id
  }

  /** Says how COMMENT ON names an object. */
  name(id: string, name: string): void {
    this.#names.set(id, name)
  }

  nameOf(id: string): string | undefined {
    return this.#names.get(id)
  }

  /** Gives what was made to its owner. */
  owned(kind: string, name: string, owner: string): string[] {
    const role = this.task.role(owner)
    return role === this.task.user ? [] : [`alter ${kind} ${name} owner to ${quote(role)}`]
  }

  /** Remembers texts that are copied as they are. */
  keep(what: string, kind: KeptText['kind'], ...texts: readonly (string | null)[]): void {
    for (const text of texts) if (text !== null) this.texts.push({ what, kind, text })
  }
}
