import type pg from 'pg'

/** A query that its caller may abort: waiting it is never sent, under way it is cancelled at the server. It rejects with `signal.reason` then, and had no effect; if it had come to its end by then, it resolves. */
export type AbortableQueryConfig = pg.QueryConfig<unknown[]> & {
  readonly signal?: AbortSignal | undefined
}

/** What `query` takes besides all that pg's takes. */
export type AbortableQuery = <R extends pg.QueryResultRow = Record<string, unknown>>(
  config: AbortableQueryConfig,
  values?: unknown[],
) => Promise<pg.QueryResult<R>>
