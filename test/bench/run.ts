import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { type BenchResult, machine } from './bench-result.ts'
import { postgres } from './postgres.ts'

const BENCHES: Record<string, (options: { quick: boolean }) => Promise<BenchResult[]>> = {
  postgres,
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { quick: { type: 'boolean', default: false }, json: { type: 'string' } },
})
const [name = ''] = positionals
const bench = Object.hasOwn(BENCHES, name) ? BENCHES[name] : undefined
if (bench === undefined) {
  console.error(`usage: pnpm bench <${Object.keys(BENCHES).join(' | ')}> [--quick] [--json FILE]`)
  process.exit(2)
}

const results = await bench({ quick: values.quick })
console.log(machine())
for (const { id, measure, unit = 'ratio', value, parts } of results) {
  console.log(
    `${id.padEnd(4)} ${measure.padEnd(64)} ${value.toFixed(2)} ${unit === 'ratio' ? '' : unit}`,
  )
  for (const [part, figure] of Object.entries(parts))
    console.log(`       ${part.padEnd(62)} ${figure.toFixed(2)}`)
}
if (values.json !== undefined) {
  const targets = results.map(({ id, value, unit = 'ratio', parts }) => [
    id,
    { value, unit, parts },
  ])
  await writeFile(
    values.json,
    `${JSON.stringify({ machine: machine(), ...Object.fromEntries(targets) }, null, 2)}\n`,
  )
}
