import {
  assertKnownKeys,
  errorText,
  type Tenancy,
  TenancyError,
  type TenantPlacement,
} from '@partywall/core'
import type pg from 'pg'
import { CHECKS, LINT_FAILED, LINTS } from './doctor/catalogue.ts'
import { type DoctorFacts, readTenants, type TenantFacts } from './doctor/facts.ts'
import {
  type Check,
  type FindingCode,
  type FindingSeverity,
  findEvidence,
  type Lint,
  type LintHead,
} from './doctor/lint.ts'
import { assertEngine, type DatabaseEngine } from './internal/citus.ts'
import { poolerProblems } from './internal/pooler-problems.ts'
import { withTransaction } from './internal/with-transaction.ts'
import { probePooler } from './pooler-probe.ts'
import { assertSchemaName } from './search-path.ts'
import type { TenantPool } from './tenant-pool.ts'

export type { FindingCode, FindingSeverity }

export interface DoctorOptions {
  /** Whose tenants the schemas are compared with, and whose sources are judged. Absent: neither, and `checked` shows it. */
  readonly tenancy?: Tenancy | undefined
  /** The shared schemas of the pool. @defaultValue `['public']` */
  readonly sharedSchemas?: readonly string[] | undefined
  /** Where `central` is, in the words of tenants' records: `pool.centralOf(tenant)` goes with `tenant.placement`. @defaultValue `{}`: the pool's own database */
  readonly place?: Pick<TenantPlacement, 'cluster' | 'database'> | undefined
  /** The role that the application logs in as. @defaultValue the role that `central` logs in as */
  readonly loginRole?: string | undefined
  /** The pool of the application, to find out what stands between it and the server. Absent: that is not looked at, and `checked` shows it. */
  readonly pool?: TenantPool | undefined
  /** `'citus'`: tenants' schemas are to be distributed. Where the extension is installed, its lints run anyway. @defaultValue `'postgres'` */
  readonly engine?: DatabaseEngine | undefined
}

/** An unsafe fact. */
export interface Finding {
  /** Never changes its meaning; the texts may change. */
  readonly code: FindingCode
  readonly severity: FindingSeverity
  readonly title: string
  /** Where it was found: at most 100 places, and the number of the others. */
  readonly evidence: readonly string[]
  readonly remedy: string
}

export interface DoctorReport {
  /** No finding is an error. */
  readonly ok: boolean
  /** Errors first, then by code. */
  readonly findings: readonly Finding[]
  /** The codes of the lints that ran to their end. What is not in here is not known to be well. */
  readonly checked: readonly string[]
}

const SEVERITIES: readonly FindingSeverity[] = ['error', 'warning', 'info']

/**
 * Looks for facts in the database that would let one tenant reach the data of another: see docs/reference/doctor.md for every code.
 *
 * Reads `pg_catalog` alone, in one read-only transaction and one snapshot; it locks no table, changes nothing, and may be repeated at any time, also on a standby. With `pool` it
 * also opens a few connections as the pool would, see `probePooler`. A lint that fails is a finding
 * `PARTYWALL_LINT_FAILED`, and the others run all the same.
 *
 * @param central - a pool outside of every tenant, `pool.central`.
 * @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` for options that are wrong or a role that does not exist. Rejects with the error of the driver if the server cannot be asked.
 */
export async function doctor(central: pg.Pool, options: DoctorOptions = {}): Promise<DoctorReport> {
  assertKnownKeys('doctor', options, [
    'tenancy',
    'sharedSchemas',
    'place',
    'loginRole',
    'pool',
    'engine',
  ])
  const {
    tenancy,
    sharedSchemas = ['public'],
    place = {},
    loginRole,
    pool,
    engine = 'postgres',
  } = options
  assertEngine(engine)
  if (!Array.isArray(sharedSchemas))
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      'sharedSchemas must be a list of schema names.',
    )
  for (const schema of sharedSchemas) assertSchemaName(schema)

  const round = new Round()
  // Before the transaction: a store that shares the pool must not wait for the connection that waits for it.
  const tenants = tenancy === undefined ? undefined : await round.tenantsOf(tenancy, place)
  const pooler = pool === undefined ? undefined : await round.poolerOf(pool)
  await withTransaction(central, async (client) => {
    await client.query('set transaction isolation level repeatable read, read only')
    // Whatever functions and operators others have planted in a schema, the server's own are meant. JIT costs more than such a query.
    await client.query(
      "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('jit', 'off', true)",
    )
    const server = await readServer(client, loginRole)
    await round.run(client, {
      ...server,
      sharedSchemas,
      engine,
      tenants,
      pooler,
      unverifiedSources: tenancy?.unverifiedSources,
    })
  })
  return round.report()
}

