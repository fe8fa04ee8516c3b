import { existsSync } from 'node:fs'
import { request } from 'node:http'
import { homedir } from 'node:os'
import { join } from 'node:path'

/**
 * Whether a Docker engine answers: a socket alone proves nothing, and asking a dead one through Testcontainers takes many seconds.
 * Never rejects, and takes a second at most per place where an engine may listen.
 */
export async function dockerEngineAnswers(): Promise<boolean> {
  const host = process.env['DOCKER_HOST']
  if (host !== undefined && host !== '') {
    if (host.startsWith('unix://')) return ping({ socketPath: host.slice('unix://'.length) })
    if (!URL.canParse(host)) return false
    const { hostname, port } = new URL(host)
    // An engine behind TLS cannot be asked without its certificates; it was named on purpose, so it is believed.
    if (process.env['DOCKER_TLS_VERIFY']) return true
    return ping({ host: hostname, port: Number(port || 2375) })
  }
  const runtime = process.env['XDG_RUNTIME_DIR']
  const sockets = [
    '/var/run/docker.sock',
    ...(runtime === undefined ? [] : [join(runtime, 'docker.sock')]),
    join(homedir(), '.docker/run/docker.sock'),
  ]
  for (const socketPath of sockets)
    if (existsSync(socketPath) && (await ping({ socketPath }))) return true
  return false
}

async function ping(
  where: { readonly socketPath: string } | { readonly host: string; readonly port: number },
): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const asked = request({ ...where, path: '/_ping', agent: false }, (response) => {
    response.resume()
    resolve(response.statusCode === 200)
  })
  asked.on('error', () => {
    resolve(false)
  })
  // A timer of our own: the `timeout` option counts idle time only, and a slow trickle would keep the run waiting.
  const timer = setTimeout(() => {
    asked.destroy(new Error('timeout'))
    resolve(false)
  }, 1_000)
  asked.end()
  try {
    return await promise
  } finally {
    clearTimeout(timer)
    asked.destroy()
  }
}
