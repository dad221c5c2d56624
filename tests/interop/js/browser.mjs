// js-libp2p in a browser page: does what ./plan says over WebSocket, and posts what it saw to ./result.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const text = new TextDecoder()
const bytes = new TextEncoder()

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
let step = 'begin'

async function polled (condition) {
  while (!condition()) await sleep(20)
}

async function pinged (node, peer) {
  while (true) {
    try {
      return await node.services.ping.ping(peer)
    } catch (error) {
      if (error.name !== 'TooManyOutboundProtocolStreamsError') throw error // the one before is ending
      await sleep(20)
    }
  }
}

async function echo (node, peer, protocol, size) {
  const sent = new Uint8Array(4 + size + 4) // one frame, and the end frame
  new DataView(sent.buffer).setUint32(0, size)
  for (let i = 0; i < size; i += 65536) crypto.getRandomValues(sent.subarray(4 + i, 4 + Math.min(size, i + 65536)))
  const stream = await node.dialProtocol(peer, protocol)
  const write = async () => {
    for (let start = 0; start < sent.length; start += 200000) {
      if (!stream.send(sent.subarray(start, start + 200000))) await stream.onDrain()
    }
    await stream.close()
  }
  const writing = write()
  let received = 0
  let same = true
  for await (const piece of stream) {
    const got = piece.subarray()
    for (let i = 0; i < got.length; i++) same &&= got[i] === sent[received + i]
    received += got.length
  }
  await writing
  return same && received === sent.length
}

async function run ({ address, echoProtocol, echoBytes, topic, say, recordKey }) {
  const node = await createLibp2p({
    transports: [webSockets()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionGater: { denyDialMultiaddr: () => false }, // a page may not dial loopback otherwise
    services: {
      identify: identify(),
      ping: ping(),
      pubsub: gossipsub({ globalSignaturePolicy: 'StrictSign', allowPublishToZeroTopicPeers: true }),
      dht: kadDHT({
        protocol: '/cocoon/kad/1.0.0',
        clientMode: true,
        initialQuerySelfInterval: 50, // queries wait for it; a second otherwise
        peerInfoMapper: passthroughMapper,
        validators: { 'test-records': async () => {} },
        selectors: { 'test-records': () => 0 }
      })
    }
  })
  const heard = new Promise(resolve => {
    node.services.pubsub.addEventListener('message', ({ detail }) => resolve(text.decode(detail.data)))
  })
  node.services.pubsub.subscribe(topic)
  const identified = new Promise(resolve => {
    node.addEventListener('peer:identify', ({ detail }) => resolve(detail), { once: true })
  })
  step = 'dial'
  const connection = await node.dial(multiaddr(address))
  const peer = connection.remotePeer
  step = 'identify' // it does so by itself after dialling; a second one at the same time is refused
  const { agentVersion, protocols } = await identified
  step = 'wait for the DHT'
  await polled(() => node.services.dht.routingTable.size > 0) // first: of two pings at once one fails, and it pings, too
  step = 'ping'
  const pings = [await pinged(node, peer), await pinged(node, peer)]
  step = 'echo'
  const echoed = await echo(node, peer, echoProtocol, echoBytes)
  step = 'get a record'
  let record = null
  for await (const event of node.services.dht.get(bytes.encode(recordKey))) {
    if (event.name === 'VALUE') { record = text.decode(event.value); break }
  }
  step = 'wait for the mesh'
  await polled(() => node.services.pubsub.getMeshPeers(topic).includes(peer.toString()))
  step = 'gossip'
  await node.services.pubsub.publish(topic, bytes.encode(say))
  return {
    address: connection.remoteAddr.toString(),
    agent: agentVersion,
    protocols,
    pings,
    echoed,
    record,
    heard: await heard,
    own: node.peerId.toString(),
    browser: navigator.userAgent
  }
}

const post = body => fetch('./result', { method: 'POST', body: JSON.stringify(body) })
const late = sleep(30000).then(() => Promise.reject(new Error('nothing more happens')))
const plan = await (await fetch('./plan')).json()
try {
  await post({ ok: await Promise.race([run(plan), late]) })
} catch (error) {
  await post({ error: `${step}: ${error?.stack ?? error}` })
}
