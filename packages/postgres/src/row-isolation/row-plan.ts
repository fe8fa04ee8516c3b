import {
  isTenantType,
  type RowIsolationRole,
  TENANT_TYPES,
  type TenantType,
} from './expressions.ts'
import type { RelationFacts, SchemaFacts } from './facts.ts'
import { type RowIsolationFinding, type RowIsolationFindingCode, rowFinding } from './findings.ts'
import { type RowIsolationStatement, type RowIsolationStep, STEPS } from './statement.ts'

export interface RowPlanOptions {
  readonly sharedTables: readonly string[]
  /** `undefined`: whichever of the two a table has, or else `'none'`. */
  readonly role: RowIsolationRole | undefined
  readonly tenantIdForExistingRows: string | undefined
  /** Tables with rows that are nobody's, by their oid. */
  readonly unowned: ReadonlySet<string>
}

/** The ledger of `migrateTenant` is about the schema, and no tenant's. */
const LEDGER = 'partywall_migrations'

/** What is covered, and what has been planned so far. */
export class RowPlan {
  readonly facts: SchemaFacts
  readonly options: RowPlanOptions
  /** Parents stand before their children. */
  readonly covered: readonly RelationFacts[]
  /** The type of columns that are added: that of those that are there, if they agree. */
  readonly newType: TenantType
  readonly #relations: ReadonlyMap<string, RelationFacts>
  readonly #covered: ReadonlySet<string>
  readonly #statements: RowIsolationStatement[] = []
  readonly #findings: RowIsolationFinding[] = []
  readonly #unforced = new Set<string>()

  constructor(facts: SchemaFacts, options: RowPlanOptions) {
    this.facts = facts
    this.options = options
    this.#relations = new Map(facts.relations.map((relation) => [relation.oid, relation]))
    const covered = facts.relations.filter((relation) => this.#isCovered(relation))
    this.#covered = new Set(covered.map(({ oid }) => oid))
    this.covered = covered
      .map((relation) => ({ relation, depth: this.ancestorsOf(relation).length }))
      .sort((a, b) => a.depth - b.depth)
      .map(({ relation }) => relation)
    const types = new Set(
      covered.flatMap(({ tenantColumn }) =>
        tenantColumn !== null && isTenantType(tenantColumn.type)
          ? [tenantColumn.type === 'character varying' ? 'text' : tenantColumn.type]
          : [],
      ),
    )
    const [only, ...others] = types
    this.newType = only === undefined || others.length > 0 ? TENANT_TYPES[0] : only
  }

  covers(oid: string): boolean {
    return this.#covered.has(oid)
  }

  relation(oid: string): RelationFacts | undefined {
    return this.#relations.get(oid)
  }

  /** The covered tables that a table inherits from, or is a partition of. */
  ancestorsOf(relation: RelationFacts): RelationFacts[] {
    const found = new Map<string, RelationFacts>()
    const visit = ({ parents }: RelationFacts): void => {
      for (const oid of parents) {
        const parent = this.#relations.get(oid)
        if (parent === undefined || found.has(oid) || !this.#covered.has(oid)) continue
        found.set(oid, parent)
        visit(parent)
      }
    }
    visit(relation)
    return [...found.values()]
  }

  /** The type of a table's column, now or when the plan has been applied; `undefined` if it cannot hold a tenant. */
  tenantTypeOf({ tenantColumn }: RelationFacts): TenantType | undefined {
    if (tenantColumn === null) return this.newType
    const { type, generated, deterministic } = tenantColumn
    return isTenantType(type) && !generated && deterministic ? type : undefined
  }

  add(step: RowIsolationStep, object: string, why: string, ...sql: readonly string[]): void {
    this.#statements.push(...sql.map((text) => ({ object, step, why, sql: text })))
  }

  find(code: RowIsolationFindingCode, object: string): void {
    this.#findings.push(rowFinding(code, object))
  }

  /**
   * Lifts FORCE from a table while its rows are looked at: to the owner, who alters it, a policy would show none of them. A foreign key that is added would be declared valid without a look at any row, or be
   * refused because it sees none of the rows that it leads to.
   */
  lookInto({ oid, sql, secured, forced }: RelationFacts): void {
    if (!secured || !forced || this.#unforced.has(oid)) return
    this.#unforced.add(oid)
    this.add(
      'unforce',
      sql,
      'its rows are looked at',
      `alter table ${sql} no force row level security`,
    )
  }

  /** Whether FORCE was lifted, and is to be set again. */
  lookedInto({ oid }: RelationFacts): boolean {
    return this.#unforced.has(oid)
  }

  /** In the order in which they run; what was added first comes first within a step. */
  get statements(): RowIsolationStatement[] {
    return STEPS.flatMap((step) => this.#statements.filter((statement) => statement.step === step))
  }

  /** Errors first. */
  get findings(): RowIsolationFinding[] {
    return ['error', 'warning'].flatMap((severity) =>
      this.#findings.filter((finding) => finding.severity === severity),
    )
  }

  #isCovered(relation: RelationFacts): boolean {
    if (relation.kind !== 'r' && relation.kind !== 'p') return false
    return relation.name !== LEDGER && !this.#isShared(relation)
  }

  /** A partition is what its table is. */
  #isShared({ name, isPartition, parents }: RelationFacts): boolean {
    if (this.options.sharedTables.includes(name)) return true
    const parent = isPartition ? this.#relations.get(parents[0] ?? '') : undefined
    return parent !== undefined && this.#isShared(parent)
  }
}
