import { readFileSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'

import { type WorkspacePackage, workspacePackages } from './workspace-packages.ts'

/** Imports point one way (docs/design): who may import whom. A new package needs a row. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  postgres: ['core'],
  cache: ['core'],
  scheduler: ['core'],
  express: ['core'],
  fastify: ['core'],
  telemetry: ['core'],
  testing: ['core'],
  'control-plane': ['core', 'postgres', 'cache', 'scheduler'],
  'tenant-center': ['core', 'postgres', 'cache', 'scheduler', 'control-plane'],
  cli: ['core', 'postgres', 'cache', 'scheduler', 'control-plane'],
  partywall: ['core', 'postgres', 'cache', 'scheduler', 'express', 'fastify', 'control-plane'],
}

/** `from 'x'`, `import 'x'`, `import('x')`, `import.meta.resolve('x')`: what a file takes from elsewhere. */
const IMPORTS = /\b(?:from|import|import\.meta\.resolve)\s*\(?\s*['"]([^'"\n]+)['"]/g
const COMMENTS = /\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm

/** Checks the direction of imports between packages, and that nobody reaches behind a public face. Answers the faults. */
export function importFaults(): string[] {
  const packages = workspacePackages()
  const byName = new Map(packages.map((found) => [found.manifest.name, found]))
  const faults: string[] = []
  for (const importer of [...packages, ...workspacePackages('examples')]) {
    const isExample = !packages.includes(importer)
    const allowed = MAY_IMPORT[importer.folder]
    if (!isExample && allowed === undefined)
      faults.push(`packages/${importer.folder}: no row in scripts/gates/imports.ts`)
    const mayImport = (target: WorkspacePackage): boolean =>
      isExample || target === importer || (allowed ?? []).includes(target.folder)
    for (const [where, specifier] of specifiersOf(importer)) {
      if (specifier.startsWith('.')) {
        const fault = relativeFault(importer, where, specifier)
        if (fault !== undefined) faults.push(`${where}: ${fault}`)
        continue
      }
      const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')
      const target = byName.get(name)
      if (target === undefined) continue
      const subpath = `.${specifier.slice(name.length)}`
      if (!mayImport(target))
        faults.push(`${where}: packages/${importer.folder} must not import ${name}`)
      else if (!Object.hasOwn(target.manifest.exports ?? {}, subpath))
        faults.push(`${where}: ${specifier} is not in the exports of ${name}`)
    }
  }
  return faults
}

/** Every specifier of a package with its place, and what its manifest installs for users. */
function* specifiersOf(importer: WorkspacePackage): Generator<[where: string, specifier: string]> {
  const root = join(importer.directory, '../..')
  const { dependencies, peerDependencies, optionalDependencies } = importer.manifest
  const manifest = relative(root, join(importer.directory, 'package.json'))
  for (const name of Object.keys({ ...dependencies, ...peerDependencies, ...optionalDependencies }))
    yield [manifest, name]
  for (const source of importer.sources) {
    const path = join(importer.directory, source)
    // Blanked, not removed: the line numbers stay.
    const text = readFileSync(path, 'utf8').replace(COMMENTS, (comment) =>
      comment.replace(/[^\n]/g, ' '),
    )
    for (const match of text.matchAll(IMPORTS)) {
      const line = text.slice(0, match.index).split('\n').length
      if (match[1] !== undefined) yield [`${relative(root, path)}:${line}`, match[1]]
    }
  }
}

function relativeFault(
  importer: WorkspacePackage,
  where: string,
  specifier: string,
): string | undefined {
  const file = join(importer.directory, '../..', where.replace(/:\d+$/, ''))
  const target = resolve(dirname(file), specifier)
  if (relative(importer.directory, target).startsWith('..'))
    return `${specifier} leaves the package; import its public name`
  const isDriver = (path: string): boolean => basename(dirname(path)) === 'drivers'
  if (isDriver(file) && isDriver(target) && !file.endsWith('.test.ts'))
    return `${specifier}: drivers never import each other`
  return undefined
}
