"""gossipsub 1.1 (/meshsub/1.1.0): signed messages, a mesh of about four neighbours a topic, and gossip about what was missed.

protocols/gossip/1 says what travels and what is refused. Bursts are paced instead of dropped: each neighbour has a queue
of its own (outbox.py), a neighbour that sends faster than its share waits for us (neighbour.py), and `publish` waits when a
node says more than others take. What is nevertheless dropped or refused is counted:

    gossip_out_dropped           messages, of a full queue to a slow neighbour (it is told of them by IHAVE)
    gossip_out_control_dropped   control messages, likewise
    gossip_feed_dropped          messages, of a subscriber in this process that does not keep up
    gossip_publish_waited        publications of ours that waited for their turn
    gossip_throttled             messages that a neighbour had to wait for sending
    gossip_too_fast              messages beyond their author's rate
    gossip_invalid               messages that are malformed or not their author's
    gossip_rejected              messages that a validator refused
    gossip_duplicate             messages that we had already
    gossip_unwanted              messages of a topic that we do not follow
    gossip_banned_author         messages of a banned peer, handed on by another
    gossip_rpc_invalid           RPCs that are malformed or over a bound; their stream is reset
    gossip_topics_refused        subscriptions beyond GOSSIP_TOPICS_PER_PEER_MAX
    gossip_ids_ignored           ids in IHAVE and IWANT that cannot be ids of messages
    gossip_ids_unasked           ids beyond what one neighbour is asked for in a heartbeat
    gossip_ihave_ignored         IHAVE entries beyond what one neighbour may send in a heartbeat
    gossip_iwant_refused         ids that a neighbour asked for too often
    gossip_graft_refused         GRAFTs, the mesh being full
    gossip_graft_too_soon        GRAFTs within the backoff
    gossip_promise_broken        messages that a neighbour told of and did not send when asked
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
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
    GOSSIP_MESSAGES_PER_PEER_BURST,
    GOSSIP_MESSAGES_PER_PEER_S,
    GOSSIP_PUBLISH_BURST,
    GOSSIP_PUBLISH_S,
    GOSSIP_QUEUE_MAX,
    GOSSIP_REOPEN_MAX_S,
    GOSSIP_RPC_BYTES_MAX,
    GOSSIP_TOPIC_CHARS_MAX,
    GOSSIP_TOPICS_PER_PEER_MAX,
)
from cocoon_p2p.net.feeds import Feed, Subscription
from cocoon_p2p.net.gossip.memory import MessageMemory
from cocoon_p2p.net.gossip.mesh import BACKOFF_S, MESH_LOW, GraftAnswer, Mesh, pick
from cocoon_p2p.net.gossip.messages import (
    MESHSUB,
    author_of,
    graft,
    ihave,
    known_id,
    message_id,
    parse_rpc,
    prune,
    publish_entry,
    sign_message,
    subscriptions,
    verify_message,
)
from cocoon_p2p.net.gossip.neighbour import Neighbour
from cocoon_p2p.net.multistream import encode_prefixed, read_prefixed
from cocoon_p2p.net.pb.gossip_pb2 import RPC, Message
from cocoon_p2p.net.port import MessageValidator
from cocoon_p2p.net.rates import Buckets, Pace, Rate
from cocoon_p2p.net.supervisor import call_guarded, run_guarded
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Link, Switch
from cocoon_p2p.net.yamux.stream import MuxStream

logger = logging.getLogger("cocoon_p2p.net")

_LAZY = 3
"""Neighbours outside the mesh that are told of news at a heartbeat: D_lazy of gossipsub, which says 6; three heartbeats long
these notes would cost as much as two more copies of each message."""
_PUBLISH_PEERS_MAX = 32
_REOPEN_FIRST_S = 1.0
_BREATH = 64
"""Messages of one RPC after which other tasks have their turn: 10 ms."""


@dataclass(slots=True, eq=False)
class _Topic:
    feed: Feed[tuple[PeerId, bytes]]
    validators: list[MessageValidator] = field(default_factory=list)
    mesh: Mesh = field(default_factory=Mesh)


class Gossip:
    def __init__(self, switch: Switch, streams: Streams, key: Ed25519PrivateKey) -> None:
        self._switch = switch
        self._streams = streams
        self._key = key
        self._counters = switch.counters
        self._sequence = time.time_ns()
        self._topics: dict[str, _Topic] = {}
        self._neighbours: dict[PeerId, Neighbour] = {}
        self._memory = MessageMemory()
        self._pace = Pace(GOSSIP_PUBLISH_S, GOSSIP_PUBLISH_BURST, trio.current_time())
        self._authors: Buckets[PeerId] = Buckets(Rate(GOSSIP_MESSAGES_PER_PEER_S, GOSSIP_MESSAGES_PER_PEER_BURST))
        for protocol in MESHSUB:
            streams.set_internal(protocol, self._listen)
        switch.on_link.append(self._talk)
        switch.on_peer_gone.append(self._drop)

    async def publish(self, topic: str, data: bytes) -> None:
        """Waits when this node published more than GOSSIP_PUBLISH_BURST lately: neighbours would drop it."""
        if len(data) > GOSSIP_MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"a gossip message has at most {GOSSIP_MESSAGE_BYTES_MAX} bytes", code="BOUND")
        if len(topic) > GOSSIP_TOPIC_CHARS_MAX:
            raise LocalProtocolError(f"a topic has at most {GOSSIP_TOPIC_CHARS_MAX} characters", code="BOUND")
        # SPEC gossip/1 §5.1
        while wait_s := self._pace.wait_s(trio.current_time()):
            self._counters["gossip_publish_waited"] += 1
            await trio.sleep(wait_s)
        now = trio.current_time()
        self._pace.spend(now)
        self._sequence += 1
        gossiped = sign_message(self._key, self._switch.peer_id, topic, data, self._sequence)
        self._memory.first_time(gossiped.message_id, now)
        self._hand_on(gossiped.message_id, topic, publish_entry(gossiped.message), self._receivers(topic))
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validator: MessageValidator
    ) -> AsyncIterator[Subscription[tuple[PeerId, bytes]]]:
        ours = self._topics.get(topic)
        if ours is None:
            ours = self._topics[topic] = _Topic(Feed(GOSSIP_QUEUE_MAX))
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
            call_guarded("gossip_heartbeat", self._heartbeat, None, self._counters)

    def meshes_with(self, peer: PeerId) -> bool:
        """Whether a connection to the peer carries messages of a topic that we follow."""
        return any(peer in topic.mesh.peers for topic in self._topics.values())

    # --- neighbours --------------------------------------------------------------------------------------------------

    async def _talk(self, link: Link) -> None:
        """Open our direction to a new peer that speaks gossip, and keep it open while it is connected."""
        await link.identified.wait()
        if not any(protocol in link.protocols for protocol in MESHSUB) or self._switch.link(link.peer) is None:
            return
        neighbour = self._neighbour(link.peer)
        async with trio.open_nursery() as nursery:
            if neighbour.talking:
                neighbour.look_up()  # this may be the better connection
            else:
                neighbour.talking = True
                nursery.start_soon(self._keep_talking, neighbour)
            await link.ended.wait()
            neighbour.look_up()

    async def _keep_talking(self, neighbour: Neighbour) -> None:
        pause_s = _REOPEN_FIRST_S
        while self._neighbours.get(neighbour.peer) is neighbour:
            began = trio.current_time()
            over = self._switch.link(neighbour.peer)
            if over is not None:
                await run_guarded("gossip_out", partial(self._send_all, neighbour, over), self._counters)
            if self._switch.link(neighbour.peer) not in (None, over):
                continue  # another connection is the one to use now
            lasted = trio.current_time() - began > pause_s
            pause_s = _REOPEN_FIRST_S if lasted else min(2 * pause_s, GOSSIP_REOPEN_MAX_S)
            await neighbour.looks_up(pause_s)

    async def _send_all(self, neighbour: Neighbour, over: Link) -> None:
        """Over this connection, as long as it is the one to use. Raises TransportError."""
        stream = await self._streams.open_raw(neighbour.peer, *MESHSUB, link=over)
        try:
            hello = subscriptions(self._topics, subscribe=True)
            await stream.write(encode_prefixed(hello.SerializeToString()))
            if neighbour.lost_some:
                self._say_again(neighbour)
            neighbour.lost_some = True
            while self._is_used(neighbour, over):
                rpc = await neighbour.outbox.next()
                sent = False
                try:
                    if rpc and self._is_used(neighbour, over):
                        await stream.write(encode_prefixed(rpc))
                        sent = True
                finally:
                    if not sent:
                        neighbour.outbox.put_back(rpc)
            neighbour.lost_some = over.connection.is_over
        finally:
            if neighbour.lost_some:
                stream.reset_soon()
            else:
                stream.close_soon()

    def _is_used(self, neighbour: Neighbour, over: Link) -> bool:
        return self._neighbours.get(neighbour.peer) is neighbour and self._switch.link(neighbour.peer) is over

    def _say_again(self, neighbour: Neighbour) -> None:
        """After a stream that broke: what was on its way may not have arrived."""
        # SPEC gossip/1 §4
        for name in neighbour.topics:
            topic = self._topics.get(name)
            if topic is not None and neighbour.peer in topic.mesh:
                neighbour.outbox.say(graft(name))
            if recent := self._memory.recent(name):
                neighbour.outbox.say(ihave(name, recent))

    async def _listen(self, stream: MuxStream) -> None:
        """A neighbour's direction to us, until it ends."""
        neighbour = self._neighbour(stream.peer)
        with neighbour.listening() as scope:
            await self._listen_to(neighbour, stream)
        if scope.cancelled_caught:
            stream.reset_soon()

    async def _listen_to(self, neighbour: Neighbour, stream: MuxStream) -> None:
        while True:
            try:
                rpc = parse_rpc(await read_prefixed(stream, GOSSIP_RPC_BYTES_MAX))
            except TransportError:
                return
            except RemoteProtocolError:
                self._counters["gossip_rpc_invalid"] += 1
                self._switch.report(stream.peer, "malformed")
                raise
            await self._take(neighbour, rpc)

    def _neighbour(self, peer: PeerId) -> Neighbour:
        """That of a connected peer; one that nobody keeps of a peer that has just gone."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            neighbour = Neighbour(peer, self._counters)
            if self._switch.link(peer) is not None:
                self._neighbours[peer] = neighbour
        return neighbour

    def _drop(self, peer: PeerId) -> None:
        neighbour = self._neighbours.pop(peer, None)
        if neighbour is not None and neighbour.talking:
            neighbour.look_up()  # it is over
        for topic in self._topics.values():
            topic.mesh.peers.discard(peer)

    def _announce(self, topic: str, *, subscribe: bool) -> None:
        for neighbour in self._neighbours.values():
            neighbour.outbox.say(subscriptions([topic], subscribe=subscribe))

    # --- what comes in -----------------------------------------------------------------------------------------------

    async def _take(self, neighbour: Neighbour, rpc: RPC) -> None:
        await self._let_it_wait(neighbour)
        neighbour.spend(verified=False)  # one that says nothing is not for nothing
        for option in rpc.subscriptions:
            await self._let_it_wait(neighbour)
            neighbour.spend(verified=option.topicid in self._topics)  # to tell it of recent messages is as much work
            self._take_subscription(neighbour, option)
        for number, message in enumerate(rpc.publish):
            await self._let_it_wait(neighbour)
            try:
                self._take_message(neighbour, message)
            except RemoteProtocolError as error:
                self._counters["gossip_invalid"] += 1
                self._switch.report(neighbour.peer, "bad_signature" if error.code == "SIGNATURE" else "malformed")
                logger.debug("gossip from %s: %s", neighbour.peer, error)
            if number % _BREATH == _BREATH - 1:
                await trio.lowlevel.checkpoint()
        if rpc.HasField("control"):
            self._take_control(neighbour, rpc)

    async def _let_it_wait(self, neighbour: Neighbour) -> None:
        if await neighbour.take_turn():
            self._switch.report(neighbour.peer, "flood")

    def _take_subscription(self, neighbour: Neighbour, option: RPC.SubOpts) -> None:
        name = option.topicid
        if not option.subscribe:
            neighbour.topics.discard(name)
            if name in self._topics:
                self._topics[name].mesh.peers.discard(neighbour.peer)  # no backoff: it may come back
        elif len(neighbour.topics) >= GOSSIP_TOPICS_PER_PEER_MAX or len(name) > GOSSIP_TOPIC_CHARS_MAX:
            self._counters["gossip_topics_refused"] += 1
        elif name not in neighbour.topics:
            neighbour.topics.add(name)
            recent = self._memory.recent(name)
            if recent and name in self._topics:
                # What was published before it could hear it: a node's first word is not lost.
                neighbour.outbox.say(ihave(name, recent))
            topic = self._topics.get(name)
            if topic is not None and len(topic.mesh.peers) < MESH_LOW:
                self._fill_mesh(name, topic)  # at once instead of at the next heartbeat

    def _take_message(self, neighbour: Neighbour, message: Message) -> None:
        """Raises RemoteProtocolError for what an honest neighbour would not have handed on."""
        now = trio.current_time()
        identity = message_id(message)
        neighbour.kept(identity)
        topic = self._topics.get(message.topicIDs[0]) if message.topicIDs else None
        # SPEC gossip/1 §5.3
        reason = self._reason_to_drop(topic, message, identity, now)
        neighbour.spend(verified=reason is None)
        if reason is not None or topic is None:
            self._counters[reason or "gossip_unwanted"] += 1
            return
        gossiped = verify_message(message)
        self._memory.first_time(identity, now)
        self._authors.take(gossiped.author, now)
        for validator in topic.validators:
            check = partial(validator, gossiped.author, gossiped.data)
            if not call_guarded("gossip_validator", check, False, self._counters):
                self._counters["gossip_rejected"] += 1
                return
        neighbour.firsts += 1
        if dropped := topic.feed.publish((gossiped.author, gossiped.data)):
            self._counters["gossip_feed_dropped"] += dropped
        others = topic.mesh.peers - {neighbour.peer, gossiped.author}
        self._hand_on(identity, gossiped.topic, publish_entry(message), others)

    def _reason_to_drop(self, topic: _Topic | None, message: Message, identity: bytes, now: float) -> str | None:
        """What can be known before the signature is checked, which costs ten times as much."""
        if topic is None:
            return "gossip_unwanted"
        if self._memory.has(identity):
            return "gossip_duplicate"
        try:
            author = author_of(message)
        except RemoteProtocolError:
            return None  # the check will say so
        if author == self._switch.peer_id:
            return "gossip_duplicate"
        if self._switch.is_banned(author):
            return "gossip_banned_author"
        return "gossip_too_fast" if self._authors.left(author, now) < 1.0 else None

    def _take_control(self, neighbour: Neighbour, rpc: RPC) -> None:
        answer = RPC()
        now = trio.current_time()
        for have in rpc.control.ihave:
            if not neighbour.may_tell():
                self._counters["gossip_ihave_ignored"] += 1
            elif have.topicID in self._topics:
                unknown = [known for known in self._known(have.messageIDs) if not self._memory.has(known)]
                wanted = neighbour.ask(unknown, now)
                if wanted:
                    answer.control.iwant.add(messageIDs=wanted)
        for want in rpc.control.iwant:
            for identity in neighbour.answerable(self._known(want.messageIDs)):
                entry = self._memory.recall(identity)
                if entry is not None:
                    neighbour.outbox.send(entry)
        for request in rpc.control.graft:
            if not self._take_graft(neighbour, request.topicID, now):
                answer.control.prune.add(topicID=request.topicID, backoff=int(BACKOFF_S))
        for refusal in rpc.control.prune:
            topic = self._topics.get(refusal.topicID)
            if topic is not None:
                topic.mesh.prune(neighbour.peer, now, float(refusal.backoff or BACKOFF_S))
        if answer.ByteSize():
            neighbour.outbox.say(answer)

    def _known(self, raw_ids: Sequence[bytes]) -> list[bytes]:
        found = [known for raw in raw_ids if (known := known_id(raw)) is not None]
        if len(found) < len(raw_ids):
            self._counters["gossip_ids_ignored"] += len(raw_ids) - len(found)
        return found

    def _take_graft(self, neighbour: Neighbour, name: str, now: float) -> bool:
        """Whether a neighbour that grafts itself is taken into the mesh."""
        topic = self._topics.get(name)
        if topic is None:
            return False
        answer = topic.mesh.take_graft(neighbour.peer, now, outbound=self._is_outbound(neighbour.peer))
        if answer is GraftAnswer.TAKEN:
            neighbour.topics.add(name)  # who grafts has subscribed, whatever else it said
            return True
        # SPEC gossip/1 §6.2
        if answer is GraftAnswer.TOO_SOON:
            self._counters["gossip_graft_too_soon"] += 1
            self._switch.report(neighbour.peer, "flood")
        else:
            self._counters["gossip_graft_refused"] += 1
        topic.mesh.prune(neighbour.peer, now)
        return False

    # --- the mesh ----------------------------------------------------------------------------------------------------

    def _fill_mesh(self, name: str, topic: _Topic) -> None:
        for peer in topic.mesh.missing(self._interested(name), self._is_outbound, trio.current_time()):
            topic.mesh.peers.add(peer)
            self._neighbours[peer].outbox.say(graft(name))

    def _heartbeat(self) -> None:
        now = trio.current_time()
        for name, topic in self._topics.items():
            topic.mesh.tidy(self._interested(name), now)
            for peer in topic.mesh.surplus(self._is_outbound, lambda other: self._neighbours[other].firsts):
                topic.mesh.prune(peer, now)
                self._neighbours[peer].outbox.say(prune(name, BACKOFF_S))
            self._fill_mesh(name, topic)
            recent = self._memory.recent(name)
            if recent:
                for peer in pick(self._interested(name) - topic.mesh.peers, _LAZY):
                    self._neighbours[peer].outbox.say(ihave(name, recent))
        for neighbour in list(self._neighbours.values()):
            for _ in (late for late in neighbour.broken_promises(now) if not self._memory.has(late)):
                self._counters["gossip_promise_broken"] += 1
                self._switch.report(neighbour.peer, "flood")
            neighbour.beat()
        self._memory.turn(now)

    def _is_outbound(self, peer: PeerId) -> bool:
        link = self._switch.link(peer)
        return link is not None and link.connection.is_outbound

    def _interested(self, name: str) -> set[PeerId]:
        return {peer for peer, neighbour in self._neighbours.items() if name in neighbour.topics}

    def _receivers(self, name: str) -> set[PeerId]:
        """Of our own messages: every neighbour that wants them ("flood publishing" of gossipsub 1.1), within reason."""
        interested = self._interested(name)
        topic = self._topics.get(name)
        mesh = topic.mesh.peers & interested if topic is not None else set()
        return mesh | set(pick(interested - mesh, _PUBLISH_PEERS_MAX - len(mesh)))

    def _hand_on(self, identity: bytes, topic: str, entry: bytes, receivers: set[PeerId]) -> None:
        self._memory.remember(identity, topic, entry)
        for peer in receivers:
            neighbour = self._neighbours.get(peer)
            if neighbour is not None:
                neighbour.outbox.send(entry)
