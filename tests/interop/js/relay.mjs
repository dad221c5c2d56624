// A js-libp2p node with circuit relay v2: as the relay, as the one that is reached through it, as the one that dials.
// Driven by JSON lines (../foreign.py).
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { randomBytes } from 'node:crypto'
import readline from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/test/echo/1'
const limited = { runOnLimitedConnection: true } // js keeps limited connections for those that ask for them

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(limited),
    ping: ping(limited),
    relay: circuitRelayServer({ reservations: { defaultDataLimit: 1n << 30n, defaultDurationLimit: 600000 } })
  }
})

await node.handle(ECHO, async stream => {
  for await (const piece of stream) {
    if (!stream.send(piece)) await stream.onDrain()
  }
  await stream.close()
}, limited)

async function polled (condition) {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 10))
}

const actions = {
  connect: async ({ address }) => { await node.dial(multiaddr(address)) },

  // At the relay of this address: /…/p2p/<relay>
  reserve: async ({ address }) => {
    await node.components.transportManager.listen([multiaddr(`${address}/p2p-circuit`)])
    await polled(() => node.getMultiaddrs().some(own => String(own).includes('/p2p-circuit')))
    return true
  },

  dial: async ({ address }) => { await node.dial(multiaddr(address)) },

  echo: async ({ peer, sizes }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), ECHO, limited)
    const sent = Buffer.concat([...sizes.flatMap(size => {
      const head = Buffer.alloc(4)
      head.writeUInt32BE(size)
      return [head, randomBytes(size)]
    }), Buffer.alloc(4)])
    const write = async () => {
      for (let start = 0; start < sent.length; start += 50000) {
        if (!stream.send(sent.subarray(start, start + 50000))) await stream.onDrain()
      }
      await stream.close()
    }
    const writing = write()
    const received = []
    for await (const piece of stream) received.push(piece.subarray())
    await writing
    return Buffer.concat(received).equals(sent)
  }
}

const say = fields => process.stdout.write(JSON.stringify(fields) + '\n')
const versionOf = name => {
  const folder = createRequire(import.meta.url).resolve.paths(name)[0]
  return JSON.parse(readFileSync(`${folder}/${name}/package.json`)).version
}

say({
  peer_id: node.peerId.toString(),
  addresses: node.getMultiaddrs().map(address => String(address).split('/p2p/')[0]),
  version: `js-libp2p ${versionOf('libp2p')}`
})

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, do: name, ...rest } = JSON.parse(line)
  Promise.resolve()
    .then(() => actions[name](rest))
    .then(ok => say({ id, ok: ok ?? null }), error => say({ id, error: String(error?.stack ?? error) }))
}
process.exit(0)
