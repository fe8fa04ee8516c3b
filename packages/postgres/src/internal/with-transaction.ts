import type pg from 'pg'

/** Runs `fn` in a transaction of a plain pool, outside of every tenant. A connection whose state is not known is not used again. */
export async function withTransaction<T>(
  pool: pg.Pool,
  fn: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect()
  // A connection that breaks between two statements reports it by an event; the next statement fails anyway.
  const ignore = (): void => undefined
  client.on('error', ignore)
  let clean = false
  try {
    await client.query('begin')
    const result = await fn(client)
    await client.query('commit')
    clean = true
    return result
  } catch (error) {
    await client.query('rollback').then(
      () => {
        clean = true
      },
      () => undefined,
    )
    throw error
  } finally {
    // One that is being closed keeps it.
    if (clean) client.removeListener('error', ignore)
    client.release(!clean)
  }
}
