import { glob, readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'
import { plantedLeaks } from '../planted/leaks.ts'

/** The rows of the leak matrix that this release answers for. A row is covered by a test that carries its id in its title. */
const ROWS = [
  ...numbered('I', [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14]),
  ...numbered('C', [1, 2, 3, 4, 5, 6, 7, 8]),
  ...numbered('D', [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]),
  ...numbered('F', [1, 2, 3, 4, 5, 6, 14, 16]),
  ...numbered('K', [1, 3]),
]

function numbered(letter: string, numbers: readonly number[]): string[] {
  return numbers.map((number) => `${letter}${number}`)
}

/** The tests of the suites, as text. */
async function suites(): Promise<string> {
  const texts: string[] = []
  for await (const file of glob([
    'test/{isolation,interop,faults}/**/*.ts',
    'packages/postgres/src/*.test.ts',
  ]))
    texts.push(await readFile(file, 'utf8'))
  return texts.join('\n')
}

it('every row of the matrix, and every row that a planted leak names, has a test whose title begins with its id', async () => {
  const all = await suites()
  const covered = (row: string): boolean => new RegExp(`\\(\\s*['"\`]${row}\\b`).test(all)
  const rows = new Set([...ROWS, ...plantedLeaks.map(({ row }) => row)])
  expect([...rows].filter((row) => !covered(row))).toEqual([])
})
