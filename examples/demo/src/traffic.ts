import { type CanaryRow, canary, foreignRows, isForeignSummary } from './canary.ts'
import { type Call, call } from './http.ts'

/** One way to reach one tenant. */
export interface Door {
  readonly app: string
  readonly address: string
  readonly tenantId: string
  /** How the tenant is named, in words. */
  readonly by: string
  readonly headers: Readonly<Record<string, string>>
  /** The quantity of each order of the tenant. */
  readonly quantity: number
}

export interface TrafficReport {
  readonly requests: number
  readonly rowsRead: number
  readonly foreign: number
  /** Requests that were not answered as they should be. */
  readonly failures: readonly string[]
  /** Orders that were created, by tenant. */
  readonly created: ReadonlyMap<string, number>
}

export interface TrafficOptions {
  readonly doors: readonly Door[]
  readonly requests: number
  /** Requests under way at one time. */
  readonly concurrency: number
  readonly signal: AbortSignal
  onProgress(done: number, rowsRead: number): void
}

/** Sends requests of all tenants through all doors at once, and looks at every row that comes back. One request in twenty creates an order, two ask for the cached summary. */
export async function runTraffic(options: TrafficOptions): Promise<TrafficReport> {
  const { doors, requests, concurrency, signal, onProgress } = options
  const created = new Map<string, number>()
  const failures: string[] = []
  let rowsRead = 0
  let foreign = 0
  let next = 0

  const send = async (number: number): Promise<void> => {
    const door = doors[Math.floor(Math.random() * doors.length)] as Door
    const { address, tenantId, headers, quantity } = door
    const ask = async (path: string, status: number, options: Call = {}): Promise<unknown> => {
      const answer = await call(address, path, { ...options, headers })
      if (answer.status === status) return answer.body
      const told = `${answer.status} ${JSON.stringify(answer.body)}`
      failures.push(`${door.app}, ${tenantId} by ${door.by}: ${told}`)
      return undefined
    }
    if (number % 10 === 1) {
      const summary = await ask('/orders/summary', 200)
      if (summary === undefined) return
      rowsRead++
      if (isForeignSummary(summary as object, quantity)) foreign++
      return
    }
    const writes = number % 20 === 0
    const body = writes
      ? await ask('/orders', 201, {
          method: 'POST',
          json: { item: canary(tenantId, number), quantity },
        })
      : await ask('/orders', 200)
    if (body === undefined) return
    if (writes) created.set(tenantId, (created.get(tenantId) ?? 0) + 1)
    const rows = (writes ? [body] : body) as CanaryRow[]
    rowsRead += rows.length
    foreign += foreignRows(rows, tenantId).length
  }
  const worker = async (): Promise<void> => {
    while (next < requests && !signal.aborted) {
      await send(next++)
      if (next % 50 === 0) onProgress(next / requests, rowsRead)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, worker))
  return { requests: next, rowsRead, foreign, failures, created }
}
