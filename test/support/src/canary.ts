const CANARY = /canary:([a-z0-9-]+):/g

/**
 * The value a test writes for a tenant: it names its owner, so that a row, entry or reply that shows up anywhere gives away where
 * it came from. Tenant ids hold no `:`, so two tenants never make the same canary.
 */
export function canary(tenantId: string, n: number | string): string {
  return `canary:${tenantId}:${n}`
}

/**
 * The canaries of other tenants in anything that can be turned into JSON (or in a text), as tenant ids in order of appearance.
 * An empty array is the only good answer: `expect(foreignCanaries(reply, 'acme')).toEqual([])`.
 */
export function foreignCanaries(value: unknown, tenantId: string): string[] {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? '')
  return [...text.matchAll(CANARY)].flatMap(([, owner]) =>
    owner === undefined || owner === tenantId ? [] : [owner],
  )
}
