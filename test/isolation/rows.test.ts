import { glob, readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'
import { plantedLeaks } from '../planted/leaks.ts'

/** The rows of the leak matrix that this release answers for. A row is covered by a test that carries its id in its title. */
const ROWS =
  'I1 I2 I3 I4 I5 I6 I7 I8 I9 I13 I14 C1 C2 C3 C4 C5 C6 C7 C8 D1 D2 D3 D4 D5 D6 D7 D8 D9 D10 D11 D12 K1 K3'.split(
    ' ',
  )

async function titles(): Promise<string[]> {
  const found: string[] = []
  for await (const file of glob('test/isolation/*.test.ts'))
    for (const [, , title = ''] of (await readFile(file, 'utf8')).matchAll(
      /\b(?:it|test)(?:\.\w+(?:\([^)]*\))?)?\(\s*(['"`])((?:(?!\1).)*)\1/g,
    ))
      found.push(title)
  return found
}

it('every row of the matrix has a test that carries its id', async () => {
  const all = await titles()
  const covered = (row: string): boolean =>
    all.some((title) => new RegExp(`\\b${row}\\b`).test(title))
  expect(ROWS.filter((row) => !covered(row))).toEqual([])
})

it('every planted leak names a row that has a test', async () => {
  const all = await titles()
  for (const { name, row } of plantedLeaks)
    expect(
      all.some((title) => new RegExp(`\\b${row}\\b`).test(title)),
      name,
    ).toBe(true)
})
