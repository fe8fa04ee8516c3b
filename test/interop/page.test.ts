import { existsSync } from 'node:fs'
import { glob, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { expect, it } from 'vitest'

const PAGE = 'docs/reference/interop.md'
const HERE = 'test/interop'
/** Tests of what holds for several rows. */
const ACROSS = ['own-connections.test.ts', 'page.test.ts', 'roles.test.ts']

interface Row {
  readonly library: string
  readonly versions: string[]
  readonly test: string
}

const page = await readFile(PAGE, 'utf8')
const rows: Row[] = [...page.matchAll(/^\| \[(.+?)\]\(#.*$/gm)].map(([line, library = '']) => ({
  library,
  versions: [...line.matchAll(/`((?:@[a-z-]+\/)?[a-z-]+@\d+\.\d+\.\d+)`/g)].map(
    ([, version = '']) => version,
  ),
  test: /\[test\]\(\.\.\/\.\.\/test\/interop\/([a-z-]+\.test\.ts)\)/.exec(line)?.[1] ?? '',
}))

it('each row of the page has its test, and each test its row', async () => {
  const tests: string[] = []
  for await (const file of glob(`${HERE}/*.test.ts`)) tests.push(basename(file))
  expect(rows.map(({ test }) => test).sort()).toEqual(
    tests.filter((file) => !ACROSS.includes(file)).sort(),
  )
  for (const file of ACROSS) expect(existsSync(join(HERE, file)), file).toBe(true)
})

it('each version on the page is the one that is installed, and that its test imports', async () => {
  const wrong: string[] = []
  for (const { library, versions, test } of rows) {
    expect(versions.length, library).toBeGreaterThan(0)
    const sources = [await readFile(join(HERE, test), 'utf8')]
    for (const [, recipe = ''] of sources[0]?.matchAll(
      /from '\.\/((?:recipes|prisma)\/.+?\.ts)'/g,
    ) ?? [])
      sources.push(await readFile(join(HERE, recipe), 'utf8'))
    for (const entry of versions) {
      const [, name = '', version] = /^(.+)@(.+)$/.exec(entry) ?? []
      const manifest = JSON.parse(
        await readFile(join('test/node_modules', name, 'package.json'), 'utf8'),
      ) as { version: string }
      if (manifest.version !== version)
        wrong.push(`${library}: ${entry}, but ${manifest.version} is installed`)
      if (!sources.some((source) => source.includes(`from '${name}`)))
        wrong.push(`${library}: no test imports ${name}`)
    }
  }
  expect(wrong).toEqual([])
})

it('every recipe is on the page', async () => {
  for await (const file of glob(`${HERE}/recipes/*.ts`))
    expect(page, file).toContain(`(../../${file})`)
})
