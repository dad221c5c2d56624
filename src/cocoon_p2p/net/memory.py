"""The port `Network` without a network: nodes of one `MemoryHub` talk on trio's clock, with latency, loss, partitions and
dead peers, from a seed. A thousand nodes are a few megabytes; with `trio.testing.MockClock` an hour takes a second.

    hub = MemoryHub(seed=1, latency_s=0.02)
    async with hub.open(peer_id) as network: ...

Streams are ordered and bounded like real ones; the DHT keeps records at the nodes nearest to the key, so they die with
them; gossip reaches every reachable subscriber or, by `loss`, doesn't.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from types import MappingProxyType

import trio

from cocoon_p2p.errors import LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    DHT_BUCKET_PEERS_MAX,
    DHT_PROVIDERS_MAX,
    DIAL_TIMEOUT_S,
    GOSSIP_MESSAGE_BYTES_MAX,
    GOSSIP_QUEUE_MAX,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_MISSES_MAX,
    NET_EVENTS_QUEUE_MAX,
    PING_TIMEOUT_S,
    STREAM_OPEN_TIMEOUT_S,
    STREAMS_PER_PEER_MAX,
)
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.dht.kademlia import position_of, position_of_peer
from cocoon_p2p.net.dht.stores import ProviderStore, RecordStore
from cocoon_p2p.net.feeds import Feed
from cocoon_p2p.net.framing import FramedStream
from cocoon_p2p.net.memory_streams import Connection, open_pipe
from cocoon_p2p.net.port import (
    ConnectedPeer,
    MessageValidator,
    NetworkEvent,
    PeerAddresses,
    PeerConnected,
    PeerDisconnected,
    Reachability,
    RecordValidator,
    Stream,
    StreamHandler,
)
from cocoon_p2p.net.supervisor import Counters, call_guarded, open_service_nursery, run_handler

_LOOKUP_HOPS = 3
"""Round trips of a DHT lookup; a simulated network of a thousand needs no more."""
_PROVIDER_BYTES = 128
"""A provider record with its peer id and addresses, as Kademlia sends it."""
_RETRANSMISSION_S = 0.2
"""What a lost packet costs a stream: TCP's least retransmission timeout."""


class MemoryHub:
    """Where the nodes of one simulated network meet."""

    def __init__(self, *, seed: int = 0, latency_s: float = 0.0, loss: float = 0.0) -> None:
        self.seed = seed
        self.latency_s = latency_s
        self.loss = loss
        self.nodes: dict[PeerId, MemoryNetwork] = {}
        self.by_address: dict[str, MemoryNetwork] = {}
        self.traffic: Counter[str] = Counter()
        """Bytes that nodes have received, by what for: "gossip" (each message once for each subscriber, without the
        copies that a real mesh sends), "dht" (records and provider records at those who keep them, and answers), and the
        name of each stream protocol."""
        self._sides: dict[PeerId, int] = {}
        self._frozen: set[PeerId] = set()
        self._changed = trio.Event()
        self._next_port = 1

    @asynccontextmanager
    async def open(
        self,
        peer_id: PeerId,
        *,
        listen: Sequence[str] = (),
        validators: Mapping[str, RecordValidator] = MappingProxyType({}),
        bootstrap: Sequence[str] = (),
    ) -> AsyncIterator[MemoryNetwork]:
        """A node. `listen` gives it addresses (/ip4/10.…; one is made up when it is empty); `bootstrap` is dialled before
        it is yielded, and a bootstrap peer that is not there is left out."""
        async with open_service_nursery() as nursery:
            node = MemoryNetwork(self, peer_id, nursery, listen or [self._new_address()], dict(validators))
            self.nodes[peer_id] = node
            self.by_address |= dict.fromkeys(node.addresses(), node)
            try:
                for text in bootstrap:
                    await node.dial_bootstrap(text)
                yield node
            finally:
                self._remove(node)

    def reachable(self, one: PeerId, other: PeerId) -> bool:
        frozen = one in self._frozen or other in self._frozen
        return not frozen and self._sides.get(one, 0) == self._sides.get(other, 0)

    async def wait_reachable(self, one: PeerId, other: PeerId) -> None:
        while not self.reachable(one, other):
            await self._changed.wait()

    def partition(self, *sides: Sequence[PeerId]) -> None:
        """Nothing passes between the given sides (and the nodes named in none). Connections across are held, and break
        when keep-alive gives them up; `heal` before that, and they go on."""
        self._change({peer: side for side, peers in enumerate(sides, 1) for peer in peers}, self._frozen)

    def count(self, what: str, size: int) -> None:
        self.traffic[what] += size

    def heal(self) -> None:
        self._change({}, set())

    def freeze(self, peer: PeerId) -> None:
        """As SIGSTOP: the node neither sends nor receives, but nobody is told."""
        self._change(self._sides, self._frozen | {peer})

    def kill(self, peer: PeerId) -> None:
        """As SIGKILL: its connections are cut, and every call on its Network raises TransportError from now on."""
        node = self.nodes.get(peer)
        if node is not None:
            self._remove(node)

    def _change(self, sides: dict[PeerId, int], frozen: set[PeerId]) -> None:
        self._sides, self._frozen = sides, frozen
        self._changed.set()
        self._changed = trio.Event()
        for node in self.nodes.values():
            node.notice_silence()

    def _remove(self, node: MemoryNetwork) -> None:
        if self.nodes.get(node.peer_id) is node:
            del self.nodes[node.peer_id]
            for address in node.addresses():
                self.by_address.pop(address, None)
        node.die()

    def _new_address(self) -> str:
        self._next_port += 1
        number = self._next_port
        return f"/ip4/10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/tcp/4001"


