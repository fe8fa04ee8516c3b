import { describe, expect, it } from 'vitest'
import { beginTag, finishTag, isSetTransaction } from './transaction-text.ts'

/** What is recognised is answered without the server, so it must be nothing but the opening or the end of a transaction. */
describe('beginTag', () => {
  it.each([
    'begin',
    'BEGIN;',
    ' begin work ',
    'Begin Transaction',
    '/* a */ begin -- b\n',
    'begin isolation level read uncommitted',
    'begin read only, deferrable',
    'begin not deferrable',
  ])('%j is a BEGIN', (text) => {
    expect(beginTag(text)).toBe('BEGIN')
  })

  it.each([
    'start transaction',
    '-- x\nSTART /* y */ TRANSACTION;',
    'start transaction isolation level repeatable read read write',
  ])('%j is a START TRANSACTION', (text) => {
    expect(beginTag(text)).toBe('START TRANSACTION')
  })

  it.each([
    '',
    'beginning',
    'begin; select 1',
    'begin; begin',
    'begin select 1',
    '-- begin',
    '/* begin */',
    'select 1; begin',
    'begin isolation level',
    'begin isolation level chaos',
    'begin /* open',
    'begin atomic',
    'start',
    'start transaction; drop table item',
    `begin${' '.repeat(400)}`,
  ])('%j is sent as it is', (text) => {
    expect(beginTag(text)).toBeUndefined()
  })

  it('does not take long over hostile text', () => {
    const started = performance.now()
    for (const part of [
      ' ',
      '/**/',
      '--\n',
      '/*',
      'read only,',
      '/* * ',
      'isolation level serializable ',
    ])
      beginTag(`begin ${part.repeat(Math.floor(290 / part.length))}x`)
    expect(performance.now() - started).toBeLessThan(500)
  })
})

describe('the rest of a transaction', () => {
  it.each([
    'set transaction isolation level serializable',
    'SET LOCAL TRANSACTION read only;',
    'set transaction /* x */ read write, not deferrable',
  ])('%j sets the modes', (text) => {
    expect(isSetTransaction(text)).toBe(true)
  })

  it.each([
    "set transaction snapshot '1'",
    'set transaction_isolation = serializable',
    'set session characteristics as transaction read only',
    'set transaction read only; select 1',
    'set local x = 1',
  ])('%j does not', (text) => {
    expect(isSetTransaction(text)).toBe(false)
  })

  it.each([
    ['commit', 'COMMIT'],
    ['END;', 'COMMIT'],
    ['commit work', 'COMMIT'],
    ['/* x */ rollback', 'ROLLBACK'],
    ['abort transaction', 'ROLLBACK'],
  ])('%j ends it', (text, tag) => {
    expect(finishTag(text)).toBe(tag)
  })

  it.each([
    'commit and chain',
    'rollback to a',
    'rollback and chain',
    'commit prepared $$x$$',
    'commit; select 1',
    'end if',
    'committed',
  ])('%j does not', (text) => {
    expect(finishTag(text)).toBeUndefined()
  })
})
