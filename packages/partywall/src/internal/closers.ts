/** What was started and has to be closed, the last first. One stubborn resource does not keep the others open. */
export class Closers {
  readonly #entries: { readonly name: string; readonly close: () => unknown }[] = []

  add(name: string, close: () => unknown): void {
    this.#entries.push({ name, close })
  }

  /**
   * Closes everything. A close that takes longer than `timeoutMs` is left behind, a pool whose client was never released for example.
   *
   * @throws {AggregateError} after the last one, if any failed.
   */
  async closeAll(timeoutMs = 15_000): Promise<void> {
    const failures: unknown[] = []
    for (const { name, close } of this.#entries.splice(0).reverse()) {
      let timer: NodeJS.Timeout | undefined
      try {
        await Promise.race([
          close(),
          new Promise((_, reject) => {
            timer = setTimeout(
              () => reject(new Error(`${name} did not close within ${timeoutMs} ms.`)),
              timeoutMs,
            )
          }),
        ])
      } catch (error) {
        failures.push(error)
      } finally {
        clearTimeout(timer)
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, 'Closing failed in part.')
  }
}
