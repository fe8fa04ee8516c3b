import type { Lint } from './lint.ts'

/** A role that the application logs in as, or can become by SET ROLE. */
type ActingRole = { readonly login: string; readonly role: string }

const asRole = ({ login, role }: ActingRole): string =>
  login === role ? `role "${login}"` : `role "${login}", which can become "${role}"`

/** What the role of the application is and has. */
export const loginLints: readonly Lint[] = [
  {
    code: 'PARTYWALL_LOGIN_SUPERUSER',
    severity: 'error',
    title: 'The application logs in as a superuser, or can become one.',
    remedy:
      'Let the application log in as a role of its own: create role app login nosuperuser nobypassrls, and grant it what it needs.',
    sql: 'select login, rolname as role from acting_role where rolsuper',
    evidence: asRole,
  },
  {
    code: 'PARTYWALL_LOGIN_BYPASSRLS',
    severity: 'error',
    title: 'No row policy holds for the role of the application.',
    remedy: 'alter role ... nobypassrls, or revoke the role that has it from the application.',
    sql: 'select login, rolname as role from acting_role where rolbypassrls',
    evidence: asRole,
  },
  {
    code: 'PARTYWALL_LOGIN_OWNS_RLS_TABLE',
    severity: 'error',
    title: 'The application owns a table with row policies, and an owner can switch them off.',
    remedy:
      'Give the table to a role that the application cannot become (alter table ... owner to ...), and grant select, insert, update and delete.',
    sql: `select s.oid::regclass::text as table, r.login, r.rolname as role
      from secured s join acting_role r on r.oid = s.relowner`,
    evidence: ({ table, ...role }: ActingRole & { readonly table: string }) =>
      `${table} is owned by ${asRole(role)}`,
  },
  {
    code: 'PARTYWALL_LOGIN_OWNS_TENANT_TABLE',
    severity: 'info',
    title: "The application owns tenants' tables: it may read, change and drop them in any schema.",
    remedy:
      'Schemas of one owner are a wall against mistakes only. Against injected SQL, let a migration role own the tables and give each tenant a role.',
    sql: `select n.nspname as schema, r.login, r.rolname as role, count(*)::text as tables
      from pg_catalog.pg_class c
      join tenant_schema n on n.oid = c.relnamespace
      join acting_role r on r.oid = c.relowner
      where c.relkind in ('r', 'p') and not c.relrowsecurity
      group by 1, 2, 3`,
    evidence: ({
      schema,
      tables,
      ...role
    }: ActingRole & { readonly schema: string; readonly tables: string }) =>
      `schema "${schema}": ${tables} owned by ${asRole(role)}`,
  },
]
