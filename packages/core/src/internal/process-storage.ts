import { AsyncLocalStorage } from 'node:async_hooks'
import { TenancyError } from '../errors.ts'
import type { TenantScope } from '../tenant-scope.ts'

/** What the running code may touch: one tenant's data (`scope`), or none (`central`). */
export interface ContextState {
  /** The context that entered; another tenancy of this process does not see the scope. */
  readonly owner: object
  readonly scope: TenantScope | undefined
}

interface ProcessEntry {
  readonly copy: string
  readonly storage: AsyncLocalStorage<ContextState | undefined>
}

// The version rises when the shape of ContextState changes.
const key = Symbol.for('partywall.core/1')
const copy = new URL(import.meta.url).pathname
const processGlobal = globalThis as { [key]?: ProcessEntry }

/**
 * The one AsyncLocalStorage of the process. Copies of this package meet here.
 *
 * @throws {TenancyError} `ERR_TENANCY_CORE_DUPLICATED` when another copy of the package came first: two copies would each
 * hold a tenant of their own, and code that mixes them would act for nobody or for the wrong one.
 */
export function processStorage(): AsyncLocalStorage<ContextState | undefined> {
  const entry = (processGlobal[key] ??= { copy, storage: new AsyncLocalStorage() })
  if (entry.copy !== copy)
    throw new TenancyError(
      'ERR_TENANCY_CORE_DUPLICATED',
      `@partywall/core is loaded from ${entry.copy} and from ${copy}.`,
    )
  return entry.storage
}
