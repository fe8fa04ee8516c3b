import { createTestRedis, type TestRedis } from '@partywall/test-support'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { escapeGlob, globMatcher } from './glob.ts'

let server: TestRedis
beforeAll(async () => {
  server = await createTestRedis()
})
afterAll(() => server[Symbol.asyncDispose]())

// Few characters, so that patterns and texts meet often.
const character = fc.constantFrom('a', 'b', 'c', '-', '*', '?', '[', ']', '^', '\\', ':', 'é')
const text = fc.string({ unit: character, minLength: 1, maxLength: 8 })
// Whether a byte beyond ASCII is large or negative in a range depends on the processor of the server.
const pattern = text.filter((each) => !/é-|-é/.test(each))

describe('globMatcher', () => {
  test('agrees with the server about every pattern', async () => {
    await fc.assert(
      fc.asyncProperty(
        pattern,
        fc.array(text, { minLength: 8, maxLength: 8 }),
        async (glob, all) => {
          const texts = [...new Set(all)]
          const pipeline = server.redis.pipeline().flushdb()
          pipeline.mset(...texts.flatMap((each) => [each, '']))
          pipeline.keys(glob)
          const results = (await pipeline.exec()) ?? []
          expect(texts.filter(globMatcher(glob)).sort()).toEqual(
            ((results[2]?.[1] ?? []) as string[]).sort(),
          )
        },
      ),
      { numRuns: 1_500 },
    )
  })

  test('an escaped text matches itself and nothing else', () => {
    fc.assert(
      fc.property(text, text, (literal, other) => {
        const matches = globMatcher(escapeGlob(literal))
        expect(matches(literal)).toBe(true)
        expect(matches(other)).toBe(literal === other)
      }),
    )
  })

  test('agrees with the server about long patterns and texts', async () => {
    const long = (most: number) =>
      fc
        .array(
          fc.constantFrom('a', 'b', 'ab', 'ba', '?', '[ab]', '[^a]', '*', 'aaaaaaa', '????????'),
          {
            minLength: 20,
            maxLength: most,
          },
        )
        .map((parts) => parts.join(''))
    // Texts that match, most of the time: the pattern with its wildcards filled in.
    const cases = long(60).chain((glob) =>
      fc.tuple(
        fc.constant(glob),
        fc.array(fc.infiniteStream(fc.constantFrom('a', 'b', 'c', 'ab')), {
          minLength: 6,
          maxLength: 6,
        }),
      ),
    )
    await fc.assert(
      fc.asyncProperty(cases, async ([glob, streams]) => {
        const texts = [
          ...new Set(
            streams.map((fill) =>
              glob.replace(/\[\^?\w+\]|\?|\*/g, (found) => {
                const next = fill.next().value as string
                if (found === '*') return next.repeat(next === 'c' ? 0 : 3)
                return found === '[^a]' ? 'b' : (next[0] as string)
              }),
            ),
          ),
        ]
        const pipeline = server.redis.pipeline().flushdb()
        pipeline.mset(...texts.flatMap((each) => [each, '']))
        pipeline.keys(glob)
        const results = (await pipeline.exec()) ?? []
        expect(texts.filter(globMatcher(glob)).sort()).toEqual(
          ((results[2]?.[1] ?? []) as string[]).sort(),
        )
      }),
      { numRuns: 300 },
    )
  })

  test.each([
    ['a literal', `*${'a'.repeat(1_000)}b*`],
    ['a literal that ends the same', `*b${'a'.repeat(1_000)}*`],
    ['wildcards', `*${'a?'.repeat(500)}b*`],
    ['classes', `*${'[ab]'.repeat(250)}c*`],
    ['many stars', `${'*a?'.repeat(330)}b*`],
  ])('%s in a hostile pattern takes a time that grows with the text alone', (_what, glob) => {
    const matches = globMatcher(glob)
    const text = 'a'.repeat(60_000)
    const started = performance.now()
    for (let n = 0; n < 20; n++) expect(matches(text)).toBe(false)
    expect(performance.now() - started).toBeLessThan(2_000)
  })

  test('a hostile pattern takes no exponential time', () => {
    const started = performance.now()
    expect(globMatcher(`${'*a'.repeat(40)}b`)('a'.repeat(2_000))).toBe(false)
    expect(performance.now() - started).toBeLessThan(2_000)
  })
})
