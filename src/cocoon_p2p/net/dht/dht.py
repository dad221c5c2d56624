"""Kademlia under /cocoon/kad/1.0.0: values with validators, providers, and finding peers.

protocols/kad/1 says what travels and what is refused. The network is asked before the local copy; a peer that does not
answer is given up after DHT_RPC_TIMEOUT_S and a lookup after DHT_LOOKUP_TIMEOUT_S; there is work only when somebody asks,
when a peer joins, and every few minutes. Counters of what was dropped or refused:

    dht_rpc_failed              questions without an answer
    dht_record_invalid          records in answers that are not valid
    dht_record_stale            records brought to us, older than ours
    dht_record_no_room          records brought to us, farther from us than all those of a full store
    dht_provider_no_room        providers beyond the bound of their peer, subnet, or the store
    dht_provider_of_another     providers that another peer named
    dht_request_invalid         requests that are malformed, or records that are not valid
    dht_throttled               requests that waited because their peer sends too many
    dht_subnet_full             peers kept out of the routing table, because it has many of their subnet
    dht_evicted                 dead peers of the routing table that gave way
    dht_publish_retried         publications that nobody took, to be tried again
    dht_connections_closed      connections that lookups made and nobody needs any more
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Literal

import trio

from cocoon_p2p.errors import CocoonError, LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    DHT_BREADTH,
    DHT_BUCKET_STALE_S,
    DHT_CONNECTION_IDLE_S,
    DHT_EVICTION_AGE_S,
    DHT_FIND_TELLERS,
    DHT_PROVIDERS_MAX,
    DHT_QUORUM,
    DHT_REFRESH_FIRST_S,
    DHT_REFRESH_INTERVAL_S,
    DHT_RPC_TIMEOUT_S,
    DHT_SWEEP_INTERVAL_S,
)
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.dht.kademlia import position_of
from cocoon_p2p.net.dht.lookup import Lookup
from cocoon_p2p.net.dht.messages import KAD, provider_key, read_peers
from cocoon_p2p.net.dht.publishing import Publisher
from cocoon_p2p.net.dht.rpc import Rpc
from cocoon_p2p.net.dht.server import DhtServer, subnet_of
from cocoon_p2p.net.dht.table import Admission, RoutingTable
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.port import PeerAddresses, RecordValidator
from cocoon_p2p.net.supervisor import deadline, run_guarded
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Link, Switch

logger = logging.getLogger("cocoon_p2p.net")

_SETTLE_S = 1.0
"""Several new peers at once cause one round of bringing them what is theirs."""
_KAD_PEER_WAIT_S = 2.0
"""Right after the start: how long a lookup waits for the first peer that speaks Kademlia."""
_PREFIX_BITS_MAX = 12
"""Distant parts of the key space that are refreshed: a key in the twelfth takes some 4,000 hashes to find."""


class Dht:
    def __init__(
        self, switch: Switch, streams: Streams, validators: Mapping[str, RecordValidator], *, server: bool
    ) -> None:
        self._switch = switch
        self._streams = streams
        self._protocol = KAD
        self._table = RoutingTable(switch.peer_id)
        self._server = DhtServer(switch, self._table, dict(validators))
        self._rpc = Rpc(switch, streams, self._table, KAD)
        self._publisher = Publisher(switch, self._rpc, self._table, self._server, self._find)
        self.spares: list[Callable[[PeerId], bool]] = []
        """Who else may need a connection that a lookup made, e.g. the gossip's mesh."""
        self._grown = trio.Event()
        """Set, and replaced, when a peer enters the table."""
        self._wake = trio.Event()
        """There are newcomers, or something is due at another time than before."""
        self._newcomers: list[PeerId] = []
        self._refresh_at = float("inf")
        self._refresh_pause_s = DHT_REFRESH_FIRST_S
        self._sweep_at = trio.current_time() + DHT_SWEEP_INTERVAL_S
        self._evicting: set[PeerId] = set()
        self._neighbours: set[PeerId] = set()
        self._expecting_peers = False
        self._serves = False
        switch.on_link.append(self._admit)
        self.set_server(server)

    @property
    def mode(self) -> Literal["server", "client"]:
        return "server" if self._serves else "client"

    def set_server(self, serves: bool) -> None:
        """Answer others' questions, as a node must that they can dial, or only ask. Peers learn of it by identify, whose
        push is the caller's to start."""
        # SPEC kad/1 §3.3
        if serves and not self._serves:
            self._streams.set_internal(self._protocol, self._server.serve)
        elif self._serves and not serves:
            self._streams.remove_internal(self._protocol)
        self._serves = serves

    def expect_peers(self) -> None:
        """A bootstrap peer is being dialled: lookups may wait a moment for it."""
        self._expecting_peers = True

    async def maintain(self) -> None:
        """Bring newcomers what is theirs, republish, look for neighbours, and close what is idle. For ever."""
        while True:
            with trio.move_on_at(min(self._refresh_at, self._sweep_at, self._publisher.due_at)):
                await self._wake.wait()
            if self._newcomers:
                await trio.sleep(_SETTLE_S)
            self._wake = trio.Event()
            if not await run_guarded("dht_maintenance", self._work, self._switch.counters):
                await trio.sleep(_SETTLE_S)  # what was due still is

    async def put(self, key: str, value: bytes) -> None:
        """Raises LocalProtocolError for a record that our own validator refuses, TransportError when nobody took it."""
        _ascii(key)
        try:
            self._server.records.put(key, value, trio.current_time())
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this record is not valid: {error}") from error
        taken = await self._publisher.put(key, value)
        self._wake.set()
        if not taken:
            raise TransportError(f"nobody took the record {key}", outcome_known=True, code="NOBODY")

    async def get(self, key: str) -> bytes | None:
        records = self._server.records
        best: bytes | None = None
        best_sequence = valid_answers = 0

        def look(peer: PeerId, answer: Message) -> bool:
            nonlocal best, best_sequence, valid_answers
            if not answer.HasField("record") or not answer.record.value:
                return False
            try:
                same = best == answer.record.value
                sequence = best_sequence if same else records.sequence_of(key, answer.record.value)
            except RemoteProtocolError as error:
                self._switch.counters["dht_record_invalid"] += 1
                if error.code == "SIGNATURE":
                    self._switch.report(peer, "forged_record")
                logger.debug("record of %s: %s", peer, error)
                return False
            if best is None or sequence > best_sequence:
                best, best_sequence = answer.record.value, sequence
            valid_answers += 1
            return valid_answers >= DHT_QUORUM

        raw_key = _ascii(key)
        lookup = await self._prepare(raw_key)
        await lookup.run(Message(type=Message.GET_VALUE, key=raw_key), look)
        return records.better(key, best, records.get(key, trio.current_time()))

    async def provide(self, content_id: bytes) -> None:
        """Kept up until the end; raises TransportError when nobody took it."""
        self._server.providers.add(content_id, self._switch.peer_id, trio.current_time())
        taken = await self._publisher.provide(content_id)
        self._wake.set()
        if not taken:
            raise TransportError("nobody took the provider record", outcome_known=True, code="NOBODY")

    async def find_providers(self, content_id: bytes, count: int) -> tuple[PeerAddresses, ...]:
        found = dict.fromkeys(self._server.providers.get(content_id, trio.current_time()))
        key = provider_key(content_id)
        lookup = await self._prepare(key)

        def look(teller: PeerId, answer: Message) -> bool:
            found.update(dict.fromkeys(lookup.hear(teller, read_peers(answer.providerPeers, DHT_PROVIDERS_MAX))))
            return False  # every one of the k nearest is asked: their lists differ

        await lookup.run(Message(type=Message.GET_PROVIDERS, key=key), look)
        found.pop(self._switch.peer_id, None)
        return tuple(PeerAddresses(peer, self._addresses(lookup, peer)) for peer in list(found)[:count])

    async def find_addresses(self, peer: PeerId) -> list[Address]:
        """Where others say that a peer is; this is not put into the address book."""
        raw_key = peer_id_to_bytes(peer)
        lookup = await self._prepare(raw_key)
        request = Message(type=Message.FIND_NODE, key=raw_key)
        await lookup.run(request, lambda *_: lookup.hearsay.tellers(peer) >= DHT_FIND_TELLERS)
        return lookup.hearsay.get(peer)

    def described(self, link: Link) -> None:
        """A peer said what it speaks, or something new about it (`Identification.on_described`)."""
        # SPEC kad/1 §3.3
        peer = link.peer
        if KAD not in link.protocols:
            self._table.remove(peer)
            return
        if "/p2p-circuit" in link.connection.address:
            return  # who can be reached through a relay alone serves nobody
        match self._table.add(peer, trio.current_time(), subnet_of(self._switch, peer)):
            case Admission.ADDED:
                self._welcome(peer)
            case Admission.SUBNET_FULL:
                self._switch.counters["dht_subnet_full"] += 1

    # --- lookups -----------------------------------------------------------------------------------------------------

    async def _find(self, raw_key: bytes) -> Lookup:
        """Whoever is nearest. It is enough to have asked some of them: each knows the others."""
        lookup = await self._prepare(raw_key)
        await lookup.run(Message(type=Message.FIND_NODE, key=raw_key), breadth=DHT_BREADTH)
        return lookup

    async def _prepare(self, raw_key: bytes) -> Lookup:
        if not len(self._table) and self._expecting_peers:
            with trio.move_on_after(_KAD_PEER_WAIT_S):
                await self._grown.wait()
        target = position_of(raw_key)
        self._table.note_lookup(target, trio.current_time())
        connected = [link.peer for link in self._switch.links() if KAD in link.protocols]
        return Lookup(self._switch, self._rpc, target, [*self._table.nearest(target), *connected])

    def _addresses(self, lookup: Lookup, peer: PeerId) -> tuple[str, ...]:
        """What others say now, and then what we knew before."""
        return tuple(dict.fromkeys(map(str, [*lookup.hearsay.get(peer), *self._switch.book.get(peer)])))

    # --- the routing table -------------------------------------------------------------------------------------------

    async def _admit(self, link: Link) -> None:
        """Only peers that serve Kademlia enter the table: the library lets clients in, and lookups run into dead ends."""
        await link.identified.wait()
        if link.ended.is_set():  # a peer that dials us back to see whether it can does not stay to say what it speaks
            return
        self.described(link)
        if KAD in link.protocols and link.peer not in self._table:
            await self._make_room(link)

    def _welcome(self, peer: PeerId) -> None:
        if len(self._table) == 1:
            self._refresh_at = min(self._refresh_at, trio.current_time())
        self._newcomers.append(peer)
        self._grown.set()
        self._grown = trio.Event()
        self._wake.set()

    async def _make_room(self, newcomer: Link) -> None:
        """A bucket is full: whoever was heard from longest ago has to answer, or gives way. One question a bucket at a time,
        and none to those that were heard from just now, however many newcomers there are."""
        # SPEC kad/1 §6.1
        oldest, heard_at = self._table.oldest(newcomer.peer) or (None, 0.0)
        if oldest is None or oldest in self._evicting or trio.current_time() - heard_at < DHT_EVICTION_AGE_S:
            return
        self._evicting.add(oldest)
        try:
            with deadline(DHT_RPC_TIMEOUT_S, "kad"):
                key = peer_id_to_bytes(oldest)
                await self._rpc.ask(oldest, Message(type=Message.FIND_NODE, key=key))  # not all answer PING
        except CocoonError:
            self._table.remove(oldest)
            self._switch.counters["dht_evicted"] += 1
            self.described(newcomer)
        finally:
            self._evicting.discard(oldest)

    # --- maintenance -------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        now = trio.current_time()
        newcomers, self._newcomers = self._newcomers, []
        await self._publisher.welcome(newcomers)
        await self._publisher.republish(now)
        if now >= self._refresh_at:
            await self._refresh(now)
        if now >= self._sweep_at:
            self._sweep_at = now + DHT_SWEEP_INTERVAL_S
            await self._sweep(now)

    async def _refresh(self, now: float) -> None:
        """Look for ourselves, which finds our neighbours, and into one part of the key space where nobody looked lately."""
        # SPEC kad/1 §6.1
        self._refresh_at = now + self._refresh_pause_s * random.uniform(0.8, 1.0)
        self._refresh_pause_s = min(2 * self._refresh_pause_s, DHT_REFRESH_INTERVAL_S)
        await self._find(peer_id_to_bytes(self._switch.peer_id))
        bits = self._table.stale_prefix(now, DHT_BUCKET_STALE_S, _PREFIX_BITS_MAX)
        if bits is not None:
            await self._find(self._key_sharing(bits))

    def _key_sharing(self, bits: int) -> bytes:
        """A key whose position shares just so many leading bits with ours."""
        while True:
            key = secrets.token_bytes(32)
            if self._table.shared_bits(position_of(key)) == bits:
                return key

    async def _sweep(self, now: float) -> None:
        self._server.expire(now)
        self._rpc.close_idle(now)
        for link in self._switch.links():
            if link.identified.is_set() and KAD not in link.protocols:
                self._table.remove(link.peer)
        self._mark_neighbours()
        for peer, asked_at in list(self._rpc.made.items()):
            if now - asked_at < DHT_CONNECTION_IDLE_S or self._is_needed(peer):
                continue
            self._switch.counters["dht_connections_closed"] += 1
            await self._switch.disconnect(peer)

    def _mark_neighbours(self) -> None:
        """The switch keeps connections to our k nearest longer than others."""
        nearest = set(self._table.neighbours())
        for peer in nearest - self._neighbours:
            self._switch.protect(peer, "neighbour")
        for peer in self._neighbours - nearest:
            self._switch.unprotect(peer, "neighbour")
        self._neighbours = nearest

    def _is_needed(self, peer: PeerId) -> bool:
        """Whether a connection that a lookup made is worth keeping."""
        link = self._switch.link(peer)
        if link is None or not link.connection.is_outbound:
            return True  # not ours to close
        return (
            bool(link.application_streams)
            or bool(getattr(link, "tags", ()))
            or peer in self._neighbours
            or peer in self._publisher.homes()
            or any(spared(peer) for spared in self.spares)
        )


def _ascii(key: str) -> bytes:
    """The library refuses keys that are not UTF-8; ours are ASCII."""
    try:
        return key.encode("ascii")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"a record key is ASCII, not {key!r}") from error
