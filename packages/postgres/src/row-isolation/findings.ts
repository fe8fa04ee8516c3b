/** `error`: the schema is not isolated until it is resolved, and nothing is applied. `warning`: it is, and this is worth knowing. */
export type RowIsolationSeverity = 'error' | 'warning'

interface FindingHead {
  readonly severity: RowIsolationSeverity
  readonly title: string
  readonly remedy: string
}

/** What a generator cannot decide. docs/reference/row-isolation.md has one row for each, and a test compares the two. */
export const ROW_FINDINGS = {
  PARTYWALL_ROW_DEFINER_FUNCTION: {
    severity: 'warning',
    title:
      'A SECURITY DEFINER function acts with the rights of an owner for whom no policy holds: it sees the rows of all tenants.',
    remedy:
      'Give the function to an owner without SUPERUSER and BYPASSRLS, or drop SECURITY DEFINER, or read it and make sure that it answers for the tenant alone.',
  },
  PARTYWALL_ROW_DEPENDENT: {
    severity: 'error',
    title: 'Something depends on a key that has to be widened, and would be dropped with it.',
    remedy:
      'Drop it, or rewrite it: a view that groups by the primary key alone has to name the other columns as well.',
  },
  PARTYWALL_ROW_EXCLUSION: {
    severity: 'error',
    title: 'An exclusion constraint cannot be widened by the tenant.',
    remedy: 'create extension btree_gist; constraints of other methods than gist and btree: drop.',
  },
  PARTYWALL_ROW_EXISTING_ROWS: {
    severity: 'error',
    title: 'The table has rows that belong to no tenant.',
    remedy:
      'Say whose they are by tenantIdForExistingRows, or fill in the column tenant_id yourself, or delete them.',
  },
  PARTYWALL_ROW_FAMILY: {
    severity: 'error',
    title: 'A partition or an inheriting table is not of the same kind as its parent.',
    remedy:
      'Keep both in one schema, and declare both as shared or neither; or take the child off its parent: alter table ... no inherit, ... detach partition.',
  },
  PARTYWALL_ROW_FOREIGN_TABLE: {
    severity: 'error',
    title: 'A foreign table cannot have row security.',
    remedy:
      'Declare it as shared if all tenants may see all of it; otherwise move it to another schema that tenants may not use.',
  },
  PARTYWALL_ROW_INDEX_INVALID: {
    severity: 'error',
    title: 'A unique index is not valid; to build it again would fail in the same way.',
    remedy: 'drop index, or remove what is there twice and reindex.',
  },
  PARTYWALL_ROW_KEY_FROM_OUTSIDE: {
    severity: 'error',
    title:
      'A foreign key leads from a shared table, or from another schema, to a table of tenants.',
    remedy: 'Drop the constraint, or make both tables shared, or neither.',
  },
  PARTYWALL_ROW_KEY_NAMES_TENANT: {
    severity: 'error',
    title:
      'A foreign key joins the tenant to another column than the tenant, so it can lead to a row of somebody else.',
    remedy:
      'If it leads to the list of the tenants, declare that table as shared. Otherwise drop the constraint, or build it with (tenant_id, ...) references (tenant_id, ...).',
  },
  PARTYWALL_ROW_KEY_SETS_NULL: {
    severity: 'error',
    title:
      'ON UPDATE SET NULL would take the tenant away with the reference; Postgres has a list of columns for ON DELETE alone.',
    remedy: 'Choose another action: on update cascade, or no action.',
  },
  PARTYWALL_ROW_KEY_TO_OTHER_SCHEMA: {
    severity: 'error',
    title: 'A foreign key leads to a table of tenants in another schema, without the tenant.',
    remedy: 'Isolate both tables in one schema, or build the key with the tenant.',
  },
  PARTYWALL_ROW_KEY_TYPES: {
    severity: 'error',
    title: 'The tenants of two tables that a foreign key joins have different types.',
    remedy: 'alter table ... alter column tenant_id type ..., so that both are alike.',
  },
  PARTYWALL_ROW_MATERIALIZED_VIEW: {
    severity: 'error',
    title: 'A materialized view holds rows of all tenants, and cannot have row security.',
    remedy: 'Drop it, or fill a table with the same rows, which is then isolated.',
  },
  PARTYWALL_ROW_OWNER: {
    severity: 'error',
    title: 'The table belongs to the role of a tenant, which may lift its policies.',
    remedy: 'alter table ... owner to a role that no tenant can become.',
  },
  PARTYWALL_ROW_POLICY_BESIDE: {
    severity: 'error',
    title:
      'Another permissive policy opens rows besides those of the tenant: policies are joined by OR.',
    remedy: 'Drop it, or create it again as restrictive: those are joined by AND.',
  },
  PARTYWALL_ROW_PUBLICATION: {
    severity: 'error',
    title:
      'A publication sends some columns and not the tenant, which becomes part of what rows are known by: UPDATE and DELETE would fail.',
    remedy: 'alter publication ... set table ... with tenant_id among the columns.',
  },
  PARTYWALL_ROW_RULE: {
    severity: 'error',
    title:
      'A rule acts with the rights of an owner for whom no policy holds: it reaches rows of all tenants.',
    remedy:
      'Replace the rule by a trigger, or give the table to an owner without SUPERUSER and BYPASSRLS.',
  },
  PARTYWALL_ROW_TENANT_COLUMN: {
    severity: 'error',
    title: 'The column tenant_id cannot hold the tenant.',
    remedy:
      'It is to be an ordinary column of type text, varchar, uuid, smallint, integer or bigint, with a deterministic collation; or rename it.',
  },
  PARTYWALL_ROW_TRIGGERS_DISABLED: {
    severity: 'warning',
    title: 'A foreign key is not enforced: its triggers are disabled.',
    remedy: 'alter table ... enable trigger all, on both tables.',
  },
  PARTYWALL_ROW_TYPED_TABLE: {
    severity: 'error',
    title: 'A table OF a type cannot get a column of its own.',
    remedy: 'alter table ... not of.',
  },
  PARTYWALL_ROW_VIEW_OUTSIDE: {
    severity: 'error',
    title: 'A view of another schema reads a table of tenants with the rights of its owner.',
    remedy: 'alter view ... set (security_invoker = true), or drop it.',
  },
} as const satisfies Readonly<Record<`PARTYWALL_ROW_${string}`, FindingHead>>

export type RowIsolationFindingCode = keyof typeof ROW_FINDINGS

/** Something that the plan does not solve. */
export interface RowIsolationFinding {
  /** Never changes its meaning; the texts may change. */
  readonly code: RowIsolationFindingCode
  readonly severity: RowIsolationSeverity
  /** What it is about, as SQL names it. */
  readonly object: string
  readonly title: string
  readonly remedy: string
}

/** @internal */
export function rowFinding(code: RowIsolationFindingCode, object: string): RowIsolationFinding {
  const { severity, title, remedy } = ROW_FINDINGS[code]
  return { code, severity, object, title, remedy }
}
