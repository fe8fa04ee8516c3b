import { glob, readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'

it('every changeset names packages and how they change, in the form that the release tool reads', async () => {
  const wrong: string[] = []
  for await (const file of glob('.changeset/*.md')) {
    const text = await readFile(file, 'utf8')
    if (
      !/^---\n(?:'(?:@partywall\/[a-z-]+|partywall)': (?:major|minor|patch)\n)+---\n\n\S/.test(text)
    )
      wrong.push(file)
  }
  expect(wrong).toEqual([])
})
