/** A bug of the kind that leaks one tenant's data to another, and the row of the suite that must catch it. */
export interface PlantedLeak {
  readonly name: string
  /** What somebody might have written, in a sentence. */
  readonly what: string
  /** The row of the isolation suite that must turn red. */
  readonly row: string
  /** The test files to run. */
  readonly files: readonly string[]
  /** Changes to the sources: `find` must stand exactly once. */
  readonly edits: readonly {
    readonly file: string
    readonly find: string
    readonly replace: string
  }[]
}

const CONTEXT = 'packages/core/src/tenant-context.ts'
const RESOLUTION = 'packages/core/src/resolution.ts'
const CONNECTION = 'packages/postgres/src/internal/scoped-connection.ts'
const PREFIX = 'packages/postgres/src/internal/tenant-prefix.ts'
const SCOPE = 'packages/postgres/src/internal/scope-statement.ts'
const DATABASES = 'packages/postgres/src/internal/database-pools.ts'
const POOL = 'packages/postgres/src/tenant-pool.ts'
const ROWS = 'packages/postgres/src/row-isolation'
const ROW_SUITE = ['test/isolation/row-isolation.test.ts']

export const plantedLeaks: readonly PlantedLeak[] = [
  {
    name: 'enter-with',
    what: 'the context is entered by enterWith, which leaks into the caller',
    row: 'C4',
    files: ['test/isolation/context.test.ts'],
    edits: [
      {
        file: CONTEXT,
        find: '    }\n    return this.#storage.run(Object.freeze({ owner: this, scope }), fn, scope)',
        replace:
          '    }\n    this.#storage.enterWith(Object.freeze({ owner: this, scope }))\n    return fn(scope)',
      },
    ],
  },
  {
    name: 'module-level-tenant',
    what: 'the current tenant is a variable of the process',
    row: 'C1',
    files: ['test/isolation/context.test.ts'],
    edits: [
      {
        file: CONTEXT,
        find: '    return state !== undefined && state.owner === this ? state.scope : undefined',
        replace:
          '    return state === undefined ? undefined : (globalThis as unknown as { last?: TenantScope }).last',
      },
      {
        file: CONTEXT,
        find: '    const state = this.#storage.getStore()\n    if (state !== undefined) {',
        replace:
          '    const state = this.#storage.getStore()\n    ;(globalThis as unknown as { last?: TenantScope }).last = scope\n    if (state !== undefined) {',
      },
    ],
  },
  {
    name: 'unknown-becomes-default',
    what: 'a tenant that is not found becomes the default tenant',
    row: 'I2',
    files: [
      'test/isolation/identification-http.test.ts',
      'test/isolation/identification-core.test.ts',
    ],
    edits: [
      {
        file: RESOLUTION,
        find: "      if (tenant === undefined) return this.#refuse(candidate, 'unknown')",
        replace:
          "      if (tenant === undefined)\n        return this.#fallback === undefined || candidate.source === 'fallback' ? this.#refuse(candidate, 'unknown') : this.#admit(this.#fallback, request, details)",
      },
    ],
  },
  {
    name: 'first-source-wins',
    what: 'the first source wins where two disagree',
    row: 'I1',
    files: ['test/isolation/identification-http.test.ts'],
    edits: [
      {
        file: RESOLUTION,
        find: '      else if (candidate.id !== id)',
        replace: '      else if (candidate.id === "")',
      },
    ],
  },
  {
    name: 'membership-ignored',
    what: 'what authorize answers is not looked at',
    row: 'I1',
    files: ['test/isolation/identification-http.test.ts'],
    edits: [
      {
        file: RESOLUTION,
        find: "          if (granted === undefined) return this.#refuse(candidate, 'forbidden')\n",
        replace: '',
      },
    ],
  },
  {
    name: 'first-of-joined-headers',
    what: 'of a repeated header the first value counts',
    row: 'I4',
    files: ['test/isolation/identification-http.test.ts'],
    edits: [
      {
        file: 'packages/core/src/resolvers/header.ts',
        find: "      if (value?.includes(','))\n        throw",
        replace:
          "      if (value?.includes(',')) return value.split(',')[0]\n      if (value === 'never')\n        throw",
      },
    ],
  },
  {
    name: 'registry-is-an-object',
    what: 'tenants are looked up in a plain object',
    row: 'I14',
    files: ['test/isolation/identification-core.test.ts'],
    edits: [
      {
        file: 'packages/core/src/memory-tenant-store.ts',
        find: '    return this.#tenants.get(id)\n  }\n\n  async findByDomain',
        replace:
          '    return (Object.fromEntries(this.#tenants) as Record<string, Tenant>)[id]\n  }\n\n  async findByDomain',
      },
    ],
  },
  {
    name: 'session-set',
    what: 'the search_path is set for the session, once for each checkout',
    row: 'D1',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: SCOPE,
        find: 'placeholder(index)}, true)',
        replace: 'placeholder(index)}, false)',
      },
      {
        file: CONNECTION,
        find: "    return this.#status === 'I' || (this.#status === 'T' && this.#rescope)",
        replace: '    return this.#fresh',
      },
    ],
  },
  {
    name: 'memoised-tenant',
    what: 'the scope of the first tenant is kept for all',
    row: 'D1',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: PREFIX,
        find: 'new WeakMap<Tenant, TenantPrefix>()',
        replace:
          '{ first: undefined as TenantPrefix | undefined, get(_: Tenant) { return this.first }, set(_: Tenant, bytes: TenantPrefix) { this.first ??= bytes } }',
      },
    ],
  },
  {
    name: 'transaction-status-ignored',
    what: 'a client goes back to the pool with its transaction open',
    row: 'D3',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: CONNECTION,
        find: "    if (this.#status === 'T') return 'an open transaction'\n    if (this.#status === 'E') return 'a failed transaction'\n",
        replace: '',
      },
    ],
  },
  {
    name: 'client-after-release',
    what: 'a client can be used after it was released',
    row: 'D4',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: 'packages/postgres/src/internal/client-handle.ts',
        find: "    if (released)\n      return new TenancyError('ERR_TENANCY_USE_AFTER_RELEASE', 'The client was released.'",
        replace:
          "    if (scope.source === 'never')\n      return new TenancyError('ERR_TENANCY_USE_AFTER_RELEASE', 'The client was released.'",
      },
    ],
  },
  {
    name: 'unawaited-queries',
    what: 'a client goes back to the pool with statements under way',
    row: 'D5',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: 'packages/postgres/src/tenant-client.ts',
        find: "this.settled ? this.#connection.residue : 'an unfinished statement'",
        replace: 'undefined',
      },
      {
        file: 'packages/postgres/src/tenant-client.ts',
        find: '    if (!this.settled) this.#connection.stream.destroy()\n',
        replace: '',
      },
      {
        file: 'packages/postgres/src/tenant-client.ts',
        find: '    this.#connection.takeBack()\n    // A BEGIN',
        replace: '    // A BEGIN',
      },
    ],
  },
  {
    name: 'no-tenant-carries-on',
    what: 'a query without a tenant runs as the last one',
    row: 'D6',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: POOL,
        find: '      const scope = this.#tenancy.require()\n',
        replace:
          '      const last = globalThis as unknown as { scope?: TenantScope }\n      const scope = (last.scope = this.#tenancy.current() ?? last.scope ?? this.#tenancy.require())\n',
      },
    ],
  },
  {
    name: 'missing-schema-skipped',
    what: 'nobody checks that the schema exists, so the shared one answers',
    row: 'D7',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: SCOPE,
        find: 'placeholder(settings.length)}::pg_catalog.regnamespace',
        replace: 'placeholder(settings.length)}::pg_catalog.text',
      },
      {
        file: SCOPE,
        find: "not pg_catalog.has_schema_privilege(${schema}::pg_catalog.oid, 'USAGE')",
        replace: 'false',
      },
    ],
  },
  {
    name: 'shadowed-tables-allowed',
    what: 'a table may exist in a shared schema and in tenants',
    row: 'D8',
    files: ['test/isolation/database.test.ts'],
    edits: [
      {
        file: 'packages/postgres/src/shadowed-tables.ts',
        find: '    [sharedSchemas, schemas, expected],\n  )\n  return rows',
        replace: '    [sharedSchemas, schemas, expected],\n  )\n  return rows.slice(rows.length)',
      },
    ],
  },
  {
    name: 'listeners-of-the-socket',
    what: 'listeners of a response run in the context of whoever emits, for pipelined requests another tenant',
    row: 'C3',
    files: ['test/isolation/hosts.test.ts'],
    edits: [
      {
        file: 'packages/core/src/http-entry.ts',
        find: '  if (there || this.listenerCount(args[0]) === 0) return emit.apply(this, args)',
        replace: '  if (there || this.listenerCount(args[0]) >= 0) return emit.apply(this, args)',
      },
    ],
  },
  {
    name: 'cache-key-without-tenant',
    what: 'the key on the server does not hold the tenant',
    row: 'K1',
    files: ['test/isolation/cache.test.ts'],
    edits: [
      {
        file: 'packages/cache/src/internal/wire-key.ts',
        find: 'return `${tenantId}:`',
        replace: 'return `${tenantId.slice(tenantId.length)}cache:`',
      },
    ],
  },
  {
    name: 'flush-of-everybody',
    what: 'FLUSHDB of one tenant goes through the keys of all',
    row: 'K2',
    files: ['test/isolation/cache.test.ts'],
    edits: [
      {
        file: 'packages/cache/src/internal/tenant-keyspace.ts',
        find: "const pattern = addPatternPrefix(prefix, '*')",
        replace: "const pattern = addPatternPrefix('', '*')",
      },
      {
        file: 'packages/cache/src/internal/tenant-keyspace.ts',
        find: 'stripPrefix(prefix, key) !== undefined',
        replace: 'key.length > 0',
      },
    ],
  },
  {
    name: 'payload-names-the-tenant',
    what: 'a job runs as the tenant that its data names',
    row: 'J1',
    files: ['test/isolation/scheduler.test.ts'],
    edits: [
      {
        file: 'packages/scheduler/src/tenant-scheduler.ts',
        find: '        job.tenantId,\n        async (scope) => {',
        replace:
          "        (JSON.parse(job.data ?? 'null') as { tenantId?: string } | null)?.tenantId ?? job.tenantId,\n        async (scope) => {",
      },
    ],
  },
  {
    name: 'role-of-the-gate',
    what: 'the tenant’s role is not set, and the one before stays',
    row: 'D12',
    files: ['test/isolation/roles.test.ts'],
    edits: [
      {
        file: SCOPE,
        find: 'placeholder(index)}, true)',
        replace: "placeholder(index)}, ${setting !== 'role'})",
      },
    ],
  },
  {
    name: 'empty-setting-is-a-tenant',
    what: 'the setting that an earlier tenant left empty counts as a tenant',
    row: 'D10',
    files: ROW_SUITE,
    edits: [
      {
        file: `${ROWS}/expressions.ts`,
        find: "sql: `nullif(${SETTING}, '')${cast}`",
        replace: 'sql: SETTING + cast',
      },
      {
        file: `${ROWS}/expressions.ts`,
        find: "`NULLIF(${PRINTED_SETTING}, ''::text)`",
        replace: 'PRINTED_SETTING',
      },
    ],
  },
  {
    name: 'policy-without-check',
    what: 'whatever may be read may be written, in the name of anybody',
    row: 'D11',
    files: ROW_SUITE,
    edits: [
      {
        file: `${ROWS}/policies.ts`,
        find: 'with check (${condition})',
        replace: 'with check (true)',
      },
      { file: `${ROWS}/policies.ts`, find: 'check === condition', replace: "check === 'true'" },
    ],
  },
  {
    name: 'policies-not-forced',
    what: 'policies do not hold for the owner of the tables',
    row: 'D9',
    files: ROW_SUITE,
    edits: [
      {
        file: `${ROWS}/policies.ts`,
        find: 'if (!secured || !forced)',
        replace: 'if (!secured)',
      },
      {
        file: `${ROWS}/policies.ts`,
        find: "...(forced ? [] : ['force row level security'])",
        replace: '',
      },
    ],
  },
  {
    name: 'truncate-stays-granted',
    what: 'rights that no policy bounds stay with whoever has them',
    row: 'D11',
    files: ROW_SUITE,
    edits: [
      {
        file: `${ROWS}/policies.ts`,
        find: 'of relation.dangerousGrants)',
        replace: 'of relation.dangerousGrants.slice(0, 0))',
      },
    ],
  },
  {
    name: 'role-without-say',
    what: 'a policy of roles looks at the setting alone',
    row: 'D12',
    files: ROW_SUITE,
    edits: [
      {
        file: `${ROWS}/expressions.ts`,
        find: "if (role === 'per-tenant') {",
        replace: "if (role === ('never' as string)) {",
      },
    ],
  },
  {
    name: 'role-beside-the-setting',
    what: 'a policy compares the role with the setting, which a statement changes after it has been let in',
    row: 'D12',
    files: ROW_SUITE,
    edits: [
      {
        file: `${ROWS}/expressions.ts`,
        find: `    const isRoles = tenantRoleGuard(text, CURRENT_USER)
    return {
      sql: \`\${isTenants.sql} and \${isRoles.sql}\`,
      printed: \`(\${isTenants.printed} AND \${isRoles.printed})\`,
    }`,
        replace: `    return equality(
      \`case when current_user = 'tenant-' || \${SETTING} then \${value.sql} end\`,
      \`\\nCASE\\n    WHEN (CURRENT_USER = ('tenant-'::text || \${PRINTED_SETTING})) THEN \${value.printed}\\n    ELSE NULL::text\\nEND\`,
    )`,
      },
    ],
  },
  {
    name: 'first-database-of-a-cluster',
    what: 'the settings of a cluster are remembered with the database that was asked for first',
    row: 'D1',
    files: ['test/isolation/databases.test.ts'],
    edits: [
      {
        file: DATABASES,
        find: 'return database === undefined ? cluster.connection : { ...cluster.connection, database }',
        replace:
          'const kept = cluster as { first?: pg.ClientConfig }\n    return (kept.first ??= database === undefined ? cluster.connection : { ...cluster.connection, database })',
      },
    ],
  },
  {
    name: 'database-in-a-url',
    what: 'the name of a database is put into a connection string',
    row: 'D17',
    files: ['test/isolation/database-names.test.ts'],
    edits: [
      {
        file: DATABASES,
        find: 'return database === undefined ? cluster.connection : { ...cluster.connection, database }',
        replace:
          'const { user, password, host, port } = cluster.connection\n    return database === undefined ? cluster.connection : { connectionString: `postgres://${user}:${password}@${host}:${port}/${database}` }',
      },
    ],
  },
  {
    name: 'prisma-gathers-tenants',
    what: 'the Prisma client of a tenant is guarded where its statements are sent, after it has gathered the calls of a tick',
    row: 'D15',
    files: ['test/interop/prisma.test.ts'],
    edits: [
      {
        file: 'packages/postgres/src/tenant-prisma.ts',
        find: '    assertOwn()\n    return query(args)',
        replace: '    return query(args)',
      },
    ],
  },
  {
    name: 'prisma-writes-public',
    what: 'PrismaPg on the pool itself, which writes public in front of every table, is let through',
    row: 'D15',
    files: ['test/interop/prisma.test.ts'],
    edits: [
      {
        file: 'packages/postgres/src/internal/foreign-schema.ts',
        find: "if (rowMode !== 'array' ||",
        replace: "if (rowMode === 'array' ||",
      },
    ],
  },
]
