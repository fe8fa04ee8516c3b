import type pg from 'pg'
import { quoteIdentifier } from '../../search-path.ts'
import { edgesSql, factsSql, obstaclesSql } from './facts-sql.ts'

/** One right on an object. `grantee` is `null` for everybody. */
export interface Right {
  readonly grantee: string | null
  readonly grantor: string
  readonly right: string
  readonly grantable: boolean
}

/** Whose an object is, and who may do what with it; `null` where nothing was ever granted or revoked. */
export interface Rights {
  readonly owner: string
  readonly rights: readonly Right[] | null
}

/** What can have rights, as GRANT calls it. */
export type RightsKind = 'schema' | 'table' | 'sequence' | 'routine' | 'type'

export interface SequenceFacts {
  readonly name: string
  readonly type: string
  readonly start: string
  readonly increment: string
  readonly min: string
  readonly max: string
  readonly cache: string
  readonly cycle: boolean
  readonly persistence: 'p' | 'u'
}

export interface ColumnFacts {
  readonly number: number
  readonly name: string
  readonly type: string
  readonly typeId: string
  readonly collation: string | null
  readonly notNull: boolean
  readonly identity: 'a' | 'd' | null
  readonly sequence: SequenceFacts | null
  readonly generated: 's' | 'v' | null
  readonly default: string | null
  readonly defaultId: string | null
  readonly local: boolean
  readonly inherited: boolean
  readonly storage: string | null
  readonly compression: string | null
  readonly statistics: number | null
  readonly options: readonly string[] | null
}

export interface TableFacts extends Rights {
  readonly name: string
  readonly relkind: 'r' | 'p'
  readonly persistence: 'p' | 'u'
  readonly options: readonly string[] | null
  readonly toastOptions: readonly string[] | null
  readonly toasted: boolean
  readonly accessMethod: string | null
  readonly tablespace: string | null
  readonly ofType: string | null
  readonly partitionKey: string | null
  readonly partitionBound: string | null
  readonly parents: readonly string[] | null
  readonly replicaIdentity: 'd' | 'n' | 'f' | 'i'
  readonly replicaIndex: string | null
  readonly clusterIndex: string | null
  readonly rowSecurity: boolean
  /** Policies hide rows from whoever clones. */
  readonly hidden: boolean
  readonly forceRowSecurity: boolean
  readonly columns: readonly ColumnFacts[] | null
}

export interface ViewFacts extends Rights {
  readonly name: string
  readonly relkind: 'v' | 'm'
  readonly options: readonly string[] | null
  readonly accessMethod: string | null
  readonly tablespace: string | null
  readonly populated: boolean
  readonly toasted: boolean
  readonly definition: string
  readonly rule: string
  readonly clusterIndex: string | null
  readonly columns: readonly ColumnFacts[] | null
}

export interface ConstraintFacts {
  readonly name: string
  /** c check, f foreign key, n not null, p primary key, u unique, x exclusion. */
  readonly contype: 'c' | 'f' | 'n' | 'p' | 'u' | 'x'
  readonly table: string | null
  readonly domain: string | null
  readonly column: string | null
  readonly index: string | null
  readonly indexOptions: readonly string[] | null
  readonly tablespace: string | null
  readonly definition: string
  readonly validated: boolean
  readonly local: boolean
  readonly inherited: boolean
  readonly parent: string | null
  readonly references: string | null
}

export interface IndexFacts {
  readonly name: string
  readonly table: string
  readonly constraint: string | null
  readonly unique: boolean
  readonly partitioned: boolean
  readonly head: string
  readonly definition: string
  readonly tablespace: string | null
  readonly parent: string | null
  readonly statistics: readonly (readonly [column: number, target: number])[] | null
}

export interface TypeFacts extends Rights {
  readonly name: string
  /** c composite, d domain, e enum, r range. */
  readonly typtype: 'c' | 'd' | 'e' | 'r'
  readonly array: string
  readonly multirange: string | null
  readonly multirangeArray: string | null
  /** Of a composite type. */
  readonly relation: string | null
  /** Functions that come with a range. */
  readonly constructors: readonly string[] | null
  readonly labels: readonly string[] | null
  readonly base: string | null
  readonly baseId: string
  readonly notNull: boolean
  readonly default: string | null
  readonly collation: string | null
  readonly attributes:
    | readonly {
        readonly name: string
        readonly type: string
        readonly collation: string | null
      }[]
    | null
  readonly range: {
    readonly subtype: string
    readonly opclass: string | null
    readonly collation: string | null
    readonly canonical: string | null
    readonly diff: string | null
    readonly multirange: string
  } | null
}

export interface RoutineFacts extends Rights {
  readonly name: string
  /** f function, p procedure, w window function, a aggregate. */
  readonly prokind: 'f' | 'p' | 'w' | 'a'
  readonly signature: string
  readonly head: string
  readonly definition: string | null
  readonly sqlBody: string | null
  readonly arguments: string
  readonly source: string
  readonly config: readonly string[] | null
  readonly parallel: string
  readonly aggregate: Readonly<Record<string, string | number | boolean | null>> | null
}

