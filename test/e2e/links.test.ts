import { existsSync } from 'node:fs'
import { glob, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { expect, it } from 'vitest'

/** The anchor that Markdown viewers make of a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replace(/\s/g, '-')
}

it('every link between pages of this repository leads somewhere', async () => {
  const broken: string[] = []
  for await (const page of glob(['*.md', 'docs/**/*.md', 'packages/*/*.md', 'examples/*/*.md'])) {
    const text = (await readFile(page, 'utf8')).replace(/^```[\s\S]*?^```$/gm, '')
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [path = '', anchor] = target.split('#')
      const file = path === '' ? page : join(dirname(page), path)
      if (!existsSync(file)) broken.push(`${page}: ${target}`)
      else if (anchor !== undefined && file.endsWith('.md')) {
        const headings = [...(await readFile(file, 'utf8')).matchAll(/^#+\s+(.*)$/gm)].map(
          ([, heading = '']) => anchorOf(heading),
        )
        if (!headings.includes(anchor)) broken.push(`${page}: ${target}`)
      }
    }
  }
  expect(broken).toEqual([])
})
