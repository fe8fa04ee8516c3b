import type pg from 'pg'
import { ListeningConnection } from './listening-connection.ts'

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
  const connection = new ListeningConnection({
    config,
    onMessage: (_channel, payload) => onMessage(payload),
    onGap,
    keepsProcessAlive: false,
  })
  await connection.listen(channel)
  return { [Symbol.asyncDispose]: () => connection.close() }
}
