/**
 * The messages of the frontend (PostgreSQL manual, 53.7) that put a scope in front of a statement. Encoded once and
 * sent as bytes.
 */

/** Parse: prepares `text` under `name`; `''` is the unnamed statement. Parameter types are left to the server. */
export function parseMessage(name: string, text: string): Buffer {
  return message('P', [cString(name), cString(text), int16(0)])
}

/** Bind: the unnamed portal over a prepared statement, with text parameters and text results. */
export function bindMessage(name: string, parameters: readonly string[]): Buffer {
  const values = parameters.flatMap((parameter) => {
    const bytes = Buffer.from(parameter, 'utf8')
    return [int32(bytes.length), bytes]
  })
  return message('B', [
    cString(''),
    cString(name),
    int16(0),
    int16(parameters.length),
    ...values,
    int16(0),
  ])
}

/** Execute: runs the unnamed portal to its end. */
export function executeMessage(): Buffer {
  return message('E', [cString(''), int32(0)])
}

/** Describe: asks for the columns of a portal. */
export function describePortalMessage(name: string): Buffer {
  return message('D', [Buffer.from('P', 'latin1'), cString(name)])
}

/** Close: forgets a prepared statement. Not an error if there is none. */
export function closeStatementMessage(name: string): Buffer {
  return message('C', [Buffer.from('S', 'latin1'), cString(name)])
}

/** Flush: asks for the answers so far, without an end of the batch. */
export function flushMessage(): Buffer {
  return message('H', [])
}

/** Sync: the end of a batch, and of its implicit transaction. */
export function syncMessage(): Buffer {
  return message('S', [])
}

function message(type: string, parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from(type, 'latin1'), int32(body.length + 4), body])
}

function cString(text: string): Buffer {
  if (text.includes('\0')) throw new TypeError('A protocol string cannot hold NUL.')
  return Buffer.from(`${text}\0`, 'utf8')
}

function int16(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(2)
  buffer.writeInt16BE(value)
  return buffer
}

function int32(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(4)
  buffer.writeInt32BE(value)
  return buffer
}
