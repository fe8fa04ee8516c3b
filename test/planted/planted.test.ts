import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'
import { plantedLeaks } from './leaks.ts'
import { PLANT_VARIABLE } from './plant-plugin.ts'

interface Report {
  readonly numTotalTests: number
  readonly testResults: readonly {
    readonly message?: string
    readonly assertionResults: readonly { readonly title: string; readonly status: string }[]
  }[]
}

const VITEST = resolve('node_modules/vitest/vitest.mjs')

/** Runs the rows of the suite that guard against a leak, on the servers of this run. */
async function runSuite(
  plant: string,
  files: readonly string[],
  rows: string,
): Promise<{ report: Report; output: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'partywall-plant-'))
  try {
    const file = join(folder, 'report.json')
    const child = spawn(
      process.execPath,
      [
        VITEST,
        'run',
        ...files,
        '-t',
        rows,
        '--reporter=json',
        `--outputFile=${file}`,
        '--maxWorkers=1',
        '--testTimeout=15000',
        '--bail=1',
      ],
      {
        env: {
          ...process.env,
          [PLANT_VARIABLE]: plant,
          VITEST: undefined,
          VITEST_WORKER_ID: undefined,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
    let output = ''
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
    await new Promise((done) => child.once('close', done))
    return { report: JSON.parse(await readFile(file, 'utf8')) as Report, output }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/**
 * The proof that the suite bites: with a leak planted, the row that guards against it must fail, by an assertion and not because a file no longer loads.
 */
describe.concurrent('planted leaks turn the suite red', () => {
  it('has at least ten of them, each with a name of its own', () => {
    expect(plantedLeaks.length).toBeGreaterThanOrEqual(10)
    expect(new Set(plantedLeaks.map(({ name }) => name)).size).toBe(plantedLeaks.length)
  })

  for (const { name, row, files, what } of plantedLeaks)
    it(`${name}: ${what} (${row})`, { timeout: 120_000 }, async () => {
      const { report, output } = await runSuite(name, files, `${row}\\b`)
      const tests = report.testResults.flatMap(({ assertionResults }) => assertionResults)
      const failed = tests.filter(({ status }) => status === 'failed').map(({ title }) => title)
      expect(failed, output.slice(-2000)).toEqual(
        expect.arrayContaining([expect.stringMatching(new RegExp(`\\b${row}\\b`))]),
      )
    })
})
