/**
 * Refuses to run a script of this repository on another Node than the pinned one: pnpm silently keeps the Node of the machine when
 * the npm package `node` was installed without its build step. Plain JavaScript, so that an old Node can at least read the message.
 */
import { readFileSync } from 'node:fs'

const pinned = /^ {2}node: (\d\S*)$/m.exec(
  readFileSync(new URL('../pnpm-workspace.yaml', import.meta.url), 'utf8'),
)?.[1]

if (process.env.PARTYWALL_TEST_NODE === undefined && process.version !== `v${pinned}`) {
  console.error(
    `This runs on Node ${process.version}, but the repository pins ${pinned} (package "node" in pnpm-workspace.yaml).\n` +
      'Run it through pnpm (npx --yes pnpm@12.21.0 test), after "npx --yes pnpm@12.21.0 install". To test with another Node on ' +
      'purpose, set PARTYWALL_TEST_NODE, as "pnpm test:nodes" does.',
  )
  process.exit(1)
}
