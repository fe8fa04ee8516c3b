import { Client } from 'pg'
import { expect, test } from 'vitest'

import { createRestartablePostgres, type RestartablePostgres, type StopMode } from './index.ts'

async function open(server: RestartablePostgres): Promise<Client> {
  const client = new Client({ connectionString: server.url })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

test('what was acknowledged is there after each way to go down, and what was not committed is not', async () => {
  await using server = await createRestartablePostgres()
  const first = await open(server)
  await first.query('create table ledger (mode text)')
  await first.end()
  const modes: StopMode[] = ['fast', 'immediate', 'kill']
  for (const [index, mode] of modes.entries()) {
    const [writer, other] = [await open(server), await open(server)]
    await other.query('begin')
    await other.query("insert into ledger values ('open')")
    await writer.query('insert into ledger values ($1)', [mode])
    const broken = Promise.allSettled([other.query('select pg_sleep(60)')])
    await server.stop(mode)
    expect((await broken)[0].status).toBe('rejected')
    await expect(open(server)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await server.start()
    const reader = await open(server)
    expect((await reader.query('select mode from ledger')).rows).toEqual(
      modes.slice(0, index + 1).map((stopped) => ({ mode: stopped })),
    )
    await reader.end()
  }
})
