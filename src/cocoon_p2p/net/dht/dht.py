"""Kademlia under /cocoon/kad/1.0.0: values with validators, providers, and finding peers.

The library's KadDHT connects to nearly everyone it hears of, answers from its local copy before it asks anybody, keeps
providers for two days, takes 20 to 40 s for a lookup when peers are frozen, and refuses a record that is published again
(libp2p_cures.py). This one speaks the same messages, asks the network first, gives up on a peer after
DHT_RPC_TIMEOUT_S and on a lookup after DHT_LOOKUP_TIMEOUT_S, and works only when asked or every few minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import trio

from cocoon_p2p.errors import CocoonError, LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    DHT_BUCKET_PEERS_MAX,
    DHT_LOOKUP_TIMEOUT_S,
    DHT_PARALLEL_RPCS,
    DHT_PROVIDERS_MAX,
    DHT_QUORUM,
    DHT_REPUBLISH_INTERVAL_S,
    DHT_RPC_TIMEOUT_S,
)
from cocoon_p2p.net.dht.kademlia import Frontier, RoutingTable, position_of, position_of_peer
from cocoon_p2p.net.dht.messages import KAD, provider_key, read_message, read_peers, send_message
from cocoon_p2p.net.dht.server import DhtServer
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.port import PeerAddresses, RecordValidator
from cocoon_p2p.net.supervisor import run_guarded
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Link, Switch, deadline
from cocoon_p2p.net.yamux.muxer import MuxStream

logger = logging.getLogger("cocoon_p2p.net")

_SETTLE_S = 1.0
"""Several new peers at once cause one round of republishing."""
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 30.0
"""How soon a record that nobody took is offered again."""
_KAD_PEER_WAIT_S = 2.0
"""Right after the start: how long a lookup waits for the first peer that speaks Kademlia."""

OnAnswer = Callable[[PeerId, Message], bool]
"""Looks at one answer of a lookup; True ends the lookup."""


class Dht:
    def __init__(
        self, switch: Switch, streams: Streams, validators: Mapping[str, RecordValidator], *, server: bool
    ) -> None:
        self._switch = switch
        self._streams = streams
        self._table = RoutingTable(switch.peer_id)
        self._server = DhtServer(switch, self._table, dict(validators))
        self._pool: dict[PeerId, MuxStream] = {}
        """One idle stream a connected peer."""
        self._provided: set[bytes] = set()
        self._published: dict[str, bytes] = {}
        self._missing = False
        """Something that we published is held by nobody."""
        self._grown = trio.Event()
        self._expecting_peers = False
        switch.on_link.append(self._admit)
        switch.on_peer_gone.append(lambda peer: self._pool.pop(peer, None))
        if server:
            streams.set_internal(KAD, self._server.serve)

    def expect_peers(self) -> None:
        """A bootstrap peer is being dialled: lookups may wait a moment for it."""
        self._expecting_peers = True

    async def maintain(self) -> None:
        """Look for neighbours and republish, when peers joined the table and every DHT_REPUBLISH_INTERVAL_S."""
        retry_s = _RETRY_FIRST_S
        while True:
            with trio.move_on_after(retry_s if self._missing else DHT_REPUBLISH_INTERVAL_S):
                await self._grown.wait()
                await trio.sleep(_SETTLE_S)
            self._grown = trio.Event()
            await run_guarded("dht_maintenance", self._refresh, self._switch.counters)
            retry_s = min(2 * retry_s, _RETRY_MAX_S) if self._missing else _RETRY_FIRST_S

    async def put(self, key: str, value: bytes) -> None:
        """Raises LocalProtocolError for a record that our own validator refuses, TransportError when nobody took it."""
        try:
            self._server.records.put(key, value, trio.current_time())
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this record is not valid: {error}") from error
        self._published[key] = value
        if not await self._store_value(key, value):
            self._schedule_retry()
            raise TransportError(f"nobody took the record {key}", outcome_known=True, code="NOBODY")

    async def get(self, key: str) -> bytes | None:
        best: bytes | None = None
        valid_answers = 0

        def look(peer: PeerId, answer: Message) -> bool:
            nonlocal best, valid_answers
            if answer.HasField("record") and answer.record.value:
                try:
                    self._server.records.sequence_of(key, answer.record.value)
                    best = self._server.records.better(key, best, answer.record.value)
                    valid_answers += 1
                except RemoteProtocolError as error:
                    self._switch.counters["dht_record_invalid"] += 1
                    logger.debug("record of %s: %s", peer, error)
            return valid_answers >= DHT_QUORUM

        raw_key = _ascii(key)
        await self._lookup(position_of(raw_key), Message(type=Message.GET_VALUE, key=raw_key), look)
        return self._server.records.better(key, best, self._server.records.get(key, trio.current_time()))

    async def provide(self, content_id: bytes) -> None:
        """Kept up until the end; raises TransportError when nobody took it."""
        self._provided.add(content_id)
        self._server.providers.add(content_id, self._switch.peer_id, trio.current_time())
        if not await self._store_provider(content_id):
            self._schedule_retry()
            raise TransportError("nobody took the provider record", outcome_known=True, code="NOBODY")

    async def find_providers(self, content_id: bytes, count: int) -> tuple[PeerAddresses, ...]:
        found = dict.fromkeys(self._server.providers.get(content_id, trio.current_time()))

        def look(_: PeerId, answer: Message) -> bool:
            for peer, addresses in read_peers(answer.providerPeers, DHT_PROVIDERS_MAX):
                self._switch.book.add(peer, addresses)
                found.setdefault(peer)
            return False  # every one of the k nearest is asked: their lists differ

        key = provider_key(content_id)
        await self._lookup(position_of(key), Message(type=Message.GET_PROVIDERS, key=key), look)
        found.pop(self._switch.peer_id, None)
        return tuple(PeerAddresses(peer, tuple(map(str, self._switch.book.get(peer)))) for peer in list(found)[:count])

    async def find_peer(self, peer: PeerId) -> bool:
        """Ask the network for a peer's addresses; True if the book now has some."""
        raw = peer_id_to_bytes(peer)
        book = self._switch.book
        await self._lookup(
            position_of(raw), Message(type=Message.FIND_NODE, key=raw), lambda _, __: bool(book.get(peer))
        )
        return bool(book.get(peer))

    # --- the work ----------------------------------------------------------------------------------------------------

    async def _admit(self, link: Link) -> None:
        """Only peers that serve Kademlia enter the table: the library lets clients in, and lookups run into dead ends."""
        await link.identified.wait()
        if KAD in link.protocols and self._table.add(link.peer):
            self._grown.set()

    async def _refresh(self) -> None:
        await self._lookup(
            position_of_peer(self._switch.peer_id),
            Message(type=Message.FIND_NODE, key=peer_id_to_bytes(self._switch.peer_id)),
            lambda _, __: False,
        )
        missing = False
        for content_id in tuple(self._provided):
            missing |= not await self._store_provider(content_id)
        for key, value in tuple(self._published.items()):
            missing |= not await self._store_value(key, value)
        self._missing = missing

    def _schedule_retry(self) -> None:
        self._missing = True
        if len(self._table):
            self._grown.set()  # whoever is there may take it in a moment

    async def _store_value(self, key: str, value: bytes) -> int:
        raw_key = _ascii(key)
        message = Message(type=Message.PUT_VALUE, key=raw_key)
        message.record.key, message.record.value = raw_key, value

        async def store(peer: PeerId) -> bool:
            answer = await self._ask(peer, message)
            return answer.record.value == value

        return await self._store(raw_key, store)

    async def _store_provider(self, content_id: bytes) -> int:
        self._server.providers.add(content_id, self._switch.peer_id, trio.current_time())
        key = provider_key(content_id)
        message = Message(type=Message.ADD_PROVIDER, key=key)
        entry = message.providerPeers.add()
        entry.id = peer_id_to_bytes(self._switch.peer_id)
        entry.addrs.extend(self._server.own_addresses())

        question = Message(type=Message.GET_PROVIDERS, key=key)

        async def store(peer: PeerId) -> bool:
            # ADD_PROVIDER has no answer (only py-libp2p gives one). That the question behind it has one shows that the peer
            # read it and did not reset the stream; whether we stand in the answer does not: rust-libp2p leaves the asker out.
            await self._ask(peer, message, question)
            return True

        return await self._store(key, store)

    async def _store(self, raw_key: bytes, store: Callable[[PeerId], Awaitable[bool]]) -> int:
        """Call `store` for each of the k peers nearest to the key; how many took it."""
        position = position_of(raw_key)
        frontier = await self._lookup(position, Message(type=Message.FIND_NODE, key=raw_key), lambda _, __: False)
        taken = 0

        async def attempt(peer: PeerId) -> None:
            nonlocal taken
            try:
                with deadline(DHT_LOOKUP_TIMEOUT_S, "kad"):
                    taken += await store(peer)
            except CocoonError as error:
                self._note_failure(peer, error)

        async with trio.open_nursery() as nursery:
            for peer in frontier.nearest_answered():
                nursery.start_soon(attempt, peer)
        return taken

    async def _lookup(self, target: int, request: Message, look: OnAnswer) -> Frontier:
        """Ask ever nearer peers, DHT_PARALLEL_RPCS at a time, until the k nearest answered, `look` returns True, or time
        is up."""
        await self._wait_for_a_peer()
        frontier = Frontier(target, self._switch.peer_id, self._seeds(target))
        if not frontier.nearest():
            return frontier
        with trio.move_on_after(DHT_LOOKUP_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                work = _Work(frontier, nursery)
                for _ in range(DHT_PARALLEL_RPCS):
                    nursery.start_soon(work.run, partial(self._visit, request, frontier, look))
        return frontier

    async def _visit(self, request: Message, frontier: Frontier, look: OnAnswer, peer: PeerId) -> bool:
        try:
            with deadline(DHT_RPC_TIMEOUT_S, "kad"):
                answer = await self._ask(peer, request)
        except CocoonError as error:
            frontier.failed(peer)
            self._note_failure(peer, error)
            return False
        frontier.succeeded(peer)
        closer = read_peers(answer.closerPeers, DHT_BUCKET_PEERS_MAX)
        for near, addresses in closer:
            if near != self._switch.peer_id:
                self._switch.book.add(near, addresses)
        frontier.add(near for near, _ in closer if self._switch.book.get(near) or self._switch.link(near))
        return look(peer, answer)

    async def _ask(self, peer: PeerId, *requests: Message) -> Message:
        """Send requests, and return the answer to the last. Raises CocoonError.

        A stream that was used before saves its opening, which costs three times as much as the question; the peer may
        have closed it in the meantime, and then a new one is opened.
        """
        pooled = self._pool.pop(peer, None)
        if pooled is not None and not pooled.connection.is_over:
            try:
                return await self._ask_on(pooled, requests)
            except TransportError:
                pass
        return await self._ask_on(await self._streams.open_raw(peer, KAD), requests)

    async def _ask_on(self, stream: MuxStream, requests: Sequence[Message]) -> Message:
        answered = False
        try:
            for request in requests:
                await send_message(stream, request)
            for _ in requests:
                answer = await read_message(stream)
                if answer.type == requests[-1].type:
                    answered = stream.peer not in self._pool
                    return answer
            raise RemoteProtocolError("kad: an answer to another request", code="MALFORMED")
        finally:
            if answered:
                self._pool[stream.peer] = stream
            else:
                stream.close_soon()

    def _note_failure(self, peer: PeerId, error: CocoonError) -> None:
        self._switch.counters["dht_rpc_failed"] += 1
        if self._switch.link(peer) is None:  # one that is only slow stays
            self._table.remove(peer)
        logger.debug("kad with %s: %s", peer, error)

    def _seeds(self, target: int) -> list[PeerId]:
        connected = [link.peer for link in self._switch.links() if KAD in link.protocols]
        return [*self._table.nearest(target), *connected]

    async def _wait_for_a_peer(self) -> None:
        if not len(self._table) and self._expecting_peers:
            with trio.move_on_after(_KAD_PEER_WAIT_S):
                await self._grown.wait()


class _Work:
    """Several askers on one frontier: one that finds nobody to ask waits for the others' answers."""

    def __init__(self, frontier: Frontier, nursery: trio.Nursery) -> None:
        self._frontier = frontier
        self._nursery = nursery
        self._asking = 0
        self._answered = trio.Event()

    async def run(self, visit: Callable[[PeerId], Awaitable[bool]]) -> None:
        while True:
            peer = self._frontier.next()
            if peer is None:
                if not self._asking:
                    return
                await self._answered.wait()
                continue
            self._asking += 1
            try:
                if await visit(peer):
                    self._nursery.cancel_scope.cancel()
            finally:
                self._asking -= 1
                self._answered.set()
                self._answered = trio.Event()


def _ascii(key: str) -> bytes:
    """The library refuses keys that are not UTF-8; ours are ASCII."""
    try:
        return key.encode("ascii")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"a record key is ASCII, not {key!r}") from error
