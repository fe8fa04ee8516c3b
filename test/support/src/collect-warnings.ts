/** The process warnings since {@link collectWarnings} was called, oldest first. */
export interface CollectedWarnings extends Disposable {
  readonly all: readonly (Error & { readonly code?: string })[]
  /** The warnings with this code, such as `PARTYWALL_UNVERIFIED_SOURCE`. */
  withCode(code: string): readonly Error[]
}

/**
 * Collects what `process.emitWarning` reports until disposed (`using warnings = collectWarnings()`). Node delivers a warning one
 * tick after it was made: wait for it with `eventually`, and for its absence with a warning of your own that must come after it.
 */
export function collectWarnings(): CollectedWarnings {
  const all: (Error & { code?: string })[] = []
  const listener = (warning: Error): void => {
    all.push(warning)
  }
  process.on('warning', listener)
  return {
    all,
    withCode: (code) => all.filter((warning) => warning.code === code),
    [Symbol.dispose]: () => {
      process.off('warning', listener)
    },
  }
}
