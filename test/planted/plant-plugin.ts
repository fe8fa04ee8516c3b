import { resolve } from 'node:path'
import type { Plugin } from 'vitest/config'
import { type PlantedLeak, plantedLeaks } from './leaks.ts'

/** Name of the environment variable that plants a leak in a run of the suite. Nothing in the packages knows of it. */
export const PLANT_VARIABLE = 'PARTYWALL_PLANT'

/**
 * Plants one leak: changes sources as they are loaded, never on disk. A leak whose text is no longer found fails the run: it would prove nothing.
 */
export function plantPlugin(name: string | undefined = process.env[PLANT_VARIABLE]): Plugin[] {
  if (!name) return []
  const leak = plantedLeaks.find((candidate) => candidate.name === name)
  if (leak === undefined) throw new Error(`No planted leak is called ${name}.`)
  const edits = leak.edits.map((edit) => ({ ...edit, file: resolve(edit.file) }))
  return [
    {
      name: `plant:${name}`,
      enforce: 'pre',
      transform(code, id) {
        const [file] = id.split('?')
        let planted = code
        for (const edit of edits) {
          if (edit.file !== file) continue
          if (planted.split(edit.find).length !== 2)
            throw new Error(
              `Planted leak ${name}: its text must stand exactly once in ${edit.file}.`,
            )
          planted = planted.replace(edit.find, () => edit.replace)
        }
        return planted === code ? undefined : { code: planted, map: null }
      },
    },
  ]
}

export type { PlantedLeak }
