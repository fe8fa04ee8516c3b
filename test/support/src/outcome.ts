/** SQLSTATEs and codes of a connection that is not there any more, or not yet again. */
const GONE: ReadonlySet<string> = new Set([
  '57P01',
  '57P02',
  '57P03',
  '08003',
  '08006',
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ERR_TENANCY_DATABASE_UNAVAILABLE',
])

/** Whether an error says that the connection broke, and nothing else. */
export function saysGone(error: unknown): boolean {
  const { code, message } = error as { code?: string; message?: string }
  if (code !== undefined && GONE.has(code)) return true
  return (
    error instanceof Error &&
    code === undefined &&
    /^(?:Connection terminated|Client has encountered a connection error|Client was closed)/.test(
      message ?? '',
    )
  )
}

/** `fulfilled`, `gone` for a broken connection, or the code or message of another error. */
export async function outcomeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'fulfilled'
  } catch (error) {
    if (saysGone(error)) return 'gone'
    const { code, message } = error as { code?: string; message?: string }
    return code ?? message ?? String(error)
  }
}
