import { createHash } from 'node:crypto'

const LONGEST = 63
const HASH_LENGTH = 12

/**
 * The role that holds what all tenants of a database may do, and of which each tenant's role is a member. The rights on a table are one row of `pg_class`, which has to fit a page: granted to every tenant by itself,
 * a table is full at 2,442 tenants, and GRANT fails with "row is too big" (docs/design/tenant-groups.md).
 *
 * - without a schema: reading in the shared schemas.
 * - with one: that of tenants whose rows stand in the tables of that schema.
 *
 * Roles belong to the whole server, so the database is part of the name. No tenant's role begins with `tenants:`.
 */
export function tenantGroup(database: string, rowSchema?: string): string {
  const parts = rowSchema === undefined ? [database] : [database, rowSchema]
  const name = `tenants:${parts.join(':')}`
  // Bytes, because names of databases and schemas may hold anything; and ':' in one of them could make two alike.
  if (Buffer.byteLength(name) <= LONGEST && parts.every((part) => !part.includes(':'))) return name
  const hash = createHash('sha256')
    .update(JSON.stringify(parts))
    .digest('hex')
    .slice(0, HASH_LENGTH)
  const head = Buffer.from(name).subarray(0, LONGEST - HASH_LENGTH - 1)
  return `${new TextDecoder().decode(head, { stream: true })}-${hash}`
}
