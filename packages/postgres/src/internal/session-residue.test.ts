import { describe, expect, test } from 'vitest'
import { residueOf } from './session-residue.ts'

describe('residueOf', () => {
  test.each<[tag: string, text: string | undefined, returnedRows: boolean]>([
    ['SELECT 1', 'select 1', true],
    ['SET', 'set local work_mem = 1', false],
    ['SET', 'begin; set local work_mem = 1; set transaction read only', false],
    ['INSERT 0 1', 'insert into item values (1)', false],
    ['SELECT 3', 'create table attic as select 1', false],
    ['DECLARE CURSOR', 'declare c cursor for select 1', false],
    ['SELECT 1', "select set_config('app.user', $1, true)", true],
    ['SELECT 9', 'select * from pg_settings', true],
    ['CREATE TABLE', 'create table item (id int)', false],
  ])('lets off %s of %j', (tag, text, rows) => expect(residueOf(tag, text, rows)).toBeUndefined())

  test.each<[tag: string, text: string | undefined, returnedRows: boolean]>([
    ['SET', 'set work_mem = 1', false],
    ['SET', undefined, false],
    ['SET', 'set local work_mem = 1; set work_mem = 2', false],
    ['SET', 'set local work_mem = 1; /* x */ set work_mem = 2', false],
    ['SET', "set local.secret = 'x'", false],
    ['SET', "set transaction.secret = 'x'", false],
    ['LISTEN', 'listen x', false],
    ['PREPARE', 'prepare x as select 1', false],
    ['SELECT 3', 'create temp table x as select 1', false],
    ['SELECT 3', undefined, false],
    ['CREATE TABLE', 'create temporary table x (id int)', false],
    ['CREATE TABLE', 'create table pg_temp.x (id int)', false],
    ['DECLARE CURSOR', 'declare c cursor with hold for select 1', false],
    ['DO', 'do $$ begin end $$', false],
    ['CALL', 'call x()', false],
    ['SELECT 1', "select set_config('app.user', 'a, true)', false)", true],
    ['SELECT 1', 'select pg_advisory_lock(1)', true],
    ['ERROR', 'select pg_try_advisory_lock(1), 1/0', true],
    ['ERROR', "do $$ begin raise 'x'; end $$", true],
    ['UPDATE 1', "update pg_settings set setting = 'x' where name = 'search_path'", false],
  ])('takes %s of %j to leave something', (tag, text, rows) =>
    expect(residueOf(tag, text, rows)).toMatch(/./),
  )
})
