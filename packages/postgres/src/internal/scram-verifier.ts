import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'

/** What Postgres keeps of a password (RFC 5803; libpq, fe-auth-scram.c): it verifies one, and is none. Sent instead of the password, which would otherwise stand in logs and statistics of statements. */
export async function scramVerifier(password: string): Promise<string> {
  return verifier(password, randomBytes(16), ITERATIONS)
}

/** Whether a verifier that Postgres keeps is that of a password. One of another kind is not. */
export async function matchesVerifier(password: string, kept: string | null): Promise<boolean> {
  const [, iterations, salt] = /^SCRAM-SHA-256\$(\d+):([^$]+)\$/.exec(kept ?? '') ?? []
  if (kept === null || iterations === undefined || salt === undefined) return false
  const expected = Buffer.from(
    await verifier(password, Buffer.from(salt, 'base64'), Number(iterations)),
  )
  const found = Buffer.from(kept)
  return expected.length === found.length && timingSafeEqual(expected, found)
}

/** The default of the server (scram_iterations). */
const ITERATIONS = 4_096

const deriveKey = promisify(pbkdf2)

async function verifier(password: string, salt: Buffer, iterations: number): Promise<string> {
  const salted = await deriveKey(password, salt, iterations, 32, 'sha256')
  const hmac = (text: string): Buffer => createHmac('sha256', salted).update(text).digest()
  const storedKey = createHash('sha256').update(hmac('Client Key')).digest()
  const parts = [salt, storedKey, hmac('Server Key')].map((part) => part.toString('base64'))
  return `SCRAM-SHA-256$${iterations}:${parts[0]}$${parts[1]}:${parts[2]}`
}
