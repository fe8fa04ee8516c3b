/** A row as the shops answer it. Whose it is, its item tells. */
export interface CanaryRow {
  readonly item: string
}

/** The item of a row that belongs to a tenant. Ids hold no `:`, so that no two tenants have the same. */
export function canary(tenantId: string, what: string | number): string {
  return `canary:${tenantId}:${what}`
}

/** The rows that a tenant must not see: those of others, and those of which nobody can tell whose they are. */
export function foreignRows<Row extends CanaryRow>(rows: readonly Row[], tenantId: string): Row[] {
  const own = canary(tenantId, '')
  return rows.filter((row) => typeof row?.item !== 'string' || !row.item.startsWith(own))
}

/** What an order of a tenant has as its quantity: a prime of its own, by which a sum tells whose orders it is made of. */
export function canaryQuantity(tenantId: string, tenantIds: readonly string[]): number {
  const quantity = [101, 103, 107][tenantIds.indexOf(tenantId)]
  if (quantity === undefined) throw new RangeError(`No quantity is set aside for ${tenantId}.`)
  return quantity
}

/** Whether a summary is of other orders than those of the tenant whose quantity is given. A tenant without orders has no summary of its own, so that an empty one is foreign. */
export function isForeignSummary(
  summary: { readonly orders?: unknown; readonly pieces?: unknown },
  quantity: number,
): boolean {
  const { orders, pieces } = summary
  return !(
    Number.isSafeInteger(orders) &&
    Number(orders) > 0 &&
    pieces === Number(orders) * quantity
  )
}
