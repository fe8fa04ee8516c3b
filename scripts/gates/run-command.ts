import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

export const ROOT: string = join(import.meta.dirname, '../..')

/** What a command said (standard output and errors, in order of arrival), and how it ended. */
export interface CommandResult {
  readonly ok: boolean
  readonly output: string
}

/** Runs a program of the workspace from `cwd` (the root by default). Never rejects: a program that is missing has failed. */
export async function runCommand(
  command: string,
  args: readonly string[],
  { cwd = ROOT }: { readonly cwd?: string } = {},
): Promise<CommandResult> {
  const path = [join(ROOT, 'node_modules/.bin'), process.env['PATH'] ?? ''].join(delimiter)
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, PATH: path },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text
      })
    child.on('error', (error) => {
      resolve({ ok: false, output: error.message })
    })
    child.on('close', (code) => {
      resolve({ ok: code === 0, output })
    })
  })
}

/** Runs the pinned pnpm: the one that runs this script, or the one that `packageManager` names. */
export async function runPnpm(args: readonly string[]): Promise<CommandResult> {
  const running = process.env['npm_execpath']
  if (running !== undefined && running.endsWith('pnpm')) return runCommand(running, args)
  const { packageManager } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    packageManager: string
  }
  return runCommand('npx', ['--yes', packageManager, ...args])
}
