/** A fenced block of a Markdown page. */
export interface CodeBlock {
  /** What stands behind the fence: the language, and more. */
  readonly info: string
  readonly text: string
}

/** The fenced code blocks of a Markdown page, in order. */
export function codeBlocks(markdown: string): CodeBlock[] {
  return [...markdown.matchAll(/^```([^\n]*)\n([\s\S]*?)^```$/gm)].map(
    ([, info = '', text = '']) => ({ info: info.trim(), text }),
  )
}
