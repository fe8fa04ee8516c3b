/**
 * Recognises the statements that open and close a transaction, as far as that saves a round trip. Nothing here guards anything: what is not recognised is sent as it is, and
 * what the server reports decides.
 */

const SPACE = String.raw`(?:\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)`
const MODE = `(?:isolation${SPACE}+level${SPACE}+(?:serializable|repeatable${SPACE}+read|read${SPACE}+(?:un)?committed)|read${SPACE}+(?:only|write)|(?:not${SPACE}+)?deferrable)`
const MODES = `${MODE}(?:${SPACE}*,${SPACE}*${MODE}|${SPACE}+${MODE})*`
const END = `${SPACE}*;?${SPACE}*$`

const BEGIN = new RegExp(
  `^${SPACE}*(?:begin(?:${SPACE}+(?:work|transaction))?|start${SPACE}+transaction)(?:${SPACE}+${MODES})?${END}`,
  'i',
)
const SET_TRANSACTION = new RegExp(
  `^${SPACE}*set${SPACE}+(?:local${SPACE}+)?transaction${SPACE}+${MODES}${END}`,
  'i',
)
const FINISH = new RegExp(
  `^${SPACE}*(?:(commit|end)|(?:rollback|abort))(?:${SPACE}+(?:work|transaction))?${END}`,
  'i',
)
const LONGEST = 300

/** The command tag that the server would answer to a statement that only opens a transaction, or `undefined` if it is another. */
export function beginTag(text: string): 'BEGIN' | 'START TRANSACTION' | undefined {
  if (text.length > LONGEST || !BEGIN.test(text)) return undefined
  return /^[^a-z]*start/i.test(text.replaceAll(new RegExp(SPACE, 'g'), ' '))
    ? 'START TRANSACTION'
    : 'BEGIN'
}

/** Whether a statement only sets the modes of the transaction. The server takes it before the first query alone, so it must stay in front of the scope. */
export function isSetTransaction(text: string): boolean {
  return text.length <= LONGEST && SET_TRANSACTION.test(text)
}

/** The command tag of a statement that only ends a transaction, or `undefined` if it is another. */
export function finishTag(text: string): 'COMMIT' | 'ROLLBACK' | undefined {
  const match = text.length > LONGEST ? null : FINISH.exec(text)
  if (match === null) return undefined
  return match[1] === undefined ? 'ROLLBACK' : 'COMMIT'
}
