import { existsSync, globSync, readFileSync, rmSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { ROOT, runCommand, runPnpm } from './run-command.ts'
import { type Manifest, type WorkspacePackage, workspacePackages } from './workspace-packages.ts'

export interface GateReport {
  readonly faults: string[]
  readonly warnings: string[]
}

/**
 * Builds every package, packs it as for publishing, and looks at the archive as a user gets it: manifest, files, entry points, types.
 */
export async function packedPackagesReport(): Promise<GateReport> {
  const packages = workspacePackages().filter(({ manifest }) => manifest.private !== true)
  for (const { directory } of packages) removeStaleOutput(directory)
  const build = await runCommand('tsc', ['-b', 'tsconfig.build.json'])
  if (!build.ok) return { faults: [`The build failed:\n${build.output}`], warnings: [] }
  const directory = await mkdtemp(join(tmpdir(), 'partywall-pack-'))
  try {
    const packed = await runPnpm(
      `--recursive --filter ./packages/* pack --pack-destination ${directory}`.split(' '),
    )
    if (!packed.ok) return { faults: [`pnpm pack failed:\n${packed.output}`], warnings: [] }
    const reports = []
    for (const found of packages) reports.push(await packageReport(found, directory))
    return {
      faults: reports.flatMap(({ faults }) => faults),
      warnings: reports.flatMap(({ warnings }) => warnings),
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function packageReport(found: WorkspacePackage, archives: string): Promise<GateReport> {
  const faults: string[] = []
  const warnings: string[] = []
  const { name } = found.manifest
  const base = name.replace('@', '').replace('/', '-')
  const archive = globSync(`${base}-[0-9]*.tgz`, { cwd: archives }).map((file) =>
    join(archives, file),
  )[0]
  if (archive === undefined) return { faults: [`${name}: no archive was made`], warnings }
  const fault = (text: string): void => {
    faults.push(`${name}: ${text.trim()}`)
  }

  const unpacked = join(archives, base)
  await mkdir(unpacked)
  const untar = await runCommand('tar', ['-xzf', archive, '-C', unpacked, '--strip-components=1'])
  if (!untar.ok) return { faults: [`${name}: ${untar.output}`], warnings }
  const text = await readFile(join(unpacked, 'package.json'), 'utf8')
  for (const protocol of ['catalog:', 'workspace:'])
    if (text.includes(`"${protocol}`)) fault(`the packed manifest still says "${protocol}"`)
  const manifest = JSON.parse(text) as Manifest
  // Users have no TypeScript loader for node_modules: the condition must not leave the repository.
  if (/"source"\s*:/.test(JSON.stringify(manifest.exports ?? {})))
    fault('the packed exports still hold the "source" condition')
  if (!existsSync(join(unpacked, 'LICENSE'))) fault('LICENSE is missing')
  if (!existsSync(join(unpacked, 'README.md'))) warnings.push(`${name}: README.md is missing`)
  const tests = globSync('{src,dist}/**/*.{test,test-d,test-suite}.*', { cwd: unpacked })
  if (tests.length > 0) fault(`tests are in the archive: ${tests.join(', ')}`)
  if (existsSync(join(unpacked, 'dist/.tsbuildinfo'))) fault('dist/.tsbuildinfo is in the archive')

  const checks = [
    ['publint', ['run', archive, '--strict']],
    ['attw', [archive, '--profile', 'esm-only', '--no-emoji', '--no-color', '--format', 'ascii']],
    // The built package under its own name, as ESM and by require(): the two ways a user can load it.
    [process.execPath, ['--input-type=module', '-e', loadScript(name)]],
  ] as const
  for (const [command, args] of checks) {
    const { ok, output } = await runCommand(command, args, { cwd: found.directory })
    if (!ok) fault(output)
  }
  return { faults, warnings }
}

function loadScript(name: string): string {
  const quoted = JSON.stringify(name)
  return `
    import { createRequire } from 'node:module'
    const [esm, cjs] = [await import(${quoted}), createRequire(process.cwd() + '/')(${quoted})]
    if (Object.keys(esm).length === 0) throw new Error('The package exports nothing.')
    if (esm.default !== cjs.default || Object.keys(esm).some((key) => esm[key] !== cjs[key]))
      throw new Error('import and require() load two copies.')
  `
}

/** A file whose source was renamed stays in `dist` and would be published. */
function removeStaleOutput(directory: string): void {
  for (const output of globSync('dist/**/*.{js,d.ts,js.map,d.ts.map}', { cwd: directory })) {
    const source = output.replace(/^dist/, 'src').replace(/\.(js|d\.ts)(\.map)?$/, '.ts')
    if (!existsSync(join(directory, source))) rmSync(join(directory, output))
  }
  // tsc believes its record of what it wrote.
  const record = join(directory, 'dist/.tsbuildinfo')
  if (existsSync(record) && !existsSync(join(directory, 'dist/index.js'))) rmSync(record)
}

/** Every public package stands in the changesets group that is released with one version. */
export function releaseGroupFaults(): string[] {
  const { fixed } = JSON.parse(readFileSync(join(ROOT, '.changeset/config.json'), 'utf8')) as {
    fixed: string[][]
  }
  return workspacePackages()
    .filter(({ manifest }) => manifest.private !== true && !fixed.flat().includes(manifest.name))
    .map(({ manifest }) => `.changeset/config.json: ${manifest.name} is not in "fixed"`)
}
