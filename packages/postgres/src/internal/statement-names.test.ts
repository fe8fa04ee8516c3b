import { describe, expect, test } from 'vitest'
import { StatementNames } from './statement-names.ts'

describe('StatementNames', () => {
  test('names a text when it comes again, in each tenant for itself', () => {
    const names = new StatementNames(10)
    expect(names.claim('acme', 'select 1')).toBeUndefined()
    expect(names.claim('globex', 'select 1')).toBeUndefined()
    const acme = names.claim('acme', 'select 1')
    const globex = names.claim('globex', 'select 1')
    expect(acme?.name).not.toBe(globex?.name)
    expect(names.claim('acme', 'select 1')).toBe(acme)
    expect(names.claim('globex', 'select 1')).toBe(globex)
  })

  test('no two pairs of tenant and text meet', () => {
    const names = new StatementNames(10)
    for (let n = 0; n < 2; n++) {
      names.claim('a', 'b c')
      names.claim('a-b', 'c')
    }
    expect(names.claim('a', 'b c')).not.toBe(names.claim('a-b', 'c'))
  })

  test('keeps as many as it may, and gives up the one that was not used for longest', () => {
    const names = new StatementNames(2)
    const claim = (text: string) => names.claim('acme', text) ?? names.claim('acme', text)
    const [one, two] = [claim('one'), claim('two')]
    expect(names.evict()).toBeUndefined()
    expect(claim('one')).toBe(one)
    claim('three')
    expect(names.evict()).toBe(two)
    expect(names.size).toBe(2)
  })

  test('texts that come once cost a bounded memory and no name', () => {
    const names = new StatementNames(3)
    for (let n = 0; n < 1_000; n++) expect(names.claim('acme', `select ${n}`)).toBeUndefined()
    expect(names.size).toBe(0)
    // Long forgotten: it comes for the first time again.
    expect(names.claim('acme', 'select 1')).toBeUndefined()
  })
})
