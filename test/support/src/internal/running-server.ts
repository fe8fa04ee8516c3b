/** Where a server comes from: `local` means a program of this machine. */
export type ServerSource = 'docker' | 'local'

/** A server that answers at `url` until it is stopped. */
export interface RunningServer {
  readonly url: string
  readonly source: ServerSource
  stop(): Promise<void>
}