/** The role of the application, and the version. */
async function readServer(
  client: pg.PoolClient,
  loginRole: string | undefined,
): Promise<Pick<DoctorFacts, 'loginRole' | 'serverVersion'>> {
  const { rows } = await client.query<{ role: string; version: number }>(
    `select rolname as role, current_setting('server_version_num')::int as version
    from pg_catalog.pg_roles where rolname = coalesce($1::text, session_user::text)`,
    [loginRole],
  )
  const [row] = rows
  // Every lint about a role that is none would find nothing, and look well.
  if (row === undefined)
    throw new TenancyError(
      'ERR_TENANCY_OPTION_INVALID',
      `loginRole: there is no role ${JSON.stringify(loginRole)}.`,
    )
  return { loginRole: row.role, serverVersion: row.version }
}

/** One round of the doctor. @internal */
export class Round {
  readonly #findings: Finding[] = []
  readonly #failures: string[] = []
  readonly #checked: string[] = []
  readonly #lints: readonly Lint[]
  readonly #checks: readonly Check[]

  constructor(lints = LINTS, checks = CHECKS) {
    this.#lints = lints
    this.#checks = checks
  }

  /** The tenants, or a failure that says what stays unknown without them. */
  async tenantsOf(
    tenancy: Tenancy,
    place: Pick<TenantPlacement, 'cluster' | 'database'> = {},
  ): Promise<TenantFacts | undefined> {
    try {
      return await readTenants(tenancy, place)
    } catch (error) {
      const blind = [...this.#lints, ...this.#checks].filter(({ needs }) => needs === 'tenants')
      this.#failures.push(
        `${blind.map(({ code }) => code).join(', ')}: the tenants could not be listed: ${errorText(error)}`,
      )
      return undefined
    }
  }

  /** What is wrong between the pool and the server, or a failure. */
  async poolerOf(pool: TenantPool): Promise<readonly string[] | undefined> {
    try {
      const report = await probePooler(pool)
      const problems = poolerProblems(report, pool.pooler)
      return problems.map(({ what, remedy }) => [what, ...report.evidence, remedy].join(' '))
    } catch (error) {
      this.#failures.push(`PARTYWALL_POOLER_UNSAFE: ${errorText(error)}`)
      return undefined
    }
  }

  async run(client: pg.PoolClient, facts: DoctorFacts): Promise<void> {
    for (const lint of this.#lints)
      await this.#attempt(client, facts, lint, () => findEvidence(client, lint, facts))
    for (const check of this.#checks)
      await this.#attempt(client, facts, check, () => check.find(facts, client))
  }

  async #attempt(
    client: pg.PoolClient,
    facts: DoctorFacts,
    lint: LintHead & Pick<Check, 'needs'>,
    find: () => string[] | Promise<string[]>,
  ): Promise<void> {
    if (lint.needs === 'tenants' && facts.tenants === undefined) return
    if (lint.needs === 'tenancy' && facts.unverifiedSources === undefined) return
    if (lint.needs === 'pool' && facts.pooler === undefined) return
    // One that fails must not take the transaction, and with it all that follow, along.
    await client.query('savepoint lint')
    try {
      const evidence = await find()
      this.#checked.push(lint.code)
      if (evidence.length > 0) this.#findings.push(findingOf(lint, evidence))
    } catch (error) {
      await client.query('rollback to savepoint lint')
      this.#failures.push(`${lint.code}: ${errorText(error)}`)
    }
  }

  report(): DoctorReport {
    const failed = this.#failures.length === 0 ? [] : [findingOf(LINT_FAILED, this.#failures)]
    const findings = [...this.#findings, ...failed].sort(
      (a, b) =>
        SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) ||
        (a.code < b.code ? -1 : 1),
    )
    return {
      ok: findings.every(({ severity }) => severity !== 'error'),
      findings,
      checked: [...this.#checked],
    }
  }
}

function findingOf({ code, severity, title, remedy }: LintHead, evidence: string[]): Finding {
  return { code, severity, title, evidence, remedy }
}
