/**
 * What an error says, for a message. Never throws, whatever was thrown: code may throw JSON that came from a tenant, and `{"toString":1}` is no text.
 */
export function errorText(error: unknown): string {
  try {
    return error instanceof Error
      ? `${String(error.name)}: ${String(error.message)}`
      : String(error)
  } catch {
    return 'an error that cannot be shown'
  }
}
