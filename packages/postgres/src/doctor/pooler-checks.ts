import type { Check } from './lint.ts'

/** What stands between the application and the server. */
export const poolerChecks: readonly Check[] = [
  {
    code: 'PARTYWALL_POOLER_UNSAFE',
    severity: 'error',
    title: 'What stands between the pool and the server does not go with the pool.',
    remedy:
      'Do what the evidence says; see docs/guide/poolers.md. assertPooler refuses it at boot.',
    needs: 'pool',
    find: ({ pooler = [] }) => [...pooler],
  },
  {
    code: 'PARTYWALL_POOLER_UNPROBED',
    severity: 'warning',
    title:
      'Something stands between doctor and the server, and nobody has looked at what it does with sessions.',
    remedy: 'Give doctor the pool of the application: doctor(pool.central, { pool }).',
    async find({ pooler }, client) {
      if (pooler !== undefined) return []
      const { rows } = await client.query<{ pid: number }>(
        'select pg_catalog.pg_backend_pid() as pid',
      )
      const { processID } = client as unknown as { readonly processID: number | null }
      // A pooler gives its clients numbers of its own.
      return rows
        .filter(({ pid }) => pid !== processID)
        .map(
          ({ pid }) =>
            `process ${pid} answers on a connection that was told to be with process ${processID}`,
        )
    },
  },
]
