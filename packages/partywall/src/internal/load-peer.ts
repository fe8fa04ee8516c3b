import { TenancyError } from '@partywall/core'

/**
 * Loads an optional peer: resolves to its module, or to the error to throw where somebody needs it.
 *
 * @param load - `() => import('name')`, written out by the caller so that bundlers see it.
 */
export async function loadPeer<M>(
  name: string,
  purpose: string,
  load: () => Promise<M>,
): Promise<M | TenancyError> {
  try {
    return await load()
  } catch (cause) {
    const { code, message } = cause as { code?: unknown; message?: unknown }
    // Something that the peer itself does not find is a fault of its installation, and told as it is.
    if (code !== 'ERR_MODULE_NOT_FOUND' || !String(message).includes(`'${name}'`)) throw cause
    return new TenancyError(
      'ERR_TENANCY_PEER_MISSING',
      `${purpose} needs the package ${name}, which is not installed.`,
      { cause, hint: `Install it: npm install ${name}` },
    )
  }
}
