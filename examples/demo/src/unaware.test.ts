import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const PLUGIN = fileURLToPath(new URL('../../plugin-orders/', import.meta.url))

test('the plugin of the examples never heard of tenants', async () => {
  const entries = await readdir(PLUGIN, { recursive: true, withFileTypes: true })
  const files = entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
    .filter((path) => !path.slice(PLUGIN.length).startsWith('node_modules'))
  expect(files.some((path) => path.endsWith('index.ts'))).toBe(true)
  expect(files.some((path) => path.endsWith('.sql'))).toBe(true)
  for (const path of files) {
    expect(path).not.toMatch(/tenan/i)
    expect(await readFile(path, 'utf8'), path).not.toMatch(/tenan/i)
  }
})
