import { isTenantId } from '@partywall/core'
import { seededRandom } from '@partywall/test-support'
import { expect, test } from 'vitest'
import { addPrefix, stripPrefix, wirePrefix } from './wire-key.ts'

const KEY_PARTS = [':', '!', '%', '{', '}', '\0', '*', '\\', 'a', 'b', 'é', '::', 'a:', 'a-b:']

/** Short ids over few characters: as often as possible, one begins another. */
const IDS = ['a', 'b', '0'].flatMap((first) =>
  ['', 'a', 'b', '0', '-a', '-b', '--a', 'aa', 'ab', 'a-b'].map((rest) => first + rest),
)

test('K1 in a million generated pairs of tenant and key, no two share a wire key', () => {
  const random = seededRandom()
  expect(IDS.every(isTenantId)).toBe(true)
  const owners = new Map<string, string>()
  for (let n = 0; n < 1_000_000; n++) {
    const id = IDS[n % IDS.length] as string
    let key = ''
    for (let length = random.integer(0, 4); length > 0; length--)
      key += KEY_PARTS[random.integer(0, KEY_PARTS.length - 1)]
    const wire = addPrefix(wirePrefix(id), key) as string
    const pair = `${id} ${key}`
    const owner = owners.get(wire)
    if (owner === undefined) owners.set(wire, pair)
    else if (owner !== pair) expect(owner).toBe(pair)
  }
  expect(owners.size).toBeGreaterThan(200_000)
})

test('K1 a wire key gives its key back to its own tenant only, as text and as bytes', () => {
  for (const id of IDS)
    for (const key of ['', ...KEY_PARTS, 'b:k']) {
      const text = addPrefix(wirePrefix(id), key)
      const bytes = addPrefix(wirePrefix(id), Buffer.from(key))
      expect(Buffer.from(text as string)).toEqual(bytes)
      for (const reader of IDS) {
        const own = reader === id
        expect(stripPrefix(wirePrefix(reader), text)).toBe(own ? key : undefined)
        expect(stripPrefix(wirePrefix(reader), bytes)).toEqual(own ? Buffer.from(key) : undefined)
      }
    }
})
