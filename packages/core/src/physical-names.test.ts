import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  assertNoPhysicalConflict,
  isTenantId,
  MAX_PHYSICAL_NAME_BYTES,
  type PhysicalKind,
  physicalName,
} from './index.ts'

const seed = 20_260_731
const kinds: readonly PhysicalKind[] = ['schema', 'role', 'database', 'queue', 'file']
const id = fc.stringMatching(/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/).filter(isTenantId)
/** Ids of 55 to 63 bytes that differ only near their end, where a cut would make them equal. */
const sharedPrefix = 'tenant-of-the-northern-region-with-a-rather-long-name-'
const longId = fc.stringMatching(/^[a-z0-9]{1,9}$/).map((end) => sharedPrefix + end)

describe('physical names', () => {
  it('are the id itself, with a prefix where others may live too', () => {
    expect(kinds.map((kind) => physicalName(kind, 'acme'))).toEqual([
      'acme',
      'tenant-acme',
      'tenant-acme',
      'acme',
      'acme',
    ])
  })

  it('keep an id of 56 bytes whole and cut one of 57', () => {
    expect(physicalName('role', 'a'.repeat(56))).toBe(`tenant-${'a'.repeat(56)}`)
    const cut = physicalName('role', 'a'.repeat(57))
    expect(cut).toMatch(/^tenant-a{43}-[0-9a-f]{12}$/)
    expect(cut).toHaveLength(63)
    expect(physicalName('schema', 'a'.repeat(63))).toBe('a'.repeat(63))
  })

  it(`have at most ${MAX_PHYSICAL_NAME_BYTES} bytes of a-z, 0-9 and - (seed ${seed})`, () => {
    fc.assert(
      fc.property(fc.oneof(id, longId), fc.constantFrom(...kinds), (tenantId, kind) => {
        const name = physicalName(kind, tenantId)
        expect(Buffer.byteLength(name)).toBeLessThanOrEqual(MAX_PHYSICAL_NAME_BYTES)
        expect(name).toMatch(/^[a-z0-9-]+$/)
        expect(physicalName(kind, tenantId)).toBe(name)
      }),
      { seed, numRuns: 500 },
    )
  })

  it(`are different for different ids (seed ${seed})`, () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.oneof(id, longId), { minLength: 2, maxLength: 60 }),
        fc.constantFrom(...kinds),
        (ids, kind) => {
          expect(new Set(ids.map((tenantId) => physicalName(kind, tenantId))).size).toBe(ids.length)
        },
      ),
      { seed, numRuns: 300 },
    )
  })

  it('refuse an id that is built to have the role of another tenant', () => {
    const victim = 'a'.repeat(63)
    const hash = createHash('sha256').update(victim).digest('hex').slice(0, 12)
    const attacker = `${'a'.repeat(43)}-${hash}`
    expect(isTenantId(attacker)).toBe(true)
    expect(physicalName('role', attacker)).toBe(physicalName('role', victim))
    expect(() => assertNoPhysicalConflict(attacker, ['globex', victim])).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_PHYSICAL_NAME_CONFLICT', status: 409 }),
    )
    expect(() => assertNoPhysicalConflict(attacker, ['globex', attacker])).not.toThrow()
  })

  it.each(['', 'Acme', 'pg_catalog', '../x', 'www', 'a'.repeat(64)])(
    'refuse the id %j',
    (value) => {
      for (const kind of kinds)
        expect(() => physicalName(kind, value)).toThrow(
          expect.objectContaining({ code: 'ERR_TENANCY_IDENTIFIER_INVALID' }),
        )
    },
  )

  it.each(['table', '__proto__', 'constructor'])('refuse the kind %j', (kind) => {
    // @ts-expect-error only the kinds of PhysicalKind
    expect(() => physicalName(kind, 'acme')).toThrow(
      expect.objectContaining({ code: 'ERR_TENANCY_OPTION_INVALID' }),
    )
  })
})
