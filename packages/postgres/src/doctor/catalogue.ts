import { findShadowedTables } from '../shadowed-tables.ts'
import { citusChecks } from './citus-checks.ts'
import type { Check, Lint, LintHead } from './lint.ts'
import { loginLints } from './login-lints.ts'
import { poolerChecks } from './pooler-checks.ts'
import { rowSecurityLints } from './row-security-lints.ts'
import { serverLints } from './server-lints.ts'
import { sharedSchemaLints } from './shared-schema-lints.ts'
import { tenantSchemaLints } from './tenant-schema-lints.ts'

/** Every lint that is one query over the catalogue. */
export const LINTS: readonly Lint[] = [
  ...loginLints,
  ...rowSecurityLints,
  ...tenantSchemaLints,
  ...sharedSchemaLints,
  ...serverLints,
]

export const CHECKS: readonly Check[] = [
  {
    code: 'PARTYWALL_SHARED_TABLE_SHADOWED',
    severity: 'error',
    title:
      'A table stands in a shared schema and with tenants: a tenant that lacks it reads and writes the shared one.',
    remedy: 'Rename one of the two, or drop the one in the shared schema.',
    async find({ sharedSchemas, tenants }, client) {
      const { rows } = await client.query<{ nspname: string }>(
        `select n.nspname from pg_catalog.pg_namespace n
        where n.nspname = any($1) or pg_catalog.obj_description(n.oid, 'pg_namespace') ~ '^partywall tenant .'`,
        [tenants?.places.map(({ schema }) => schema) ?? []],
      )
      const schemas = rows
        .map(({ nspname }) => nspname)
        .filter((schema) => !sharedSchemas.includes(schema))
      const found = await findShadowedTables(client, { schemas, sharedSchemas })
      return found.map(({ table, sharedSchema }) => `"${table}" in schema "${sharedSchema}"`)
    },
  },
  {
    code: 'PARTYWALL_UNVERIFIED_SOURCE',
    severity: 'error',
    title: 'Any client can enter any tenant: a source can be forged, and nothing authorizes.',
    remedy: 'Give createTenancy an authorize function, or sources that cannot be forged.',
    needs: 'tenancy',
    find: ({ unverifiedSources = [] }) => unverifiedSources.map((name) => `source ${name}`),
  },
  {
    code: 'PARTYWALL_TENANT_PLACE_INVALID',
    severity: 'error',
    title: "A tenant's record names a schema that cannot be a tenant's.",
    remedy: 'Correct placement.schema of the record; until then the tenant cannot be entered.',
    needs: 'tenants',
    find: ({ tenants }) => [...(tenants?.invalid ?? [])],
  },
  ...poolerChecks,
  ...citusChecks,
]

/** Not a lint, but the failure of one. */
export const LINT_FAILED: LintHead = {
  code: 'PARTYWALL_LINT_FAILED',
  severity: 'error',
  title: 'Something could not be checked, so nothing is known about it.',
  remedy: 'Read the error; run doctor again, with a role that may read the catalogue.',
}
