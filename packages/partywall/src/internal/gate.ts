import { createHmac } from 'node:crypto'
import { TenancyError } from '@partywall/core'
import { createGateRole } from '@partywall/postgres'
import type pg from 'pg'

/** The login of the pools that serve tenants: it may become any tenant's role, and has no privileges itself. */
export interface Gate {
  readonly url: string
  readonly role: string
}

const EMBEDDED_GATE = 'partywall_gate'

/**
 * The gate of an embedded Postgres, created at its first start. Its password is derived from that of the superuser, which is random and stays in the data directory, so that every start finds the same one.
 *
 * @param url - of the superuser.
 */
export async function embeddedGate(central: pg.Pool, url: string): Promise<Gate> {
  const gate = new URL(url)
  const password = createHmac('sha256', gate.password).update(EMBEDDED_GATE).digest('base64url')
  await createGateRole(central, { name: EMBEDDED_GATE, password })
  gate.username = EMBEDDED_GATE
  gate.password = password
  return { url: gate.href, role: EMBEDDED_GATE }
}

/** The gate that the configuration names. @throws {TenancyError} `ERR_TENANCY_OPTION_INVALID` without a user in the URL. */
export function configuredGate(url: string): Gate {
  const role = decodeURIComponent(new URL(url).username)
  if (role !== '') return { url, role }
  throw new TenancyError(
    'ERR_TENANCY_OPTION_INVALID',
    'database.gateUrl must name the user who is the gate.',
    { hint: 'postgres://gate:password@host/database, of a role that createGateRole made.' },
  )
}
