import type { ColumnType, Generated } from 'kysely'

interface OrdersTable {
  /** A bigint, which pg gives as text. */
  readonly id: ColumnType<string, never, never>
  readonly item: string
  readonly quantity: number
  readonly created_at: Generated<Date>
}

interface DailyReportsTable {
  readonly day: ColumnType<Date, string, never>
  readonly orders: number
  readonly pieces: number
}

export interface Database {
  readonly orders: OrdersTable
  readonly daily_reports: DailyReportsTable
}
