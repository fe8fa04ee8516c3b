import { styleText } from 'node:util'

export function heading(text: string): void {
  console.log(`\n${styleText('bold', text)}`)
}

/** Columns as wide as their widest cell; the first row is the head. */
export function table(rows: readonly (readonly string[])[]): void {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  )
  for (const [index, row] of rows.entries()) {
    const line = row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')
    console.log(`  ${index === 0 ? styleText('dim', line.trimEnd()) : line.trimEnd()}`)
  }
}

export interface Progress {
  /** `done` between 0 and 1. */
  update(done: number, detail?: string): void
  end(detail: string): void
}

/** A line that is rewritten on a terminal; elsewhere plain lines, four on the way. */
export function progress(what: string): Progress {
  const start = performance.now()
  const terminal = process.stdout.isTTY
  let quarters = 0
  if (!terminal) console.log(`  ${what} ...`)
  const seconds = (): string => `${((performance.now() - start) / 1_000).toFixed(1)} s`
  return {
    update(done, detail = '') {
      const percent = `${Math.floor(done * 100)} %`
      if (terminal) process.stdout.write(`\r\x1b[K  ${what}: ${percent} ${detail}`)
      else if (done < 1 && Math.floor(done * 4) > quarters) {
        quarters = Math.floor(done * 4)
        console.log(`  ${what}: ${percent} ${detail}`.trimEnd())
      }
    },
    end(detail) {
      console.log(`${terminal ? '\r\x1b[K' : ''}  ${what}: ${detail} (${seconds()})`)
    },
  }
}

/** Shows a step while it runs and how long it took. */
export async function step<T>(
  what: string,
  fn: () => Promise<T>,
  about: (result: T) => string,
): Promise<T> {
  const shown = progress(what)
  if (process.stdout.isTTY) process.stdout.write(`  ${what} ...`)
  const result = await fn()
  shown.end(about(result))
  return result
}
