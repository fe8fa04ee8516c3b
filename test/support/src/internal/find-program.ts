import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { delimiter, join } from 'node:path'

/** The path of an installed program, or `undefined`: looked for on the PATH, then in `further` directories. */
export async function findProgram(
  name: string,
  further: readonly string[] = [],
): Promise<string | undefined> {
  for (const directory of [...(process.env['PATH'] ?? '').split(delimiter), ...further]) {
    if (directory === '') continue
    const candidate = join(directory, name)
    const usable = await access(candidate, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (usable) return candidate
  }
  return undefined
}
