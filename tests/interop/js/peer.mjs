// A js-libp2p peer, driven by JSON lines (../foreign.py): one object a line on stdin, its answer on stdout.
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import readline from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const ECHO = '/test/echo/1'
const RAW = 0x55 // multicodec of a CID; the DHT looks at its multihash only
const text = new TextDecoder()
const bytes = new TextEncoder()
const sequenceOf = value => parseInt(text.decode(value).split(':')[0])

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign', allowPublishToZeroTopicPeers: true }),
    dht: kadDHT({
      protocol: '/cocoon/kad/1.0.0',
      clientMode: false,
      peerInfoMapper: passthroughMapper,
      validators: {
        'test-records': async (key, value) => {
          if (Number.isNaN(sequenceOf(value))) throw new Error('no sequence number')
        }
      },
      selectors: {
        'test-records': (key, values) => values.map(sequenceOf).reduce((best, n, i, all) => (n > all[best] ? i : best), 0)
      }
    })
  }
})

const feeds = new Map() // topic → { messages, waiting }
node.services.pubsub.addEventListener('message', ({ detail }) => {
  const feed = feeds.get(detail.topic)
  if (feed == null || detail.from.equals(node.peerId)) return
  const message = [detail.from.toString(), text.decode(detail.data)]
  const receiver = feed.waiting.shift()
  receiver != null ? receiver(message) : feed.messages.push(message)
})

await node.handle(ECHO, async stream => {
  for await (const piece of stream) {
    if (!stream.send(piece)) await stream.onDrain()
  }
  await stream.close()
})

function frames (sizes) {
  const parts = sizes.flatMap(size => {
    const head = Buffer.alloc(4)
    head.writeUInt32BE(size)
    return [head, randomBytes(size)]
  })
  return Buffer.concat([...parts, Buffer.alloc(4)])
}

async function polled (condition) {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 10))
}

async function collect (events, wanted) {
  for await (const event of events) {
    const found = wanted(event)
    if (found != null) return found
  }
  return null
}

const contentId = key => CID.createV1(RAW, Digest.decode(Buffer.from(key, 'hex')))

const actions = {
  connect: async ({ address }) => { await node.dial(multiaddr(address)) },

  identify: async ({ peer }) => {
    const answer = await node.services.identify.identify(node.getConnections(peerIdFromString(peer))[0])
    return {
      agent: answer.agentVersion,
      protocols: answer.protocols,
      addresses: answer.listenAddrs.map(String),
      observed: String(answer.observedAddr)
    }
  },

  ping: async ({ peer }) => {
    const times = []
    for (let i = 0; i < 3; i++) times.push(await node.services.ping.ping(peerIdFromString(peer)))
    return times
  },

  echo: async ({ peer, sizes }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), ECHO)
    const sent = frames(sizes)
    const write = async () => {
      for (let start = 0; start < sent.length; start += 200000) {
        if (!stream.send(sent.subarray(start, start + 200000))) await stream.onDrain()
      }
      await stream.close() // our direction; the other stays open
    }
    const writing = write()
    const received = createHash('sha256')
    for await (const piece of stream) received.update(piece.subarray())
    await writing
    return received.digest('hex') === createHash('sha256').update(sent).digest('hex')
  },

  subscribe: async ({ topic }) => {
    feeds.set(topic, { messages: [], waiting: [] })
    node.services.pubsub.subscribe(topic)
  },

  wait_mesh: ({ topic, peer }) => polled(() => node.services.pubsub.getMeshPeers(topic).includes(peer)),

  publish: async ({ topic, data }) => { await node.services.pubsub.publish(topic, bytes.encode(data)) },

  receive: ({ topic }) => {
    const feed = feeds.get(topic)
    return feed.messages.length > 0 ? feed.messages.shift() : new Promise(resolve => feed.waiting.push(resolve))
  },

  wait_dht: () => polled(() => node.services.dht.routingTable.size > 0),

  put: async ({ key, value }) => {
    await collect(node.services.dht.put(bytes.encode(key), bytes.encode(value)), () => null)
  },

  get: async ({ key }) =>
    collect(node.services.dht.get(bytes.encode(key)), event => event.name === 'VALUE' ? text.decode(event.value) : null),

  provide: async ({ key }) => { await collect(node.services.dht.provide(contentId(key)), () => null) },

  find_providers: async ({ key }) => {
    const found = []
    await collect(node.services.dht.findProviders(contentId(key)), event => {
      if (event.name === 'PROVIDER') found.push(...event.providers.map(p => [p.id.toString(), p.multiaddrs.map(String)]))
      return null
    })
    return found
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
