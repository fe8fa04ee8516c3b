/**
 * Tells from the command tag which statements may leave something in the session that the next tenant would find. Text is looked at only to let off statements that surely
 * do not; a statement whose text is not known is taken to.
 */
export function residueOf(
  tag: string,
  text: string | undefined,
  returnedRows: boolean,
): string | undefined {
  const command = tag.replace(/( \d+)+$/, '')
  const single = text === undefined || /;\s*\S/.test(text) ? undefined : text
  switch (command) {
    case 'SET':
      return single !== undefined && /^\s*set\s+(?:local|transaction)\b/i.test(single)
        ? undefined
        : 'a session setting'
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
      return 'what a DO block or a procedure left'
  }
  if (text !== undefined && /\bpg_(?:try_)?advisory_lock/i.test(text)) return 'an advisory lock'
  if (text !== undefined && /\bset_config\b/i.test(text) && !SETS_LOCALLY.test(text))
    return 'a session setting'
  return undefined
}

/** A text in which every call of set_config ends in `true`: for this transaction only. */
const SETS_LOCALLY =
  /^(?:(?!\bset_config\b)[\s\S])*(?:\bset_config\s*\([^()]*,\s*true\s*\)(?:(?!\bset_config\b)[\s\S])*)*$/i

function mayBeTemporary(text: string | undefined): string | undefined {
  return text === undefined || /temp/i.test(text) ? 'a temporary object' : undefined
}
