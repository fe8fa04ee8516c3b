import type { Lint } from './lint.ts'

/**
 * The minor versions that fixed a leak past row level security, from the records of PostgreSQL's own numbering authority (postgresql.org/support/security):
 *
 * - CVE-2024-10976: "before PostgreSQL 17.1, 16.5, 15.9, 14.14, 13.17, and 12.21". Plans that were made under one role were reused under another.
 * - CVE-2025-8713: "before PostgreSQL 17.6, 16.10, 15.14, 14.19, and 13.22". Statistics told of rows that a policy hides.
 *
 * Postgres 18 never had either. A major version older than the first of a row got no fix.
 */
const FIXED_IN: Readonly<Record<string, readonly (readonly [major: number, minor: number])[]>> = {
  'CVE-2024-10976': [
    [12, 21],
    [13, 17],
    [14, 14],
    [15, 9],
    [16, 5],
    [17, 1],
  ],
  'CVE-2025-8713': [
    [13, 22],
    [14, 19],
    [15, 14],
    [16, 10],
    [17, 6],
  ],
}

const FIXED_VALUES = Object.entries(FIXED_IN)
  .flatMap(([cve, versions]) => versions.map(([major, minor]) => `('${cve}', ${major}, ${minor})`))
  .join(', ')

/** What is wrong with the server and its settings. */
export const serverLints: readonly Lint[] = [
  {
    code: 'PARTYWALL_SERVER_VULNERABLE',
    severity: 'error',
    title: 'The server lacks a published fix of a leak past row level security or past grants.',
    remedy: 'Install the newest minor version of Postgres; data files stay as they are.',
    sql: `select fixed.cve, version / 10000 || '.' || version % 10000 as version, fixed.major || '.' || fixed.minor as fix
      from server cross join (
        select cve, major, minor, min(major) over (partition by cve) as first from (values ${FIXED_VALUES}) as known (cve, major, minor)
      ) fixed
      where (version / 10000 = major and version % 10000 < minor) or (major = first and version / 10000 < first)`,
    evidence: ({
      cve,
      version,
      fix,
    }: {
      readonly cve: string
      readonly version: string
      readonly fix: string
    }) => `server ${version}: ${cve}, fixed in ${fix}`,
  },
  {
    code: 'PARTYWALL_SEARCH_PATH_SET',
    severity: 'warning',
    title:
      'The server gives the application a search_path. A TenantPool is not moved by it; every other connection of the application is.',
    remedy: 'alter role ... reset search_path, or alter database ... reset search_path.',
    sql: `select coalesce(role.rolname, '') as role, coalesce(db.datname, '') as database, substr(setting, length('search_path=') + 1) as path
      from pg_catalog.pg_db_role_setting s cross join unnest(s.setconfig) setting cross join login
      left join pg_catalog.pg_roles role on role.oid = s.setrole
      left join pg_catalog.pg_database db on db.oid = s.setdatabase
      where setting like 'search\\_path=%' and substr(setting, length('search_path=') + 1) not in ('', '""') and s.setrole in (0, login.oid)
        and (s.setdatabase = 0 or db.datname = current_database())`,
    evidence: ({
      role,
      database,
      path,
    }: {
      readonly role: string
      readonly database: string
      readonly path: string
    }) =>
      `${[role && `role "${role}"`, database && `database "${database}"`].filter(Boolean).join(' in ')}: ${path}`,
  },
]
