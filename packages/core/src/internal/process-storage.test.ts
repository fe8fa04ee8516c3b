import { cp, mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import * as ours from '../index.ts'

const packageFolder = fileURLToPath(new URL('../../', import.meta.url))
let folder: string
let theirs: typeof ours

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'partywall-second-core-'))
  await cp(join(packageFolder, 'src'), join(folder, 'src'), {
    recursive: true,
    filter: (source) => !source.endsWith('.test.ts'),
  })
  await cp(join(packageFolder, 'package.json'), join(folder, 'package.json'))
  await symlink(join(packageFolder, 'node_modules'), join(folder, 'node_modules'))
  const url = pathToFileURL(join(folder, 'src/index.ts')).href
  theirs = (await import(/* @vite-ignore */ url)) as typeof ours
})

afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
})

describe('a second copy of this package in one process', () => {
  it('is refused by createTenancy, with both places named', () => {
    expect(theirs.createTenancy).not.toBe(ours.createTenancy)
    ours.createTenancy({ store: ours.memoryTenantStore([{ id: 'acme' }]) })
    const second = thrownBy(() =>
      theirs.createTenancy({ store: theirs.memoryTenantStore([{ id: 'globex' }]) }),
    )
    expect(second).toMatchObject({ code: 'ERR_TENANCY_CORE_DUPLICATED' })
    expect(String(second)).toContain(folder)
    expect(String(second)).toContain('packages/core/src')
  })

  it('knows the errors of the first, and the first those of the second', () => {
    const mine = new ours.TenancyError('ERR_TENANCY_CLOSED', 'mine')
    const yours = new theirs.TenancyError('ERR_TENANCY_CLOSED', 'yours')
    expect(yours).not.toBeInstanceOf(ours.TenancyError)
    expect(ours.TenancyError.is(yours, 'ERR_TENANCY_CLOSED')).toBe(true)
    expect(theirs.TenancyError.is(mine)).toBe(true)
    expect(ours.TenancyError.is(yours, 'ERR_TENANCY_OPTION_INVALID')).toBe(false)
  })

  it('has scopes of its own, which the first does not take', async () => {
    const tenancy = ours.createTenancy({ store: ours.memoryTenantStore([{ id: 'acme' }]) })
    const scope = await tenancy.run('acme', (given) => given)
    expect(ours.isTenantScope(scope)).toBe(true)
    expect(theirs.isTenantScope(scope)).toBe(false)
  })
})

function thrownBy(fn: () => unknown): unknown {
  try {
    fn()
  } catch (error) {
    return error
  }
  throw new Error('The second copy was accepted.')
}
