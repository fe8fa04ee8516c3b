/** What the statements of a plan are for, in the order in which they run. */
export const STEPS = [
  'unforce',
  'drop-foreign-key',
  'column',
  'key',
  'index',
  'foreign-key',
  'view',
  'policy',
  'force',
  'grant',
] as const

export type RowIsolationStep = (typeof STEPS)[number]

/** One statement of a plan. Every name in it is qualified and quoted. */
export interface RowIsolationStatement {
  /** The table, view or schema that it is about, as SQL names it. */
  readonly object: string
  readonly step: RowIsolationStep
  /** What is missing, in a few words. */
  readonly why: string
  readonly sql: string
}