class MemoryNetwork:
    """Made by `MemoryHub.open`."""

    def __init__(
        self,
        hub: MemoryHub,
        peer_id: PeerId,
        nursery: trio.Nursery,
        listen: Sequence[str],
        validators: dict[str, RecordValidator],
    ) -> None:
        self.hub = hub
        self.peer_id = peer_id
        self.position = position_of_peer(peer_id)
        self.records = RecordStore(validators)
        self.providers = ProviderStore()
        self.topics: dict[str, list[tuple[MessageValidator, Feed[tuple[PeerId, bytes]]]]] = {}
        self._nursery = nursery
        self._addresses = tuple(str(parse_address(text)) for text in listen)
        self._known: dict[PeerId, tuple[str, ...]] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._connections: dict[PeerId, Connection] = {}
        self._banned_until: dict[PeerId, float] = {}
        self._events: Feed[NetworkEvent] = Feed(NET_EVENTS_QUEUE_MAX)
        self._counters: Counters = Counters()
        self._dead = False
        # One generator a node: what another one does, and in which order trio runs them, changes nothing here.
        self._random = Random(f"{hub.seed} {peer_id}")  # of a simulation, not a secret

    def _delay_s(self) -> float:
        """One way, for what may not get lost: a loss costs time."""
        return self.hub.latency_s + (_RETRANSMISSION_S if self._is_lost() else 0.0)

    def _is_lost(self) -> bool:
        return bool(self.hub.loss) and self._random.random() < self.hub.loss

    # --- connections -------------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self._check_alive()
        if self.is_banned(peer):
            raise TransportError(f"{peer} is banned", outcome_known=True, code="BANNED")
        if peer == self.peer_id:
            raise TransportError("a node does not connect to itself", outcome_known=True)
        tried = tuple(dict.fromkeys([*addresses, *self._known.get(peer, ())]))
        if peer not in self._connections:
            if not tried:
                raise TransportError(f"no address of {peer} is known", outcome_known=True, code="NO_ADDRESS")
            await self._dial(peer, tried)

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self._cut(peer)

    async def try_dial(self, peer: PeerId, address: str) -> None:
        await trio.sleep(2 * self._delay_s())
        node = self.hub.by_address.get(address)
        if node is None or node.peer_id != peer or not self.hub.reachable(self.peer_id, peer):
            raise TransportError("Connection refused", outcome_known=True, code="UNREACHABLE")

    def peers(self) -> tuple[ConnectedPeer, ...]:
        return tuple(
            ConnectedPeer(
                peer=peer,
                address=connection.address,
                direction="outbound" if connection.outbound else "inbound",
                connected_at=connection.since,
                agent="memory",
                latency_s=2 * self.hub.latency_s,
                transport="memory",
            )
            for peer, connection in self._connections.items()
        )

    async def ping(self, peer: PeerId) -> float:
        await self.connect(peer, ())
        started = trio.current_time()
        with trio.move_on_after(PING_TIMEOUT_S) as scope:
            await self.hub.wait_reachable(self.peer_id, peer)
            await trio.sleep(2 * self._delay_s())
        if scope.cancelled_caught or peer not in self._connections:
            raise TransportError(f"ping of {peer}: timed out", outcome_known=True, code="TIMEOUT")
        return trio.current_time() - started

    def unban(self, peer: PeerId) -> None:
        self._banned_until.pop(peer, None)

    def slow(self, peer: PeerId, share: float, duration_s: float) -> None:
        """The simulation has no rates."""

    def keep(self, peer: PeerId) -> None:
        """The simulation closes no connection to make room."""

    def reachability(self) -> Reachability:
        return Reachability("reachable", "every node of a simulation is", addresses=self._addresses)

    def ban(self, peer: PeerId, duration_s: float) -> None:
        self._banned_until[peer] = trio.current_time() + duration_s
        self._cut(peer)

    def is_banned(self, peer: PeerId) -> bool:
        return trio.current_time() < self._banned_until.get(peer, float("-inf"))

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[NetworkEvent]]:
        with self._events.subscribe() as subscription:
            yield subscription

    async def dial_bootstrap(self, text: str) -> None:
        address = parse_address(text)
        if address.peer is not None and address.peer != self.peer_id:
            try:
                await self.connect(address.peer, [str(address)])
            except TransportError:
                self._counters["bootstrap_failed"] += 1

    async def _dial(self, peer: PeerId, addresses: Sequence[str]) -> None:
        await trio.sleep(2 * self._delay_s())
        failures = []
        silent = False
        for text in addresses:
            node = self.hub.by_address.get(text.partition("/p2p/")[0])
            if node is None:
                failures.append(f"{text}: Connection refused")
            elif not self.hub.reachable(self.peer_id, node.peer_id):
                silent = True
                failures.append(f"{text}: timed out")
            elif node.peer_id != peer:
                failures.append(f"{text}: another peer answers there")
            elif node.is_banned(self.peer_id):
                failures.append(f"{text}: closed by the peer")
            else:
                self._join(node, text)
                return
        if silent:
            await trio.sleep(DIAL_TIMEOUT_S)
        raise TransportError(f"cannot connect to {peer}: {'; '.join(failures)}", outcome_known=True, code="UNREACHABLE")

    def _join(self, other: MemoryNetwork, address: str) -> None:
        if other.peer_id in self._connections:
            return  # both dialled at once
        since = trio.current_time()
        ours, theirs = Connection(address, True, since), Connection(self._addresses[0], False, since)
        ours.other, theirs.other = theirs, ours
        for one, two, connection in ((self, other, ours), (other, self, theirs)):
            one._connections[two.peer_id] = connection
            one._known[two.peer_id] = two.addresses()
            one._events.publish(PeerConnected(two.peer_id))

    def _cut(self, peer: PeerId) -> None:
        """End the connection on both sides."""
        connection = self._connections.pop(peer, None)
        if connection is None:
            return
        connection.break_streams()
        self._events.publish(PeerDisconnected(peer))
        other = self.hub.nodes.get(peer)
        if other is not None:
            other._cut(self.peer_id)

    def notice_silence(self) -> None:
        """Who can be reached has changed: give up those that stay silent for as long as keep-alive allows."""
        for peer, connection in self._connections.items():
            for pipe in connection.pipes:
                pipe.wake()
            if not self.hub.reachable(self.peer_id, peer):
                self._nursery.start_soon(self._give_up, peer)

    async def _give_up(self, peer: PeerId) -> None:
        connection = self._connections.get(peer)
        with trio.move_on_after(KEEPALIVE_INTERVAL_S * (KEEPALIVE_MISSES_MAX + 1)):
            await self.hub.wait_reachable(self.peer_id, peer)
            return
        if self._connections.get(peer) is connection:
            self._cut(peer)

    def die(self) -> None:
        self._dead = True
        for peer in list(self._connections):
            self._cut(peer)

    def _check_alive(self) -> None:
        if self._dead:
            raise TransportError("this node is dead", outcome_known=True, code="CLOSED")

    # --- streams -----------------------------------------------------------------------------------------------------

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        await self.connect(peer, ())
        connection = self._connections[peer]
        if connection.streams >= STREAMS_PER_PEER_MAX:
            raise TransportError(
                f"{connection.streams} streams to {peer} are open already", outcome_known=True, code="TOO_MANY_STREAMS"
            )
        await trio.sleep(2 * self._delay_s())
        with trio.move_on_after(STREAM_OPEN_TIMEOUT_S):
            await self.hub.wait_reachable(self.peer_id, peer)
        other = self.hub.nodes.get(peer) if self.hub.reachable(self.peer_id, peer) else None
        if other is None or self._connections.get(peer) is not connection:
            raise TransportError(f"the connection to {peer} was lost", outcome_known=True, code="DISCONNECTED")
        handler = other._handlers.get(protocol)
        if handler is None:
            raise TransportError(f"the peer does not speak {protocol}", outcome_known=True, code="UNKNOWN_PROTOCOL")
        near, far = open_pipe(connection, self._delay_s, partial(self.hub.reachable, self.peer_id, peer))
        near.count = far.count = partial(self.hub.count, protocol)
        inbound = FramedStream(self.peer_id, protocol, far)
        other._nursery.start_soon(run_handler, handler, inbound, other._counters)
        return FramedStream(peer, protocol, near)

    # --- the DHT -----------------------------------------------------------------------------------------------------

    async def dht_put(self, key: str, value: bytes) -> None:
        self._check_alive()
        try:
            self.records.put(key, value, trio.current_time())
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this record is not valid: {error}") from error
        taken = 0
        for node in await self._nearest(key.encode()):
            self.hub.traffic["dht"] += len(key) + len(value)
            try:
                taken += bool(node.records.put(key, value, trio.current_time()))
            except RemoteProtocolError:
                node._counters["dht_record_invalid"] += 1
        if not taken:
            raise TransportError(f"nobody took the record {key}", outcome_known=True, code="NOBODY")

    async def dht_get(self, key: str) -> bytes | None:
        self._check_alive()
        now = trio.current_time()
        best: bytes | None = None
        for node in [*await self._nearest(key.encode()), self]:
            value = node.records.get(key, now)
            if value is not None:
                self.hub.traffic["dht"] += len(value)
                best = call_guarded("dht_record", partial(self.records.better, key, best, value), best, self._counters)
        return best

    async def provide(self, content_id: bytes) -> None:
        self._check_alive()
        nodes = await self._nearest(content_id)
        for node in [*nodes, self]:
            self.hub.traffic["dht"] += _PROVIDER_BYTES
            node.providers.add(content_id, self.peer_id, trio.current_time())
        if not nodes:
            raise TransportError("nobody took the provider record", outcome_known=True, code="NOBODY")

    async def find_providers(self, content_id: bytes, count: int) -> tuple[PeerAddresses, ...]:
        self._check_alive()
        found: dict[PeerId, None] = {}
        for node in [*await self._nearest(content_id), self]:
            there = node.providers.get(content_id, trio.current_time())
            self.hub.traffic["dht"] += _PROVIDER_BYTES * len(there)
            found |= dict.fromkeys(there)
        found.pop(self.peer_id, None)
        providers = list(found)[: min(count, DHT_PROVIDERS_MAX)]
        for peer in providers:
            node_there = self.hub.nodes.get(peer)
            if node_there is not None:
                self._known[peer] = node_there.addresses()
        return tuple(PeerAddresses(peer, self._known.get(peer, ())) for peer in providers)

    async def _nearest(self, raw_key: bytes) -> list[MemoryNetwork]:
        """The nodes where a record belongs, for a node that knows anybody at all."""
        await trio.sleep(2 * _LOOKUP_HOPS * self._delay_s())
        if not any(self.hub.reachable(self.peer_id, peer) for peer in self._connections):
            return []
        position = position_of(raw_key)
        others = [
            node
            for node in self.hub.nodes.values()
            if node is not self and self.hub.reachable(self.peer_id, node.peer_id)
        ]
        return heapq.nsmallest(DHT_BUCKET_PEERS_MAX, others, key=lambda node: node.position ^ position)

    # --- gossip ------------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        self._check_alive()
        if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"a gossip message has at most {GOSSIP_MESSAGE_BYTES_MAX} bytes", code="BOUND")
        await trio.lowlevel.checkpoint()
        if not self._connections:
            return
        self._counters["gossip_published"] += 1
        for node in self.hub.nodes.values():
            if node is not self and topic in node.topics and not self._is_lost():
                self.hub.traffic["gossip"] += len(data)
                node._nursery.start_soon(node._hear, self.peer_id, topic, bytes(data), 2 * self._delay_s())

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validator: MessageValidator
    ) -> AsyncIterator[AsyncIterator[tuple[PeerId, bytes]]]:
        feed: Feed[tuple[PeerId, bytes]] = Feed(GOSSIP_QUEUE_MAX)
        entry = (validator, feed)
        self.topics.setdefault(topic, []).append(entry)
        try:
            with feed.subscribe() as subscription:
                yield subscription
        finally:
            self.topics[topic].remove(entry)
            if not self.topics[topic]:
                del self.topics[topic]

    async def _hear(self, author: PeerId, topic: str, data: bytes, delay_s: float) -> None:
        await trio.sleep(delay_s)  # two hops of the mesh
        if not self.hub.reachable(self.peer_id, author) or self.is_banned(author):
            return
        self._counters["gossip_received"] += 1
        for validator, feed in self.topics.get(topic, ()):
            if call_guarded("gossip_validator", partial(validator, author, data), False, self._counters):
                feed.publish((author, data))
            else:
                self._counters["gossip_rejected"] += 1

    def counters(self) -> Mapping[str, int]:
        return MappingProxyType(self._counters)
