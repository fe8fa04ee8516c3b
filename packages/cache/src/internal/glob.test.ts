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

  test('a hostile pattern takes no exponential time', () => {
    const started = performance.now()
    expect(globMatcher(`${'*a'.repeat(40)}b`)('a'.repeat(2_000))).toBe(false)
    expect(performance.now() - started).toBeLessThan(2_000)
  })
})
