import { once } from 'node:events'
import { describe, expect, expectTypeOf, it } from 'vitest'
import { TenancyEventHub, type TenancyEventListener, type TenantScope } from './index.ts'

describe('TenancyEventHub', () => {
  it('calls listeners at once, in order, each registration once', () => {
    const hub = new TenancyEventHub()
    const seen: string[] = []
    const listener = ({ tenantId }: { tenantId: string }): void => void seen.push(tenantId)
    const off = hub.on('tenant:invalidated', listener)
    hub.on('tenant:invalidated', ({ tenantId }) => void seen.push(`second ${tenantId}`))
    hub.on('tenant:invalidated', listener)
    hub.emit('tenant:invalidated', { tenantId: 'acme' })
    expect(seen).toEqual(['acme', 'second acme', 'acme'])
    off()
    off()
    hub.emit('tenant:invalidated', { tenantId: 'globex' })
    expect(seen.slice(3)).toEqual(['second globex', 'globex'])
  })

  it('knows whether anybody listens', () => {
    const hub = new TenancyEventHub()
    expect(hub.has('store:failed')).toBe(false)
    const off = hub.on('store:failed', () => undefined)
    expect(hub.has('store:failed')).toBe(true)
    off()
    expect(hub.has('store:failed')).toBe(false)
    hub.emit('store:failed', { error: undefined, servedStale: false })
  })

  it.each<[string, TenancyEventListener<'tenant:invalidated'>]>([
    [
      'throws',
      () => {
        throw new Error('of a listener')
      },
    ],
    ['rejects', async () => Promise.reject(new Error('of a listener'))],
  ])('warns of a listener that %s and goes on', async (_, listener) => {
    const hub = new TenancyEventHub()
    const seen: string[] = []
    hub.on('tenant:invalidated', listener)
    hub.on('tenant:invalidated', ({ tenantId }) => void seen.push(tenantId))
    const warned = once(process, 'warning')
    hub.emit('tenant:invalidated', { tenantId: 'acme' })
    expect(seen).toEqual(['acme'])
    const [warning] = await warned
    expect(warning).toMatchObject({
      code: 'PARTYWALL_LISTENER_FAILED',
      message: expect.stringContaining('of a listener'),
    })
  })

  it('lets a listener leave and join while an event is told', () => {
    const hub = new TenancyEventHub()
    const seen: string[] = []
    const off = hub.on('tenant:invalidated', () => {
      off()
      seen.push('first')
      hub.on('tenant:invalidated', () => void seen.push('joined'))
    })
    hub.on('tenant:invalidated', () => void seen.push('second'))
    hub.emit('tenant:invalidated', { tenantId: 'acme' })
    expect(seen).toEqual(['first', 'second'])
    hub.emit('tenant:invalidated', { tenantId: 'acme' })
    expect(seen.slice(2)).toEqual(['second', 'joined'])
  })

  it('is typed by the name of the event', () => {
    const hub = new TenancyEventHub()
    hub.on('tenant:resolved', (event) => {
      expectTypeOf(event.scope).toEqualTypeOf<TenantScope>()
    })
    // @ts-expect-error no such event
    hub.on('tenant:lost', () => undefined)
    // @ts-expect-error the event carries a tenantId
    hub.emit('tenant:invalidated', {})
    expectTypeOf<TenancyEventListener<'store:failed'>>().parameter(0).toHaveProperty('servedStale')
  })
})
