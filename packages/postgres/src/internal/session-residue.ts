/**
 * Tells from the command tag which statements may leave something in the session that the next tenant would find. Text is looked at only to let off statements that surely
 * do not; a statement whose text is not known is taken to. `ERROR` is the tag of a statement that failed.
 *
 * What a function does when a plain SELECT calls it shows nowhere. Of that, temporary objects and the base path are found by the next scope (`tenant-prefix.ts`); custom settings, session locks and subscriptions are not.
 */
export function residueOf(
  tag: string,
  text: string | undefined,
  returnedRows: boolean,
): string | undefined {
  const command = tag.replace(/( \d+)+$/, '')
  switch (command) {
    case 'SET':
      return text !== undefined && setsLocally(text) ? undefined : 'a session setting'
    case 'LISTEN':
      return 'a subscription'
    case 'PREPARE':
      return 'a prepared statement'
    case 'PREPARE TRANSACTION':
      return 'a prepared transaction'
    case 'LOAD':
      return 'a loaded library'
    case 'DECLARE CURSOR':
      return text !== undefined && !/\bhold\b/i.test(text)
        ? undefined
        : 'a cursor that outlives its transaction'
    case 'SELECT':
    case 'CREATE TABLE AS':
      // SELECT INTO and CREATE TABLE AS report the tag of a SELECT, but no columns.
      if (!returnedRows) return mayBeTemporary(text)
      break
    case 'CREATE TABLE':
    case 'CREATE SEQUENCE':
    case 'CREATE VIEW':
    case 'CREATE FUNCTION':
    case 'CREATE TYPE':
      return mayBeTemporary(text)
    case 'DO':
    case 'CALL':
      // Code in the server's languages can leave anything and reports nothing.
      return LEFT_BY_CODE
  }
  if (text === undefined) return undefined
  if (/\bpg_(?:try_)?advisory_lock/i.test(text)) return 'an advisory lock'
  if (/\bupdate\b[\s\S]*\bpg_settings\b/i.test(text)) return 'a session setting'
  if (/\bset_config\b/i.test(text.replace(SETS_LOCALLY, ''))) return 'a session setting'
  // A failed block reports no tag, and what it locked or subscribed to may stay.
  if (tag === 'ERROR' && /^\s*(?:do|call)\b/i.test(text)) return LEFT_BY_CODE
  return undefined
}

const LEFT_BY_CODE = 'what a DO block or a procedure left'

/** A call of set_config for this transaction only, with arguments plain enough to be read. */
const SETS_LOCALLY =
  /\bset_config\s*\(\s*(?:'[\w.]+'|\$\d+)\s*,\s*(?:'[^']*'|\$\d+(?:::\w+)?)\s*,\s*true\s*\)/gi

function mayBeTemporary(text: string | undefined): string | undefined {
  return text === undefined || /temp/i.test(text) ? 'a temporary object' : undefined
}

/** Whether every SET of a text is for its transaction only. A comment could stand between a semicolon and a SET, so a text with any is not let off. */
function setsLocally(text: string): boolean {
  return !/--|\/\*/.test(text) && !/(?:^|;)\s*set\s+(?!(?:local|transaction)\s)/i.test(text)
}
