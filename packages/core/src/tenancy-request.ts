/** The slice of an HTTP request that resolvers read; the host adapters make it from the framework's own request. */
export interface TenancyRequest<Raw = unknown> {
  /** The framework's request, for `authorize` and for resolvers of your own. */
  readonly raw: Raw
  readonly method: string
  /** The request target exactly as it was received, query included (`req.originalUrl`, `request.originalUrl`). */
  readonly target: string
  /**
   * Host and port as the framework's trust settings see them; never a raw forwarded header. `undefined` when the request has none,
   * `null` when the framework saw more than one, which resolvers of hosts refuse.
   */
  readonly authority: string | undefined | null
  /** The value of a header by its lower-case name; repeated ones joined by a comma, as Node does. */
  header(name: string): string | undefined
}
