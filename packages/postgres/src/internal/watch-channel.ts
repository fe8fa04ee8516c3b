import pg from 'pg'

const FIRST_DELAY_MS = 100
const LONGEST_DELAY_MS = 10_000

/**
 * Listens on a channel with a connection of its own. A broken connection is opened again with growing delay. `onGap` is called when it breaks, at every attempt and when it is there again, because notifications are missed meanwhile.
 * Rejects if the first connection fails. Neither the connection nor the timer keeps the process alive.
 */
export async function watchChannel(
  config: pg.ClientConfig,
  channel: string,
  onMessage: (payload: string) => void,
  onGap: () => void,
): Promise<AsyncDisposable> {
  let closed = false
  let client: pg.Client | undefined
  let timer: NodeJS.Timeout | undefined
  let delay = FIRST_DELAY_MS

  const open = async (): Promise<void> => {
    // A pool hides its password from enumeration, so a copy of its options lacks it.
    const { password } = config
    const next = new pg.Client({
      ...config,
      ...(password === undefined ? {} : { password }),
      keepAlive: true,
    })
    next.on('notification', ({ payload }) => onMessage(payload ?? ''))
    next.on('error', () => undefined)
    try {
      await next.connect()
      next.on('end', again)
      await next.query(`listen ${next.escapeIdentifier(channel)}`)
    } catch (error) {
      next.removeListener('end', again)
      await next.end().catch(() => undefined)
      throw error
    }
    client = next
    // A subscription alone is no reason for a script to go on.
    ;(next as unknown as { unref(): void }).unref()
    delay = FIRST_DELAY_MS
    if (closed) await next.end()
  }
  const again = (): void => {
    if (closed) return
    // From now on until the next connection, nobody tells: what was learnt so far must be asked for again.
    onGap()
    timer = setTimeout(() => {
      open().then(onGap, again)
    }, delay)
    timer.unref()
    delay = Math.min(delay * 2, LONGEST_DELAY_MS)
  }

  await open()
  return {
    [Symbol.asyncDispose]: async () => {
      closed = true
      clearTimeout(timer)
      await client?.end()
    },
  }
}
