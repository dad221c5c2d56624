// A js-libp2p peer, driven by JSON lines (../foreign.py): one object a line on stdin, its answer on stdout.
//   peer.mjs [{"listen": "/ip4/…", "network_key": "<text of a swarm.key file>"}]
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import readline from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const ECHO = '/test/echo/1'
const DIGEST = '/test/digest/1' // bytes to the end of one direction, and their SHA-256 back
const CUT = '/test/cut/1' // resets as soon as something has come
const PIECE = 200000
const PEER_STREAMS = { maxInboundStreams: 256, maxOutboundStreams: 256 } // 32 and 64 otherwise
const RAW = 0x55 // multicodec of a CID; the DHT looks at its multihash only
const text = new TextDecoder()
const bytes = new TextEncoder()
const sequenceOf = value => parseInt(text.decode(value).split(':')[0])

const { listen = '/ip4/127.0.0.1/tcp/0', network_key: networkKey } = JSON.parse(process.argv[2] ?? '{}')

const node = await createLibp2p({
  addresses: { listen: [listen] },
  transports: [tcp(), webSockets()],
  connectionProtector: networkKey == null ? undefined : preSharedKey({ psk: bytes.encode(networkKey) }),
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    identifyPush: identifyPush({ debounce: 50 }), // a second otherwise
    ping: ping(),
    pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign', allowPublishToZeroTopicPeers: true }),
    dht: kadDHT({
      protocol: '/cocoon/kad/1.0.0',
      clientMode: false,
      initialQuerySelfInterval: 50, // queries wait for it; a second otherwise
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
}, PEER_STREAMS)

await node.handle(DIGEST, async stream => {
  const hash = createHash('sha256')
  for await (const piece of stream) hash.update(piece.subarray())
  stream.send(hash.digest())
  await stream.close()
})

await node.handle(CUT, stream => {
  stream.addEventListener('message', () => stream.abort(new Error('that is enough')), { once: true })
})

async function sendAll (stream, data) {
  for (let start = 0; start < data.length; start += PIECE) {
    if (!stream.send(data.subarray(start, start + PIECE))) await stream.onDrain()
  }
  await stream.close() // our direction; the other stays open
}

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

  known: async ({ peer }) => {
    const { addresses, protocols } = await node.peerStore.get(peerIdFromString(peer))
    const certified = addresses.filter(address => address.isCertified)
    return { protocols, certified: certified.map(address => String(address.multiaddr)) }
  },

  handle: async ({ protocol }) => { await node.handle(protocol, stream => stream.close()) },

  ping: async ({ peer }) => {
    const times = []
    while (times.length < 3) {
      try {
        times.push(await node.services.ping.ping(peerIdFromString(peer)))
      } catch (error) {
        if (error.name !== 'TooManyOutboundProtocolStreamsError') throw error // one at a time, and its DHT pings, too
        await new Promise(resolve => setTimeout(resolve, 10))
      }
    }
    return times
  },

  echo: async ({ peer, sizes }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), ECHO, PEER_STREAMS)
    const sent = frames(sizes)
    const writing = sendAll(stream, sent)
    const received = createHash('sha256')
    for await (const piece of stream) received.update(piece.subarray())
    await writing
    return received.digest('hex') === createHash('sha256').update(sent).digest('hex')
  },

  // Whether they got what was sent before the end of our direction.
  digest: async ({ peer, size }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), DIGEST)
    const sent = randomBytes(size)
    await sendAll(stream, sent)
    const answer = []
    for await (const piece of stream) answer.push(piece.subarray())
    return Buffer.concat(answer).equals(createHash('sha256').update(sent).digest())
  },

  // Half a frame, and a reset.
  abort: async ({ peer }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), ECHO)
    stream.send(frames([PIECE]).subarray(0, PIECE / 2))
    stream.abort(new Error('that is enough'))
  },

  // What a stream that they reset looks like from here.
  cut: async ({ peer }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), CUT)
    stream.send(randomBytes(1000))
    try {
      for await (const _ of stream);
    } catch (error) {
      return error.name
    }
    return 'the end'
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
