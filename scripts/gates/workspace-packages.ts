import { existsSync, globSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

import { ROOT } from './run-command.ts'

/** The fields of a package manifest that the gates look at. */
export interface Manifest {
  readonly name: string
  readonly private?: boolean
  readonly exports?: Readonly<Record<string, unknown>>
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

export interface WorkspacePackage {
  /** The folder below `packages/`, such as `core`. */
  readonly folder: string
  /** Absolute. */
  readonly directory: string
  readonly manifest: Manifest
  /** Source files, relative to the directory, tests included. */
  readonly sources: readonly string[]
}

/** The packages below `packages/` (or another folder of the root), in the order of their names. */
export function workspacePackages(below = 'packages'): WorkspacePackage[] {
  return globSync(`${below}/*/package.json`, { cwd: ROOT })
    .toSorted()
    .map((path) => {
      const directory = join(ROOT, dirname(path))
      return {
        folder: basename(directory),
        directory,
        manifest: JSON.parse(readFileSync(join(ROOT, path), 'utf8')) as Manifest,
        sources: existsSync(join(directory, 'src'))
          ? globSync('{src,migrations}/**/*.ts', { cwd: directory }).toSorted()
          : [],
      }
    })
}
