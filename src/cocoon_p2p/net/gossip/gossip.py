"""gossipsub 1.1 (/meshsub/1.1.0): signed messages, a mesh of about six neighbours a topic, and gossip about what was missed.

The library's gossipsub ends the host when a validator raises, drops what comes faster than 10 messages a second in
silence and beats every 120 s (libp2p_cures.py). This one speaks the same messages; peers' scores are not kept:
misbehaviour is the node's own affair (`policy.reputation`, `Network.ban`).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cocoon_p2p.errors import LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    GOSSIP_HEARTBEAT_S,
    GOSSIP_MESSAGE_BYTES_MAX,
    GOSSIP_MESSAGES_PER_LINK_S,
    GOSSIP_MESSAGES_PER_PEER_S,
    GOSSIP_OUT_QUEUE_MAX,
    GOSSIP_QUEUE_MAX,
    GOSSIP_RPC_BYTES_MAX,
    GOSSIP_TOPICS_PER_PEER_MAX,
)
from cocoon_p2p.net.feeds import Feed, Subscription
from cocoon_p2p.net.gossip.memory import MessageMemory, RateLimiter
from cocoon_p2p.net.gossip.messages import (
    MESHSUB,
    Gossiped,
    message_id,
    parse_rpc,
    sign_message,
    verify_message,
)
from cocoon_p2p.net.multistream import encode_prefixed, read_prefixed
from cocoon_p2p.net.pb.gossip_pb2 import RPC, Message
from cocoon_p2p.net.port import MessageValidator
from cocoon_p2p.net.supervisor import call_guarded, run_guarded
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Link, Switch
from cocoon_p2p.net.yamux.muxer import MuxStream

logger = logging.getLogger("cocoon_p2p.net")

# gossipsub-v1.0.md, "Parameters"
_MESH_LOW, _MESH_WANTED, _MESH_HIGH, _LAZY = 4, 6, 12, 6
_BACKOFF_S = 60.0
_IDS_PER_HEARTBEAT_MAX = 256
_PUBLISH_PEERS_MAX = 32
_REOPEN_S = 1.0
_random = secrets.SystemRandom()


@dataclass(slots=True, eq=False)
class _Topic:
    feed: Feed[tuple[PeerId, bytes]] = field(default_factory=lambda: Feed(GOSSIP_QUEUE_MAX))
    validators: list[MessageValidator] = field(default_factory=list)
    mesh: set[PeerId] = field(default_factory=set)
    backoff_until: dict[PeerId, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Neighbour:
    topics: set[str] = field(default_factory=set)
    outgoing: deque[RPC] = field(default_factory=lambda: deque(maxlen=GOSSIP_OUT_QUEUE_MAX))
    wake: trio.Event = field(default_factory=trio.Event)
    ids_asked: int = 0

    def send(self, rpc: RPC) -> None:
        self.outgoing.append(rpc)
        self.wake.set()


class Gossip:
    def __init__(self, switch: Switch, streams: Streams, key: Ed25519PrivateKey) -> None:
        self._switch = switch
        self._streams = streams
        self._key = key
        self._sequence = time.time_ns()
        self._topics: dict[str, _Topic] = {}
        self._neighbours: dict[PeerId, _Neighbour] = {}
        self._memory = MessageMemory[Message]()
        self._by_author = RateLimiter(GOSSIP_MESSAGES_PER_PEER_S)
        self._by_link = RateLimiter(GOSSIP_MESSAGES_PER_LINK_S)
        for protocol in MESHSUB:
            streams.set_internal(protocol, self._listen)
        switch.on_link.append(self._talk)
        switch.on_peer_gone.append(self._drop)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"a gossip message has at most {GOSSIP_MESSAGE_BYTES_MAX} bytes", code="BOUND")
        self._sequence += 1
        gossiped = sign_message(self._key, self._switch.peer_id, topic, data, self._sequence)
        self._memory.first_time(gossiped.message_id, trio.current_time())
        self._hand_on(gossiped, self._receivers(topic))
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validator: MessageValidator
    ) -> AsyncIterator[Subscription[tuple[PeerId, bytes]]]:
        ours = self._topics.get(topic)
        if ours is None:
            ours = self._topics[topic] = _Topic()
            self._announce(topic, subscribe=True)
        ours.validators.append(validator)
        try:
            with ours.feed.subscribe() as subscription:
                yield subscription
        finally:
            ours.validators.remove(validator)
            if not ours.validators:
                del self._topics[topic]
                self._announce(topic, subscribe=False)

    async def beat(self) -> None:
        """The heartbeat, for ever."""
        while True:
            await trio.sleep(GOSSIP_HEARTBEAT_S)
            call_guarded("gossip_heartbeat", self._heartbeat, None, self._switch.counters)

    # --- neighbours --------------------------------------------------------------------------------------------------

    async def _talk(self, link: Link) -> None:
        """Open our direction to a new peer that speaks gossip, and keep it open while it is connected."""
        await link.identified.wait()
        if link.peer in self._neighbours or not any(protocol in link.protocols for protocol in MESHSUB):
            return
        neighbour = self._neighbours[link.peer] = _Neighbour()
        while self._neighbours.get(link.peer) is neighbour:
            await run_guarded("gossip_out", partial(self._send_all, link.peer, neighbour), self._switch.counters)
            await trio.sleep(_REOPEN_S)

    async def _send_all(self, peer: PeerId, neighbour: _Neighbour) -> None:
        stream = await self._streams.open_raw(peer, *MESHSUB)
        try:
            hello = RPC(subscriptions=[RPC.SubOpts(subscribe=True, topicid=topic) for topic in self._topics])
            await stream.write(encode_prefixed(hello.SerializeToString()))
            while self._neighbours.get(peer) is neighbour:
                while neighbour.outgoing:
                    await stream.write(encode_prefixed(neighbour.outgoing.popleft().SerializeToString()))
                neighbour.wake = trio.Event()
                await neighbour.wake.wait()
        finally:
            stream.reset_soon()

    async def _listen(self, stream: MuxStream) -> None:
        """A neighbour's direction to us, until it ends."""
        while True:
            try:
                rpc = parse_rpc(await read_prefixed(stream, GOSSIP_RPC_BYTES_MAX))
            except TransportError:
                return
            neighbour = self._neighbours.get(stream.peer)
            if neighbour is None:  # its stream came before its identification
                neighbour = await self._wait_for_neighbour(stream.peer)
            self._take(stream.peer, neighbour, rpc)

    async def _wait_for_neighbour(self, peer: PeerId) -> _Neighbour:
        link = self._switch.link(peer)
        if link is not None:
            await link.identified.wait()
            await trio.lowlevel.checkpoint()
        return self._neighbours.get(peer) or _Neighbour()

    def _drop(self, peer: PeerId) -> None:
        neighbour = self._neighbours.pop(peer, None)
        if neighbour is not None:
            neighbour.wake.set()
        for topic in self._topics.values():
            topic.mesh.discard(peer)
        self._by_link.forget(peer)

    def _announce(self, topic: str, *, subscribe: bool) -> None:
        rpc = RPC(subscriptions=[RPC.SubOpts(subscribe=subscribe, topicid=topic)])
        for neighbour in self._neighbours.values():
            neighbour.send(rpc)

    # --- what comes in -----------------------------------------------------------------------------------------------

    def _take(self, peer: PeerId, neighbour: _Neighbour, rpc: RPC) -> None:
        for option in rpc.subscriptions[:GOSSIP_TOPICS_PER_PEER_MAX]:
            if not option.subscribe:
                neighbour.topics.discard(option.topicid)
                if option.topicid in self._topics:
                    self._topics[option.topicid].mesh.discard(peer)  # no backoff: it may come back
            elif len(neighbour.topics) < GOSSIP_TOPICS_PER_PEER_MAX:
                if option.topicid not in neighbour.topics:
                    self._tell_recent(neighbour, option.topicid)
                neighbour.topics.add(option.topicid)
                self._fill_mesh(option.topicid, _MESH_LOW)  # at once instead of at the next heartbeat
        for message in rpc.publish:
            try:
                self._take_message(peer, message)
            except RemoteProtocolError as error:
                self._switch.counters["gossip_invalid"] += 1
                logger.debug("gossip from %s: %s", peer, error)
        if rpc.HasField("control"):
            self._take_control(peer, neighbour, rpc)

    def _take_message(self, peer: PeerId, message: Message) -> None:
        topic = self._topics.get(message.topicIDs[0]) if message.topicIDs else None
        now = trio.current_time()
        if topic is None or self._memory.has(message_id(message)):
            return
        if not self._by_link.allows(peer, now):
            self._switch.counters["gossip_flooded"] += 1
            return
        gossiped = verify_message(message)
        if gossiped.author == self._switch.peer_id or self._switch.is_banned(gossiped.author):
            return
        if not self._by_author.allows(gossiped.author, now):
            self._switch.counters["gossip_too_fast"] += 1
            return
        self._memory.first_time(gossiped.message_id, now)
        for validator in topic.validators:
            check = partial(validator, gossiped.author, gossiped.data)
            if not call_guarded("gossip_validator", check, False, self._switch.counters):
                self._switch.counters["gossip_rejected"] += 1
                return
        topic.feed.publish((gossiped.author, gossiped.data))
        self._hand_on(gossiped, topic.mesh - {peer, gossiped.author})

    def _take_control(self, peer: PeerId, neighbour: _Neighbour, rpc: RPC) -> None:
        answer = RPC()
        for have in rpc.control.ihave:
            unknown = (
                [mid for mid in have.messageIDs if not self._memory.has(mid)] if have.topicID in self._topics else []
            )
            wanted = unknown[: _IDS_PER_HEARTBEAT_MAX - neighbour.ids_asked]
            if wanted:
                neighbour.ids_asked += len(wanted)
                answer.control.iwant.add().messageIDs.extend(wanted)
        for want in rpc.control.iwant:
            found = map(self._memory.recall, want.messageIDs[:_IDS_PER_HEARTBEAT_MAX])
            answer.publish.extend(message for message in found if message is not None)
        for graft in rpc.control.graft:
            if not self._enter_mesh(peer, graft.topicID):
                answer.control.prune.add(topicID=graft.topicID, backoff=int(_BACKOFF_S))
        for prune in rpc.control.prune:
            self._leave_mesh(peer, prune.topicID)
        if answer.ByteSize():
            neighbour.send(answer)

    # --- the mesh ----------------------------------------------------------------------------------------------------

    def _enter_mesh(self, peer: PeerId, name: str) -> bool:
        """Whether a peer that grafts itself is taken."""
        topic = self._topics.get(name)
        if topic is None or len(topic.mesh) >= _MESH_HIGH:
            return False
        topic.mesh.add(peer)
        return True

    def _leave_mesh(self, peer: PeerId, name: str) -> None:
        topic = self._topics.get(name)
        if topic is not None and peer in topic.mesh:
            topic.mesh.discard(peer)
            topic.backoff_until[peer] = trio.current_time() + _BACKOFF_S

    def _fill_mesh(self, name: str, below: int) -> None:
        topic = self._topics.get(name)
        if topic is None or len(topic.mesh) >= below:
            return
        now = trio.current_time()
        candidates = [
            peer
            for peer in self._interested(name)
            if peer not in topic.mesh and topic.backoff_until.get(peer, 0.0) <= now
        ]
        for peer in _pick(candidates, _MESH_WANTED - len(topic.mesh)):
            topic.mesh.add(peer)
            rpc = RPC()
            rpc.control.graft.add(topicID=name)
            self._neighbours[peer].send(rpc)

    def _heartbeat(self) -> None:
        now = trio.current_time()
        for name, topic in self._topics.items():
            topic.mesh &= self._interested(name)
            topic.backoff_until = {peer: until for peer, until in topic.backoff_until.items() if until > now}
            for peer in _pick(topic.mesh, len(topic.mesh) - _MESH_WANTED if len(topic.mesh) > _MESH_HIGH else 0):
                self._leave_mesh(peer, name)
                rpc = RPC()
                rpc.control.prune.add(topicID=name, backoff=int(_BACKOFF_S))
                self._neighbours[peer].send(rpc)
            self._fill_mesh(name, _MESH_LOW)
            recent = self._memory.recent(name)
            if recent:
                rpc = RPC()
                rpc.control.ihave.add(topicID=name, messageIDs=recent[-_IDS_PER_HEARTBEAT_MAX:])
                for peer in _pick(self._interested(name) - topic.mesh, _LAZY):
                    self._neighbours[peer].send(rpc)
        for neighbour in self._neighbours.values():
            neighbour.ids_asked = 0
        self._memory.turn(now)

    def _tell_recent(self, neighbour: _Neighbour, name: str) -> None:
        """To one who just subscribed: what was published before it could hear it, so a node's first word is not lost."""
        recent = self._memory.recent(name)
        if recent and name in self._topics:
            rpc = RPC()
            rpc.control.ihave.add(topicID=name, messageIDs=recent[-_IDS_PER_HEARTBEAT_MAX:])
            neighbour.send(rpc)

    def _interested(self, name: str) -> set[PeerId]:
        return {peer for peer, neighbour in self._neighbours.items() if name in neighbour.topics}

    def _receivers(self, name: str) -> set[PeerId]:
        """Of our own messages: every neighbour that wants them ("flood publishing" of gossipsub 1.1), within reason."""
        interested = self._interested(name)
        topic = self._topics.get(name)
        mesh = topic.mesh & interested if topic is not None else set()
        return mesh | set(_pick(interested - mesh, _PUBLISH_PEERS_MAX - len(mesh)))

    def _hand_on(self, gossiped: Gossiped, receivers: Iterable[PeerId]) -> None:
        self._memory.remember(gossiped.message_id, gossiped.topic, gossiped.message)
        rpc = RPC(publish=[gossiped.message])
        for peer in receivers:
            neighbour = self._neighbours.get(peer)
            if neighbour is not None:
                neighbour.send(rpc)


def _pick(peers: Iterable[PeerId], count: int) -> list[PeerId]:
    """Up to `count` of them, by chance."""
    pool = sorted(peers)
    return _random.sample(pool, min(max(count, 0), len(pool)))