/** The facts of each kind of object. */
export interface FactKinds {
  readonly schema: Rights
  /** The rights that a new object of the current user has: those that are built in, and those that default privileges of all schemas give instead. */
  readonly 'initial rights': {
    readonly kind: RightsKind
    readonly builtIn: readonly Right[] | null
    readonly here: readonly Right[] | null
  }
  readonly collation: { readonly name: string; readonly owner: string }
  readonly dictionary: {
    readonly name: string
    readonly owner: string
    readonly template: string
    readonly options: string | null
  }
  readonly 'text search': {
    readonly name: string
    readonly owner: string
    readonly parser: string
    readonly mappings: readonly (readonly [token: string, dictionaries: string])[] | null
  }
  readonly type: TypeFacts
  readonly 'row type': { readonly array: string; readonly relation: string }
  readonly sequence: Rights & {
    readonly name: string
    readonly sequence: SequenceFacts
    readonly owned: {
      readonly table: string
      readonly column: string
      readonly type: 'a' | 'i'
    } | null
  }
  readonly routine: RoutineFacts
  readonly operator: {
    readonly name: string
    readonly left: string | null
    readonly right: string
    readonly function: string
    readonly commutator: string | null
    readonly negator: string | null
    readonly restrict: string | null
    readonly join: string | null
    readonly hashes: boolean
    readonly merges: boolean
    readonly owner: string
  }
  readonly cast: {
    readonly source: string
    readonly target: string
    readonly method: 'f' | 'i' | 'b'
    readonly context: 'e' | 'a' | 'i'
    readonly function: string | null
  }
  readonly table: TableFacts
  readonly view: ViewFacts
  readonly constraint: ConstraintFacts
  readonly index: IndexFacts
  readonly statistics: {
    readonly name: string
    readonly table: string
    readonly kinds: readonly string[]
    readonly columns: string
    readonly target: number | null
    readonly owner: string
  }
  readonly trigger: {
    readonly name: string
    readonly table: string
    readonly definition: string
    readonly enabled: Firing
    readonly parent: boolean
  }
  readonly rule: {
    readonly name: string
    readonly table: string
    readonly definition: string
    readonly enabled: Firing
  }
  readonly policy: {
    readonly name: string
    readonly table: string
    readonly command: string
    readonly permissive: boolean
    /** `null` is everybody. */
    readonly roles: readonly (string | null)[]
    readonly using: string | null
    readonly check: string | null
  }
  readonly 'column rights': Rights & { readonly column: string }
  readonly 'default privileges': {
    readonly objects: string
    readonly owner: string
    readonly rights: readonly Right[]
  }
  readonly comment: { readonly on: string; readonly column: string | null; readonly text: string }
}

/** Origin, disabled, always, or as replica. */
export type Firing = 'O' | 'D' | 'A' | 'R'

/** An object by `classid:objid`, which is unique in the database. */
export type Fact<K extends keyof FactKinds> = FactKinds[K] & { readonly id: string }

/** An object that stands in the way of a copy. */
export interface Obstacle {
  readonly reason: string
  readonly name: string
}

/** All that is known of a schema. */
export class SchemaFacts {
  readonly edges: readonly (readonly [from: string, to: string])[]
  readonly obstacles: readonly Obstacle[]
  readonly #byKind = new Map<string, unknown[]>()

  constructor(
    rows: readonly { readonly kind: string; readonly id: string; readonly facts: object }[],
    edges: readonly { readonly source: string; readonly target: string }[],
    obstacles: readonly Obstacle[],
  ) {
    for (const { kind, id, facts } of rows) {
      const list = this.#byKind.get(kind) ?? []
      this.#byKind.set(kind, list)
      list.push({ ...facts, id })
    }
    this.edges = edges.map(({ source, target }) => [source, target])
    this.obstacles = obstacles
  }

  /** All of one kind, the oldest first. */
  of<K extends keyof FactKinds>(kind: K): readonly Fact<K>[] {
    return (this.#byKind.get(kind) ?? []) as Fact<K>[]
  }
}

/**
 * Reads a schema as it is to be made again under `path`, in which the schema stands where the new one will.
 *
 * `guard` is the new schema, which stands in front while the definitions are printed. It holds the two operators that Postgres uses by name, through the path, when it prints views: whoever may create operators
 * in the schema that is read could otherwise put code of their own in the place of those and have it run by whoever clones. The new schema is not visible to anybody else yet.
 */
export async function readFacts(
  client: Pick<pg.PoolClient, 'query'>,
  schema: string,
  guard: string,
  behind: string,
): Promise<SchemaFacts> {
  const own = quoteIdentifier(guard)
  const operator = (type: string, name: string): string =>
    `create operator ${own}.= (leftarg = pg_catalog.${type}, rightarg = pg_catalog.${type}, function = pg_catalog.${name})`
  const cursor = (name: string, sql: string): string =>
    `declare partywall_${name} no scroll cursor for ${sql}`
  const results = (await client.query(
    [
      'set local search_path = pg_catalog, pg_temp',
      'set local cursor_tuple_fraction = 1',
      // Compiling such queries takes far longer than running them.
      'set local jit = off',
      operator('oid', 'oideq'),
      operator('name', 'nameeq'),
      cursor('facts', factsSql(schema)),
      cursor('edges', edgesSql(schema)),
      cursor('obstacles', obstaclesSql(schema)),
      `set local search_path = ${own}, ${quoteIdentifier(schema)}, ${behind}`,
      'fetch all from partywall_facts',
      'fetch all from partywall_edges',
      'fetch all from partywall_obstacles',
      'close partywall_facts',
      'close partywall_edges',
      'close partywall_obstacles',
      'set local search_path = pg_catalog, pg_temp',
      `drop operator ${own}.= (pg_catalog.oid, pg_catalog.oid), ${own}.= (pg_catalog.name, pg_catalog.name)`,
    ].join(';\n'),
  )) as unknown as pg.QueryResult[]
  const fetched = results.filter(({ command }) => command === 'FETCH').map(({ rows }) => rows)
  return new SchemaFacts(
    fetched[0] as { kind: string; id: string; facts: object }[],
    fetched[1] as { source: string; target: string }[],
    fetched[2] as Obstacle[],
  )
}
